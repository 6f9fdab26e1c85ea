// What differs between snapshotters: how a snapshot's tree is stored, and how it is mounted.
import type { Mount } from '../../proto/gen/containerd/types/mount.js'

/** A snapshot's own directory, and those of its ancestors, the nearest first. */
export interface TreePlace {
  directory: string
  ancestors: readonly string[]
}

export interface TreeStorage {
  /** May a parent be chosen at commit only, for layers that were unpacked side by side? */
  readonly canRebase: boolean
  /** Fills the new, empty directory. Aborting stops a long copy. The caller makes names durable, this the bytes. */
  create(place: TreePlace, kind: 'active' | 'view', signal: AbortSignal): Promise<void>
  /** Always the same for a snapshot: clients ask again and compare. */
  mounts(place: TreePlace, kind: 'active' | 'view'): Mount[]
}

/** The part of a snapshot's directory that holds its files. */
export const files = (directory: string) => `${directory}/fs`

export function bind(source: string, access: 'rw' | 'ro'): Mount {
  return { type: 'bind', source, target: '', options: [access, 'rbind'] }
}
