// Decides what may happen to a snapshot.
import { accept, type Decision, type Refusal, refuse } from '../decision.js'
import { snapshotStream } from '../streams.js'
import type { Labels, Mount } from '../values.js'
import type { SnapshotRecord } from './events.js'

/** Where a snapshot is named: keys of different snapshotters and namespaces never meet. */
export interface SnapshotPlace {
  namespace: string
  snapshotter: string
  key: string
}

/**
 * May this key be prepared on this parent? Asked before the plugin is, and again with what the plugin made it on: by then
 * the parent may be gone, and another have its name.
 */
export function mayPrepare(
  current: SnapshotRecord | undefined,
  parent: { name: string; record: SnapshotRecord | undefined; madeOn?: string },
  key: string,
): Refusal | undefined {
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

/** Asked before the plugin is: may `key` be committed as `name`? */
export function mayCommit(
  current: SnapshotRecord | undefined,
  existing: SnapshotRecord | undefined,
  key: string,
  name: string,
): Refusal | undefined {
  if (existing) return refuse('already-exists', `snapshot "${name}"`)
  if (!current) return refuse('not-found', `snapshot "${key}"`)
  if (current.kind !== 'active')
    return refuse('failed-precondition', `snapshot "${key}" is ${current.kind}, not active`)
  return undefined
}

export function committed(
  place: SnapshotPlace,
  commit: { name: string; labels: Labels; backendKey: string; usage: { size: string; inodes: string } },
): Decision {
  const { namespace, snapshotter, key } = place
  const event = { type: 'SnapshotCommitted', snapshotter, key, ...commit } as const
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
