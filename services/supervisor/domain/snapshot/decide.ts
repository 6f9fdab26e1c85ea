// Decides what may happen to a snapshot.
import { accept, type Decision, type Refusal, refuse } from '../decision.js'
import { snapshotStream } from '../streams.js'
import type { Labels, Mount } from '../values.js'
import type { OpenCommit, SnapshotRecord } from './events.js'

/** Where a snapshot is named: keys of different snapshotters and namespaces never meet. */
export interface SnapshotPlace {
  namespace: string
  snapshotter: string
  key: string
}

/**
 * May this key be prepared on this parent? Asked before the plugin is, and again with what the plugin made it on: by then
 * the parent may be gone, and another have its name. `open` is a commit of the key, or to it.
 */
export function mayPrepare(
  current: SnapshotRecord | undefined,
  open: OpenCommit | undefined,
  parent: { name: string; record: SnapshotRecord | undefined; madeOn?: string },
  key: string,
): Refusal | undefined {
  if (open) return beingCommitted(open)
  if (current) return refuse('already-exists', `snapshot "${key}"`)
  if (parent.name === '') return undefined
  if (!parent.record || (parent.madeOn ?? parent.record.backendKey) !== parent.record.backendKey)
    return refuse('not-found', `parent snapshot "${parent.name}"`)
  if (parent.record.kind !== 'committed') {
    return refuse('invalid-argument', `parent "${parent.name}" is not committed`)
  }
  return undefined
}

export function prepared(
  place: SnapshotPlace,
  snapshot: { kind: 'active' | 'view'; parent: string; labels: Labels; backendKey: string; mounts: Mount[] },
): Decision {
  const { namespace, snapshotter, key } = place
  const event = { type: 'SnapshotPrepared', snapshotter, key, ...snapshot } as const
  return accept({ namespace, stream: snapshotStream(namespace, snapshotter, key), event })
}

/** `key` is to be committed as `name`. `open` is a commit of either, or to either. */
export function requestCommit(
  { namespace, snapshotter, key }: SnapshotPlace,
  {
    current,
    existing,
    open,
  }: { current: SnapshotRecord | undefined; existing: SnapshotRecord | undefined; open: OpenCommit | undefined },
  commit: { name: string; labels: Labels; lease: string | null },
): Decision {
  if (open) return beingCommitted(open)
  if (existing) return refuse('already-exists', `snapshot "${commit.name}"`)
  if (!current) return refuse('not-found', `snapshot "${key}"`)
  if (current.kind !== 'active')
    return refuse('failed-precondition', `snapshot "${key}" is ${current.kind}, not active`)
  const event = { type: 'SnapshotCommitRequested', snapshotter, key, ...commit } as const
  return accept({ namespace, stream: snapshotStream(namespace, snapshotter, key), event })
}

export function commitFailed(
  { namespace, snapshotter, key }: SnapshotPlace,
  open: OpenCommit | undefined,
  reason: string,
): Decision {
  if (open?.key !== key) return refuse('not-found', `commit of snapshot "${key}"`)
  const event = { type: 'SnapshotCommitFailed', snapshotter, key, name: open.name, reason } as const
  return accept({ namespace, stream: snapshotStream(namespace, snapshotter, key), event })
}

function beingCommitted({ key, name }: OpenCommit): Refusal {
  return refuse('failed-precondition', `snapshot "${key}" is being committed as "${name}"`)
}

/** The plugin has committed it; it may have been removed meanwhile. */
export function committed(
  { namespace, snapshotter, key }: SnapshotPlace,
  current: SnapshotRecord | undefined,
  open: OpenCommit | undefined,
  layer: { backendKey: string; usage: { size: string; inodes: string } },
): Decision {
  if (!current || open?.key !== key) return refuse('not-found', `snapshot "${key}"`)
  // Its labels are those of the commit, as in containerd: what held the active one would hold the committed for ever.
  const { name, labels } = open
  const all = { name, labels, ...layer }
  const event = { type: 'SnapshotCommitted', snapshotter, key, ...all } as const
  // The fact ends the key's lifecycle and begins the name's, both in one record.
  return accept({ namespace, stream: snapshotStream(namespace, snapshotter, key), event, ends: true })
}

export function updateSnapshot(place: SnapshotPlace, current: SnapshotRecord | undefined, labels: Labels): Decision {
  const { namespace, snapshotter, key } = place
  if (!current) return refuse('not-found', `snapshot "${key}"`)
  const event = { type: 'SnapshotUpdated', snapshotter, key, labels } as const
  return accept({ namespace, stream: snapshotStream(namespace, snapshotter, key), event })
}

export function removeSnapshot(place: SnapshotPlace, current: SnapshotRecord | undefined, children: number): Decision {
  const { namespace, snapshotter, key } = place
  if (!current) return refuse('not-found', `snapshot "${key}"`)
  if (children > 0)
    return refuse('failed-precondition', `cannot remove snapshot "${key}": ${children} snapshot(s) stand on it`)
  const event = { type: 'SnapshotRemoved', snapshotter, key, backendKey: current.backendKey } as const
  return accept({ namespace, stream: snapshotStream(namespace, snapshotter, key), event, ends: true })
}
