// The content store and the differ: containerd's Content and Diff services over one directory of blobs.
import { DiffService } from '../../proto/gen/containerd/services/diff/v1/diff.js'
import type { OpenPlugin, PluginContext, PluginDefinition } from '../kit/plugin.js'
import { LayerWorkers } from './differ/pool.js'
import { diffService } from './differ/service.js'
import { Trees } from './differ/trees.js'
import { readDifferSettings, readStoreSettings } from './settings.js'
import { Blobs } from './store/blobs.js'
import { Ingests } from './store/ingests.js'
import { contentService } from './store/service.js'
import { contentDefinition } from './store/wire.js'

export const definitions: PluginDefinition[] = [
  { kind: 'content', id: 'local', version: '1', capabilities: ['exclusive'], open: openContent },
  { kind: 'differ', id: 'walking', version: '1', capabilities: [], open: openDiffer },
]

async function openContent({ config, log }: PluginContext): Promise<OpenPlugin> {
  const { root, blobBytesMax } = readStoreSettings(config)
  const blobs = new Blobs(root)
  const ingests = new Ingests(root, blobs, blobBytesMax, log)
  await blobs.open()
  await ingests.open()
  await ingests.sweep()
  return {
    services: [{ definition: contentDefinition, implementation: contentService(blobs, ingests) }],
    exports: { root },
    close: async () => {},
  }
}

/** May run apart from the content plugin: what both do to an ingest is guarded by a lock on its file. */
async function openDiffer({ config, log }: PluginContext): Promise<OpenPlugin> {
  const { root, state, blobBytesMax, ...settings } = readDifferSettings(config)
  const blobs = new Blobs(root)
  const ingests = new Ingests(root, blobs, blobBytesMax, log)
  const trees = new Trees(state)
  await blobs.open()
  await ingests.open()
  trees.open()
  const workers = new LayerWorkers()
  const parts = { ...settings, blobs, ingests, trees, workers, log }
  return {
    services: [{ definition: DiffService, implementation: diffService(parts) }],
    close: () => workers.close(),
  }
}
