// Compares the journal with reality, part by part, as soon as the plugin that knows reality has registered.
import type { Logger } from 'pino'
import type { Info } from '../../proto/gen/containerd/services/content/v1/content.js'
import type { Blobs } from './effects/blobs.js'
import type { NetworkRecovery } from './effects/recovery/networks.js'
import type { TaskRecovery } from './effects/recovery/tasks.js'
import type { Snapshots } from './effects/snapshots.js'
import type { Store } from './state/store.js'

export interface Reconciled {
  tasks: TaskRecovery
  networks: NetworkRecovery
  snapshots: Snapshots
  blobs: Blobs
  /** The backend keys that a snapshotter holds. */
  listSnapshots(snapshotter: string): Promise<string[]>
  listBlobs(): AsyncIterable<Info>
}

export interface Reconciliation {
  /** Resolves when no comparison is under way. */
  settled(): Promise<void>
  stop(): void
}

/**
 * Begins to watch; each (re)registration of a plugin has its part looked at again. Registering is itself a fact, so
 * nothing is compared while the journal takes no writes: above all not with a damaged one, whose fold may lack what
 * the damage hides, and what it lacks would be taken for an orphan.
 */
export function reconcileOnReady(store: Store, parts: Reconciled, log: Logger): Reconciliation {
  const underWay = new Set<Promise<void>>()
  const compare = async (kind: string, id: string) => {
    const begun = performance.now()
    try {
      await partOf(parts, kind, id)
      log.info({ kind, id, ms: Math.round(performance.now() - begun) }, 'reconciled with the plugin')
    } catch (error) {
      log.error({ kind, id, err: error }, 'could not reconcile with the plugin; tried again when it registers again')
    }
  }
  const stop = store.subscribe(({ event }) => {
    if (event.type !== 'PluginReady') return
    const comparison = compare(event.kind, event.id).finally(() => underWay.delete(comparison))
    underWay.add(comparison)
  })
  return { stop, settled: async () => void (await Promise.all(underWay)) }
}

async function partOf(parts: Reconciled, kind: string, id: string): Promise<void> {
  switch (kind) {
    case 'runtime':
      return parts.tasks.run()
    case 'network':
      return parts.networks.run()
    case 'snapshotter':
      return parts.snapshots.reconcile(id, await parts.listSnapshots(id))
    case 'content':
      return reconcileBlobs(parts)
    default:
      return
  }
}

async function reconcileBlobs({ blobs, listBlobs }: Reconciled): Promise<void> {
  const listed: string[] = []
  for await (const { digest } of listBlobs()) listed.push(digest)
  void blobs.reconcile(listed) // an upload may take hours: nobody has to wait for what it keeps
}
