// The facts about a snapshot: a layer of a root filesystem, as one namespace sees it.
import type { Labels, Mount } from '../values.js'

interface OfSnapshot {
  snapshotter: string
  key: string
}

export interface SnapshotPrepared extends OfSnapshot {
  type: 'SnapshotPrepared'
  kind: 'active' | 'view'
  /** The name of a committed snapshot, '' for none. */
  parent: string
  labels: Labels
  /** The name by which the plugin knows it. */
  backendKey: string
  mounts: readonly Mount[]
}
/** The active snapshot `key` is now the committed `name`. */
export interface SnapshotCommitted extends OfSnapshot {
  type: 'SnapshotCommitted'
  name: string
  labels: Labels
  backendKey: string
  /** Bytes and inodes that it holds by itself, decimal. */
  usage: { size: string; inodes: string }
}
/** `labels` are all that it has now. */
export interface SnapshotUpdated extends OfSnapshot {
  type: 'SnapshotUpdated'
  labels: Labels
}
/** It is gone for clients; the plugin removes its files afterwards. */
export interface SnapshotRemoved extends OfSnapshot {
  type: 'SnapshotRemoved'
  backendKey: string
}

export type SnapshotEvent = SnapshotPrepared | SnapshotCommitted | SnapshotUpdated | SnapshotRemoved

/** A snapshot as the fold keeps it. */
export interface SnapshotRecord {
  kind: 'active' | 'view' | 'committed'
  parent: string
  labels: Labels
  backendKey: string
  mounts: readonly Mount[]
  usage: { size: string; inodes: string } | null
}
