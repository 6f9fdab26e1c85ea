// Which process manager answers which intent.
import { Lanes } from '../../../plugins/kit/lanes.js'
import type { Intent, Perform } from '../runner.js'
import type { Blobs } from './blobs.js'
import type { Checkpoints } from './checkpoints.js'
import type { Execs } from './execs.js'
import type { Networks } from './networks.js'
import type { Sandboxes } from './sandboxes.js'
import type { Snapshots } from './snapshots.js'
import type { Tasks } from './tasks.js'

export interface Managers {
  tasks: Tasks
  checkpoints: Checkpoints
  execs: Execs
  networks: Networks
  sandboxes: Sandboxes
  snapshots: Snapshots
  blobs: Blobs
}

/** Counts what is under way by container, so that recovery leaves alone what is being worked on. */
export class Busy {
  private readonly counts = new Map<string, number>()

  has(namespace: string, containerId: string): boolean {
    return this.counts.has(`${namespace}/${containerId}`)
  }

  async during<T>(namespace: string, containerId: string, work: () => Promise<T>): Promise<T> {
    const key = `${namespace}/${containerId}`
    this.counts.set(key, (this.counts.get(key) ?? 0) + 1)
    try {
      return await work()
    } finally {
      const left = (this.counts.get(key) ?? 1) - 1
      if (left > 0) this.counts.set(key, left)
      else this.counts.delete(key)
    }
  }
}

/** Beside the ids of containers, which have no slash. */
export const sandboxKey = (id: string): string => `sandbox/${id}`

/** What recovery is working on, by container: nothing is begun there meanwhile that it could take for a leftover. */
export class Recovering {
  private readonly lanes = new Lanes()

  during<T>(namespace: string, containerId: string, work: () => Promise<T>): Promise<T> {
    return this.lanes.run(`${namespace}/${containerId}`, work)
  }

  /** Resolves when recovery leaves the container alone. */
  over(namespace: string, containerId: string): Promise<void> {
    return this.during(namespace, containerId, async () => {})
  }
}

export function performer(managers: Managers, busy: Busy, recovering: Recovering): Perform {
  return intent => {
    const work = workFor(managers, intent)
    if (!work) return undefined
    const { namespace, event } = intent
    if ('sandboxId' in event) {
      const key = sandboxKey(event.sandboxId)
      return busy.during(namespace, key, async () => {
        if (event.type === 'SandboxCreateRequested') await recovering.over(namespace, key)
        return work()
      })
    }
    if (!('containerId' in event)) return work()
    return busy.during(namespace, event.containerId, async () => {
      if (event.type === 'TaskCreateRequested') await recovering.over(namespace, event.containerId)
      return work()
    })
  }
}

function workFor(managers: Managers, intent: Intent) {
  const { tasks, checkpoints, execs, networks, sandboxes, snapshots, blobs } = managers
  const { event } = intent
  switch (event.type) {
    case 'TaskCreateRequested':
      return () => tasks.create(intent, event)
    case 'TaskStartRequested':
      return () => tasks.start(intent, event)
    case 'TaskSignalled':
      return () => tasks.signal(intent, event)
    case 'TaskPauseRequested':
      return () => tasks.pause(intent, event)
    case 'TaskResumeRequested':
      return () => tasks.resume(intent, event)
    case 'TaskCheckpointRequested':
      return () => checkpoints.take(intent, event)
    case 'TaskDeleteRequested':
      return () => tasks.delete(intent, event)
    case 'ExecRequested':
      return () => execs.add(intent, event)
    case 'ExecStartRequested':
      return () => execs.start(intent, event)
    case 'ExecSignalled':
      return () => execs.signal(intent, event)
    case 'ExecDeleteRequested':
      return () => execs.delete(intent, event)
    case 'NetworkAttachRequested':
      return () => networks.attach(intent, event)
    case 'NetworkDetachRequested':
      return () => networks.detach(intent, event)
    case 'SandboxCreateRequested':
      return () => sandboxes.create(intent, event)
    case 'SandboxStartRequested':
      return () => sandboxes.start(intent, event)
    case 'SandboxStopRequested':
      return () => sandboxes.stop(intent, event)
    case 'SandboxShutdownRequested':
      return () => sandboxes.shutdown(intent, event)
    case 'SnapshotCommitRequested':
      return () => snapshots.commit(intent, event)
    case 'SnapshotRemoved':
      return async () => snapshots.removed(intent, event)
    case 'ContentDeleted':
      return async () => blobs.deleted(event)
    default:
      return undefined
  }
}
