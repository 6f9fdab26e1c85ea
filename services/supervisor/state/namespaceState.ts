// What one namespace holds, as the fold keeps it.
import type { Container } from '../domain/container/decide.js'
import { containerMachine } from '../domain/container/machine.js'
import type { Exec } from '../domain/exec/decide.js'
import { execMachine } from '../domain/exec/machine.js'
import type { ImageRecord } from '../domain/image/events.js'
import type { LeaseView } from '../domain/lease/decide.js'
import type { Attachment } from '../domain/network/decide.js'
import { networkMachine } from '../domain/network/machine.js'
import type { Restart } from '../domain/restart/decide.js'
import { restartMachine } from '../domain/restart/machine.js'
import type { Sandbox } from '../domain/sandbox/decide.js'
import type { SandboxRecord } from '../domain/sandbox/events.js'
import { sandboxMachine } from '../domain/sandbox/machine.js'
import type { OpenCommit, SnapshotRecord } from '../domain/snapshot/events.js'
import type { Task } from '../domain/task/decide.js'
import { taskMachine } from '../domain/task/machine.js'
import type { Labels, Timestamp } from '../domain/values.js'

export interface Times {
  createdAt: Timestamp
  updatedAt: Timestamp
}
export interface StoredImage extends Times {
  record: ImageRecord
}
export interface StoredBlob extends Times {
  /** Bytes, decimal. */
  size: string
  labels: Labels
}
export interface StoredSnapshot extends Times, SnapshotRecord {}
export interface StoredContainer extends Times {
  lifecycle: Container
}
export interface StoredSandbox extends Times {
  record: SandboxRecord
}
export interface StoredLease {
  createdAt: Timestamp
  labels: Labels
  /** By type, then id. */
  resources: Map<string, Set<string>>
}

/** All that one namespace holds. */
export class NamespaceState {
  labels: Labels = {}
  readonly images = new Map<string, StoredImage>()
  readonly blobs = new Map<string, StoredBlob>()
  /** By snapshotter, then key. */
  readonly snapshots = new Map<string, Map<string, StoredSnapshot>>()
  /** Those that are not answered, by `snapshotter/key`. */
  readonly commits = new Map<string, OpenCommit>()
  readonly leases = new Map<string, StoredLease>()
  readonly containers = new Map<string, StoredContainer>()
  /** Their records; the lives that controllers give them are another matter. */
  readonly sandboxes = new Map<string, StoredSandbox>()
  readonly sandboxLives = new Map<string, Sandbox>()
  readonly tasks = new Map<string, Task>()
  /** By container, then exec id. */
  readonly execs = new Map<string, Map<string, Exec>>()
  readonly networks = new Map<string, Attachment>()
  /** By container. */
  readonly restarts = new Map<string, Restart>()

  snapshot(snapshotter: string, key: string): StoredSnapshot | undefined {
    return this.snapshots.get(snapshotter)?.get(key)
  }

  /** The open commit of this snapshot, or to this name. */
  commitAbout(snapshotter: string, key: string): OpenCommit | undefined {
    const ofKey = this.commits.get(`${snapshotter}/${key}`)
    if (ofKey || this.commits.size === 0) return ofKey
    return [...this.commits.values()].find(commit => commit.snapshotter === snapshotter && commit.name === key)
  }

  /** How many snapshots stand on this one. */
  children(snapshotter: string, key: string): number {
    let count = 0
    for (const snapshot of this.snapshots.get(snapshotter)?.values() ?? []) if (snapshot.parent === key) count++
    return count
  }

  container(id: string): Container {
    return this.containers.get(id)?.lifecycle ?? containerMachine.absent
  }

  task(id: string): Task {
    return this.tasks.get(id) ?? taskMachine.absent
  }

  exec(id: string, execId: string): Exec {
    return this.execs.get(id)?.get(execId) ?? execMachine.absent
  }

  execsOf(id: string): ReadonlyMap<string, Exec> {
    return this.execs.get(id) ?? noExecs
  }

  network(id: string): Attachment {
    return this.networks.get(id) ?? networkMachine.absent
  }

  sandbox(id: string): Sandbox {
    return this.sandboxLives.get(id) ?? sandboxMachine.absent
  }

  restart(id: string): Restart {
    return this.restarts.get(id) ?? restartMachine.absent
  }

  lease(id: string): LeaseView | undefined {
    const lease = this.leases.get(id)
    return lease && { labels: lease.labels, has: ({ type, id }) => lease.resources.get(type)?.has(id) ?? false }
  }

  /** What keeps the namespace from being deleted, in containerd's words. */
  contents(): string[] {
    const kinds: [string, { size: number }][] = [
      ['images', this.images],
      ['blobs', this.blobs],
      ['containers', this.containers],
      ['sandboxes', { size: this.sandboxes.size + this.sandboxLives.size }],
      ...[...this.snapshots].map(([name, keys]): [string, { size: number }] => [
        `snapshots on "${name}" snapshotter`,
        keys,
      ]),
    ]
    return kinds.filter(([, { size }]) => size > 0).map(([kind]) => kind)
  }
}

const noExecs: ReadonlyMap<string, Exec> = new Map()
