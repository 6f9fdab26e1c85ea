// The socket where clients connect: every service of the API behind one listener.
import { rm } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client, credentials, Server } from '@grpc/grpc-js'
import type { Logger } from 'pino'
import { Code, failedPrecondition, StatusError } from '../../../plugins/kit/errors.js'
import { listen } from '../../../plugins/kit/listen.js'
import { messageLimits, raw } from '../../../plugins/kit/serve.js'
import { ContentService } from '../../../proto/gen/containerd/services/content/v1/content.js'
import { DiffService } from '../../../proto/gen/containerd/services/diff/v1/diff.js'
import { ControllerService } from '../../../proto/gen/containerd/services/sandbox/v1/sandbox.js'
import { SnapshotsService } from '../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import { StreamingService } from '../../../proto/gen/containerd/services/streaming/v1/streaming.js'
import { TasksService } from '../../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { TransferService } from '../../../proto/gen/containerd/services/transfer/v1/transfer.js'
import type { Clock } from '../clock.js'
import type { Blobs } from '../effects/blobs.js'
import type { Orphans } from '../effects/recovery/orphans.js'
import type { Snapshots } from '../effects/snapshots.js'
import type { Feed } from '../feed/feed.js'
import type { Journal } from '../journal/journal.js'
import type { PluginCalls } from '../pluginCalls.js'
import type { PluginDirectory } from '../plugins/directory.js'
import type { Compaction } from '../retention.js'
import type { Runner } from '../runner.js'
import type { HeavyParts } from '../state/heavy.js'
import type { Store } from '../state/store.js'
import { Streams } from '../transfer/streams.js'
import { Transfers } from '../transfer/transfers.js'
import { removeAbandonedLeases } from '../transfer/work.js'
import { revision, version } from '../version.js'
import { BlobFiles } from './blobFiles.js'
import { contentService } from './content.js'
import { contentWrite } from './contentWrite.js'
import { diffService } from './diff.js'
import type { ObserveCall } from './observe.js'
import { sandboxController } from './sandboxController.js'
import { addServices, type Service } from './services.js'
import { snapshotsService } from './snapshots.js'
import { streamingService } from './streaming.js'
import { tasksService } from './tasks.js'
import { Traffic } from './traffic.js'
import { transferService } from './transfer.js'
import type { UpgradeDeps } from './upgrade.js'

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
  upgrade: UpgradeDeps['upgrade']
  /** When another process has served the address until now. */
  takeOver: TakeOver | undefined
  /** One pass of retention. */
  compact(): Promise<Compaction>
  /** One collection of garbage. */
  collect(): Promise<void>
  /** What the plugins hold and the journal does not know. */
  orphans(): Promise<Orphans>
  log: Logger
}

/** What one process leaves to the next that serves the same address. */
export interface TakeOver {
  /** The address' socket, which listens. */
  descriptor: number
  /** A socket of our own: there the one before asks again for the calls that it could not finish. */
  path: string
  /** Says that we serve on `path`; resolves when all of those were heard, so that others may be let in. */
  served(): Promise<void>
}

export interface Api {
  /** Subscribers are told to come back; calls under way get a moment to finish. */
  close(): Promise<void>
  /** A descriptor of the address' socket; the caller closes it. */
  descriptor(): Promise<number>
  /** Resolves when there is no long call; rejects with FAILED_PRECONDITION when there is one for too long. */
  calm(patienceMs: number): Promise<void>
  /**
   * Lets nobody in any more, and asks clients to connect anew: they wait at the address for who serves it next.
   * Resolves when nothing is under way that needs this process; rejects with FAILED_PRECONDITION when that takes long.
   */
  giveWay(): Promise<void>
  /** Takes back a way that was given; `descriptor` is the address' socket. */
  comeBack(descriptor: number): Promise<void>
  /** Whoever serves `path` answers what could not be finished here. May be called again, with another path. */
  passTo(path: string): Promise<void>
  /** The successor is there for good. Resolves when the last call that it answers through us is over. */
  passed(): Promise<void>
}

const graceMs = 5_000
/** While a process gives way, clients wait that long at most: theirs may be a deadline of some seconds. */
const giveWayMs = 4_000
/** Calls that may last minutes are waited for before anybody is kept waiting. */
const longCalls = /^(Content\/Write|Diff\/|Transfer\/)/
/** A connection that a client keeps in spite of being asked to come anew. */
const farewellMs = 3_600_000

