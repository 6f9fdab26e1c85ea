// The rules of snapshots: who may be whose parent, what may be committed and removed. As containerd's snapshotters.

import type { Logger } from 'pino'
import type { Mount } from '../../proto/gen/containerd/types/mount.js'
import { alreadyExists, failedPrecondition, invalidArgument, notFound, unimplemented } from '../kit/errors.js'
import { failpoint } from '../kit/failpoint.js'
import { Lanes } from '../kit/lanes.js'
import type { Snapshot, Usage } from './snapshot.js'
import type { SnapshotStore } from './store.js'
import { files, type TreePlace, type TreeStorage } from './tree.js'
import { measure } from './usage.js'

type Labels = Readonly<Record<string, string>>

interface Entry {
  snapshot: Snapshot
  /** Snapshots that have it as parent, those in the making included. */
  children: number
}

export interface SnapshotsOptions {
  store: SnapshotStore
  found: readonly Snapshot[]
  trees: TreeStorage
  log: Logger
  /** Aborts copies and measurements. */
  stop: AbortSignal
}

/** Each change of the table happens in one step, after its disk work; work on one name waits for its turn. */
export class Snapshots {
  readonly #store: SnapshotStore
  readonly #trees: TreeStorage
  readonly #stop: AbortSignal
  readonly #entries = new Map<string, Entry>()
  readonly #lanes = new Lanes()

  constructor({ store, found, trees, log, stop }: SnapshotsOptions) {
    this.#store = store
    this.#trees = trees
    this.#stop = stop
    for (const snapshot of found) this.#entries.set(snapshot.name, { snapshot, children: 0 })
    for (const { name, parent } of found) {
      if (parent === '') continue
      const entry = this.#entries.get(parent)
      if (entry) entry.children++
      else log.error({ snapshot: name, parent }, 'the parent of a snapshot is missing: it can only be removed')
    }
  }

  /** A writable snapshot upon a committed parent, or an empty one. */
  prepare(key: string, parent: string, labels: Labels): Promise<Mount[]> {
    return this.#create('active', key, parent, labels)
  }

  /** The same, read-only. */
  view(key: string, parent: string, labels: Labels): Promise<Mount[]> {
    return this.#create('view', key, parent, labels)
  }

  /** The mounts of an active snapshot or a view, the same as when it was made. */
  mounts(key: string): Mount[] {
    const { snapshot } = this.#get(key)
    if (snapshot.kind === 'committed') throw failedPrecondition(`snapshot ${key} is not active or view`)
    return this.#trees.mounts(this.#place(snapshot), snapshot.kind)
  }

