// What the plugins hold and the journal does not know. Recovery removes it, unless the journal has lost records: then it
// is shown to the operator, who may let it be removed.
import type { Store } from '../../state/store.js'
import type { Blobs } from '../blobs.js'
import type { Snapshots } from '../snapshots.js'
import type { NetworkRecovery } from './networks.js'
import type { SandboxRecovery } from './sandboxes.js'
import type { TaskRecovery } from './tasks.js'

/** Those who know what belongs to whom. */
export interface Holdings {
  tasks: Pick<TaskRecovery, 'orphans'>
  sandboxes: Pick<SandboxRecovery, 'orphans'>
  networks: Pick<NetworkRecovery, 'orphans'>
  snapshots: Pick<Snapshots, 'orphans'>
  blobs: Pick<Blobs, 'orphans'>
}

export interface Orphan {
  kind: string
  /** The plugin that has it. */
  plugin: string
  /** '' where namespaces share it. */
  namespace: string
  /** As the plugin calls it: a container, an attachment's container, a snapshot, a blob. */
  name: string
}

export interface Orphans {
  found: Orphan[]
  /** `kind/id` of plugins that are away: what they hold is not told. */
  unasked: string[]
}

/** Rejects when a plugin does not answer. */
export async function orphansOf(store: Store, parts: Holdings): Promise<Orphans> {
  const found: Orphan[] = []
  const unasked: string[] = []
  for (const [name, { state }] of store.world.plugins) {
    const [kind = '', plugin = ''] = name.split('/')
    if (!holders.has(kind)) continue
    if (state !== 'ready') unasked.push(name)
    else for (const place of await orphansAt(parts, kind, plugin)) found.push({ kind, plugin, ...place })
  }
  return { found, unasked }
}

/** Kinds of plugins that hold what may be an orphan. */
const holders = new Set(['runtime', 'network', 'snapshotter', 'content'])

async function orphansAt(parts: Holdings, kind: string, plugin: string): Promise<Omit<Orphan, 'kind' | 'plugin'>[]> {
  const shared = (names: string[]) => names.map(name => ({ namespace: '', name }))
  switch (kind) {
    case 'runtime':
      return [...(await parts.tasks.orphans()), ...(await parts.sandboxes.orphans())].map(({ namespace, id }) => ({
        ...{ namespace, name: id },
      }))
    case 'network':
      return (await parts.networks.orphans()).map(({ namespace, id }) => ({ namespace, name: id }))
    case 'snapshotter':
      return shared(await parts.snapshots.orphans(plugin))
    default:
      return shared(await parts.blobs.orphans())
  }
}