/** Rejects with SocketInUse when another process serves the address. */
export async function openApi(deps: ApiDeps): Promise<Api> {
  const stopping = new AbortController()
  const traffic = new Traffic()
  const server = new Server({ ...messageLimits, 'grpc.enable_channelz': 0 })
  const files = new BlobFiles(() => contentRoot(deps.directory))
  const common = {
    ...deps,
    plugins: deps.directory,
    version,
    revision,
    stopping: stopping.signal,
    serving: () => !stopping.signal.aborted,
    traffic,
    files,
  }
  addServices(server, common, [...pluginServices(deps, files), ...transferServices(deps, files, stopping.signal)])
  await removeAbandonedLeases(deps)
  const { takeOver } = deps
  const own = takeOver && (await listen(server, takeOver.path, { mode: 0o600, admit: () => true }))
  await takeOver?.served()
  if (takeOver) await rm(takeOver.path, { force: true }) // who had to come is connected
  const open = { mode: 0o660, admit: () => true }
  let listener = await listen(server, deps.address, { ...open, ...(takeOver && { descriptor: takeOver.descriptor }) })
  let successor: Client | undefined
  return {
    async close() {
      stopping.abort()
      await Promise.all([own?.close(graceMs), listener.close(graceMs)])
    },
    descriptor: () => listener.descriptor(),
    async calm(patienceMs) {
      if (!(await traffic.idle(patienceMs, longCalls))) throw stillUnderWay(traffic.underWay(longCalls))
    },
    async giveWay() {
      own?.yield(farewellMs)
      listener.yield(farewellMs)
      if (!(await traffic.idle(giveWayMs))) throw stillUnderWay(traffic.underWay())
    },
    async comeBack(descriptor) {
      listener = await listen(server, deps.address, { ...open, descriptor })
    },
    async passTo(path) {
      successor?.close()
      successor = new Client(`unix://${path}`, credentials.createInsecure(), {
        ...messageLimits,
        // A connection of its own: this process may serve there itself, and go on to somewhere else.
        'grpc.use_local_subchannel_pool': 1,
      })
      stopping.abort()
      await traffic.passTo(successor)
    },
    async passed() {
      traffic.passed = true
      await traffic.over()
      // What was said last is on its way to clients, who then close their connections.
      await Promise.race([Promise.all([listener.left(), own?.left()]), sleep(graceMs)])
    },
  }
}

function stillUnderWay(calls: string[]): StatusError {
  return new StatusError(
    Code.FAILED_PRECONDITION,
    `calls are under way that need this process: ${calls.join(', ')}: wait for them to end, then ask again`,
  )
}

/** The services behind which plugins work. */
function pluginServices(deps: ApiDeps, files: BlobFiles): Service[] {
  const { runner, store, clock, calls, snapshots, blobs, directory } = deps
  const isUnresponsive = (namespace: string, id: string) => directory.isUnresponsive(namespace, id)
  const content = contentService({ runner, store, content: calls.content, files })
  const write = contentWrite({ runner, store, blobs, openWrite: calls.openWrite })
  return [
    {
      definition: TasksService,
      implementation: tasksService({ runner, store, runtime: calls.runtime, clock, isUnresponsive }),
    },
    {
      definition: { ...ContentService, write: raw(ContentService.write) },
      implementation: { ...content, write },
    },
    {
      definition: SnapshotsService,
      implementation: snapshotsService({ runner, store, snapshots, checkSnapshotter: calls.checkSnapshotter }),
    },
    { definition: ControllerService, implementation: sandboxController({ runner, store, runtime: calls.runtime }) },
    { definition: DiffService, implementation: diffService({ runner, store, differ: calls.differ, blobs }) },
  ]
}

function transferServices(deps: ApiDeps, files: BlobFiles, stopping: AbortSignal): Service[] {
  const { calls } = deps
  const { content, differ, openWrite, checkSnapshotter } = calls
  async function* readBlob(digest: string, total: bigint, signal: AbortSignal): AsyncGenerator<Buffer> {
    for await (const { data } of files.read({ digest, total, offset: 0n, size: 0n }, signal)) yield data
  }
  const streams = new Streams()
  const transfers = new Transfers({ ...deps, content, differ, openWrite, checkSnapshotter, readBlob })
  return [
    { definition: StreamingService, implementation: streamingService({ streams, stopping }) },
    { definition: TransferService, implementation: transferService({ streams, transfers }) },
  ]
}

async function contentRoot(directory: PluginDirectory): Promise<string> {
  const plugin = await directory.find('content', 'local')
  const { root } = plugin.exports
  if (root === undefined) throw failedPrecondition(`${plugin.title} exports no root to read blobs from`)
  return root
}