  /** Makes a layer of an active snapshot. `parent` may be given only now, if it had none and the storage allows it. */
  commit(name: string, key: string, labels: Labels, parent: string): Promise<void> {
    requireName(name)
    return this.#lanes.run([name, key], async () => {
      if (this.#entries.has(name)) throw alreadyExists(`committed snapshot ${name}`)
      const entry = this.#get(key)
      if (entry.snapshot.kind !== 'active') throw failedPrecondition(`snapshot ${key} is not active`)
      const rebase = this.#rebase(entry.snapshot, parent)
      if (rebase) rebase.children++ // from now on it cannot be removed
      try {
        const { id } = entry.snapshot
        const [usage] = await Promise.all([
          measure(files(this.#store.directory(id)), this.#stop),
          this.#store.syncContents(id),
        ])
        const now = nanoseconds()
        const committed: Snapshot = {
          id,
          name,
          kind: 'committed',
          parent: rebase?.snapshot.name ?? entry.snapshot.parent,
          labels: withoutEmpty(labels),
          createdAt: now,
          updatedAt: now,
          usage,
        }
        await this.#store.change(committed)
        this.#entries.delete(key)
        this.#entries.set(name, { snapshot: committed, children: 0 })
      } catch (error) {
        if (rebase) rebase.children--
        throw error
      }
    })
  }

  remove(key: string): Promise<void> {
    return this.#lanes.run([key], async () => {
      const { snapshot, children } = this.#get(key)
      if (children > 0) throw failedPrecondition('cannot remove snapshot with child')
      const durable = this.#store.remove(snapshot.id)
      this.#entries.delete(key)
      const parent = this.#entries.get(snapshot.parent)
      if (parent) parent.children--
      await durable
      failpoint('snapshot.removed')
    })
  }

  stat(key: string): Snapshot {
    return this.#get(key).snapshot
  }

  /** `paths` as in a field mask: `labels`, `labels.<key>`; none replaces all labels. */
  update(key: string, labels: Labels, paths: readonly string[]): Promise<Snapshot> {
    return this.#lanes.run([key], async () => {
      const entry = this.#get(key)
      const changed: Snapshot = {
        ...entry.snapshot,
        labels: withoutEmpty(masked(key, entry.snapshot.labels, labels, paths)),
        updatedAt: nanoseconds(),
      }
      await this.#store.change(changed)
      entry.snapshot = changed
      return changed
    })
  }

  list(): Snapshot[] {
    return [...this.#entries.values()].map(({ snapshot }) => snapshot)
  }

  /** Of an active one measured now; a view holds nothing of its own. */
  async usage(key: string): Promise<Usage> {
    const { snapshot } = this.#get(key)
    if (snapshot.kind === 'active') return measure(files(this.#store.directory(snapshot.id)), this.#stop)
    return snapshot.usage ?? { bytes: 0n, inodes: 0n }
  }

  /** Resolves when all that was removed by now is off the disk. */
  cleanup(): Promise<void> {
    return this.#store.trash.empty()
  }

  #create(kind: 'active' | 'view', key: string, parentName: string, labels: Labels): Promise<Mount[]> {
    requireName(key)
    return this.#lanes.run([key], async () => {
      const parent = parentName === '' ? undefined : this.#parent(parentName)
      if (this.#entries.has(key)) throw alreadyExists(`snapshot ${key}`)
      const ancestors = parent ? this.#lineage(parent.snapshot) : []
      if (parent) parent.children++ // from now on it cannot be removed
      try {
        const now = nanoseconds()
        const snapshot = await this.#store.create(
          id => ({
            id,
            name: key,
            kind,
            parent: parentName,
            labels: withoutEmpty(labels),
            createdAt: now,
            updatedAt: now,
            usage: undefined,
          }),
          directory => this.#trees.create({ directory, ancestors }, kind, this.#stop),
        )
        this.#entries.set(key, { snapshot, children: 0 })
        return this.#trees.mounts({ directory: this.#store.directory(snapshot.id), ancestors }, kind)
      } catch (error) {
        if (parent) parent.children--
        throw error
      }
    })
  }

  #get(key: string): Entry {
    const entry = this.#entries.get(key)
    if (!entry) throw notFound(`snapshot ${key}`)
    return entry
  }

  #parent(name: string): Entry {
    const entry = this.#entries.get(name)
    if (!entry) throw notFound(`parent snapshot ${name}`)
    if (entry.snapshot.kind !== 'committed') throw invalidArgument(`parent "${name}" is not committed snapshot`)
    return entry
  }

  /** The new parent, undefined when it stays what it is. */
  #rebase({ name, parent: present }: Snapshot, parent: string): Entry | undefined {
    if (parent === '' || parent === present) return undefined
    if (present !== '') throw invalidArgument(`cannot change parent of active snapshot "${name}" on commit`)
    if (!this.#trees.canRebase)
      throw unimplemented('this snapshotter copies trees: a parent has to be named by Prepare')
    const entry = this.#entries.get(parent)
    if (!entry) throw notFound(`parent snapshot ${parent}`)
    if (entry.snapshot.kind !== 'committed') throw failedPrecondition(`parent "${parent}" is not committed`)
    return entry
  }

  #place(snapshot: Snapshot): TreePlace {
    const parent = snapshot.parent === '' ? undefined : this.#entries.get(snapshot.parent)
    if (snapshot.parent !== '' && !parent)
      throw failedPrecondition(`the parent ${snapshot.parent} of snapshot ${snapshot.name} is missing`)
    return {
      directory: this.#store.directory(snapshot.id),
      ancestors: parent ? this.#lineage(parent.snapshot) : [],
    }
  }

  /** Directories from this one to the first ancestor. */
  #lineage(snapshot: Snapshot): string[] {
    const lineage: string[] = []
    let next: Snapshot | undefined = snapshot
    while (next) {
      lineage.push(this.#store.directory(next.id))
      if (lineage.length > this.#entries.size) throw failedPrecondition(`the parents of ${snapshot.name} form a circle`)
      if (next.parent === '') return lineage
      const parent: Entry | undefined = this.#entries.get(next.parent)
      if (!parent) throw failedPrecondition(`the parent ${next.parent} of snapshot ${next.name} is missing`)
      next = parent.snapshot
    }
    return lineage
  }
}

function requireName(name: string): void {
  if (name === '') throw invalidArgument('a snapshot needs a key')
}

function masked(key: string, present: Labels, given: Labels, paths: readonly string[]): Labels {
  if (paths.length === 0) return given
  let labels = present
  for (const path of paths) {
    if (path === 'labels') labels = given
    else if (path.startsWith('labels.')) {
      const name = path.slice('labels.'.length)
      labels = { ...labels, [name]: given[name] ?? '' }
    } else throw invalidArgument(`cannot update "${path}" field on snapshot "${key}"`)
  }
  return labels
}

/** A label without a value is none, as in containerd (metadata/boltutil). */
function withoutEmpty(labels: Labels): Labels {
  return Object.fromEntries(Object.entries(labels).filter(([, value]) => value !== ''))
}

function nanoseconds(): bigint {
  return BigInt(Date.now()) * 1_000_000n
}
