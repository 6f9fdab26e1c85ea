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
/** The plugin is about to make a layer of it: until the answer nobody knows whether it still is an active snapshot. */
export interface SnapshotCommitRequested extends OfSnapshot {
  type: 'SnapshotCommitRequested'
  name: string
  /** Added to those that it has. */
  labels: Labels
  /** The lease that the layer is added to, if it is still there then. */
  lease: string | null
}
/** It is active as before. */
export interface SnapshotCommitFailed extends OfSnapshot {
  type: 'SnapshotCommitFailed'
  name: string
  reason: string
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

export type SnapshotEvent =
  | SnapshotPrepared
  | SnapshotCommitRequested
  | SnapshotCommitFailed
  | SnapshotCommitted
  | SnapshotUpdated
  | SnapshotRemoved

/** A commit that was asked for and is not answered. */
export type OpenCommit = Readonly<Omit<SnapshotCommitRequested, 'type'>>

/** A snapshot as the fold keeps it. */
export interface SnapshotRecord {
  kind: 'active' | 'view' | 'committed'
  parent: string
  labels: Labels
  backendKey: string
  mounts: readonly Mount[]
  usage: { size: string; inodes: string } | null
}
