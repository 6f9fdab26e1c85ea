// The socket where clients connect: every service of the API behind one listener.
import { Server } from '@grpc/grpc-js'
import type { Logger } from 'pino'
import { failedPrecondition } from '../../../plugins/kit/errors.js'
import { listen } from '../../../plugins/kit/listen.js'
import { messageLimits, raw } from '../../../plugins/kit/serve.js'
import { ContentService } from '../../../proto/gen/containerd/services/content/v1/content.js'
import { DiffService } from '../../../proto/gen/containerd/services/diff/v1/diff.js'
import { SnapshotsService } from '../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import { TasksService } from '../../../proto/gen/containerd/services/tasks/v1/tasks.js'
import type { Clock } from '../clock.js'
import type { Blobs } from '../effects/blobs.js'
import type { Snapshots } from '../effects/snapshots.js'
import type { Feed } from '../feed/feed.js'
import type { Journal } from '../journal/journal.js'
import type { PluginCalls } from '../pluginCalls.js'
import type { PluginDirectory } from '../plugins/directory.js'
import type { Runner } from '../runner.js'
import type { HeavyParts } from '../state/heavy.js'
import type { Store } from '../state/store.js'
import { revision, version } from '../version.js'
import { BlobFiles } from './blobFiles.js'
import { contentService } from './content.js'
import { contentWrite } from './contentWrite.js'
import { diffService } from './diff.js'
import type { ObserveCall } from './observe.js'
import { addServices, type Service } from './services.js'
import { snapshotsService } from './snapshots.js'
import { tasksService } from './tasks.js'

export interface ApiDeps {
  address: string
  runner: Runner
  store: Store
  journal: Journal
  feed: Feed
  heavy: HeavyParts
  clock: Clock
  calls: PluginCalls
  snapshots: Snapshots
  blobs: Blobs
  directory: PluginDirectory
  observe: ObserveCall
  log: Logger
}

export interface Api {
  /** Subscribers are told to come back; calls under way get a moment to finish. */
  close(): Promise<void>
}

const graceMs = 5_000

/** Rejects with SocketInUse when another process serves the address. */
export async function openApi(deps: ApiDeps): Promise<Api> {
  const stopping = new AbortController()
  const server = new Server({ ...messageLimits, 'grpc.enable_channelz': 0 })
  const common = {
    ...deps,
    plugins: deps.directory,
    version,
    revision,
    stopping: stopping.signal,
    serving: () => !stopping.signal.aborted,
  }
  addServices(server, common, pluginServices(deps))
  const listener = await listen(server, deps.address, { mode: 0o660, admit: () => true })
  return {
    async close() {
      stopping.abort()
      await listener.close(graceMs)
    },
  }
}

/** The services behind which plugins work. */
function pluginServices({ runner, store, clock, calls, snapshots, blobs, directory }: ApiDeps): Service[] {
  const files = new BlobFiles(() => contentRoot(directory))
  const content = contentService({ runner, store, content: calls.content, files })
  const write = contentWrite({ runner, store, blobs, openWrite: options => calls.content.rawWrite(options) })
  return [
    { definition: TasksService, implementation: tasksService({ runner, store, runtime: calls.runtime, clock }) },
    {
      definition: { ...ContentService, write: raw(ContentService.write) },
      implementation: { ...content, write },
    },
    {
      definition: SnapshotsService,
      implementation: snapshotsService({ runner, store, snapshots, checkSnapshotter: calls.checkSnapshotter }),
    },
    { definition: DiffService, implementation: diffService({ runner, store, differ: calls.differ, blobs }) },
  ]
}

async function contentRoot(directory: PluginDirectory): Promise<string> {
  const plugin = directory.peek('content', 'local') ?? (await directory.find('content', 'local'))
  const { root } = plugin.exports
  if (root === undefined) throw failedPrecondition(`${plugin.title} exports no root to read blobs from`)
  return root
}
