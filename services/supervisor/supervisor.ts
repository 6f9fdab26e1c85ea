// Puts the rooms together: opened from the journal outwards, closed in the opposite order. Nothing else is decided here.
import { closeSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { type Api, openApi } from './api/server.js'
import type { UpgradeDeps } from './api/upgrade.js'
import { registrySocket } from './bundledHost.js'
import { openCheckpointFiles } from './checkpointFiles.js'
import { systemClock } from './clock.js'
import type { Settings } from './config.js'
import { openCore } from './core.js'
import type { Ledger } from './effects/ledger.js'
import { messageOf } from './effects/supervisor.js'
import { Feed } from './feed/feed.js'
import { returning } from './feed/returning.js'
import { Collection } from './garbage/collection.js'
import { realDisk } from './journal/disk.js'
import { openFileJournal } from './journal/fileLog.js'
import { refuseNewer } from './journal/format.js'
import type { Journal } from './journal/journal.js'
import { observe } from './metrics/observe.js'
import { bundledPlugins, pluginCalls, pluginConfig } from './pluginCalls.js'
import { PluginDirectory } from './plugins/directory.js'
import type { PluginHost } from './plugins/host.js'
import { type PluginLedger, serveRegistry } from './plugins/registry.js'
import type { Reconciliation } from './reconcile.js'
import { openRelay } from './relay/open.js'
import { Retention } from './retention.js'
import { decodeEvent } from './state/codec.js'
import { publicationOf } from './state/publication.js'
import { Store } from './state/store.js'
import { versions } from './state/upcast.js'
import { program, version } from './version.js'

export interface Supervisor {
  /**
   * Resolves when the bundled plugins serve and the journal was compared with what they know; answers what is wrong
   * with those that did not come in time. Calls are taken before: they wait for the plugin that they need.
   */
  ready(withinMs: number): Promise<string[]>
  /** Containers go on. What is under way is finished first, within bounds. */
  close(): Promise<void>
  /** Of the sockets that a successor serves on; the caller closes them. */
  descriptors(): Promise<Descriptors>
  /** As `close`, but clients wait for a successor: see handover/. Rejects, and goes on, when calls take too long. */
  giveWay(patienceMs: number): Promise<GivenWay>
}

/** The sockets that go on listening while one process follows another. */
export interface Descriptors {
  api: number
  /** Undefined when there are no metrics. */
  metrics: number | undefined
}

/** What is left of a supervisor that gave way: callers whose calls the next one answers. */
export type GivenWay = Pick<Api, 'passTo' | 'passed'>

/** For a supervisor that follows another. */
export interface Succession {
  descriptors: Descriptors
  /** Where the one before asks for what it could not finish. */
  path: string
  /** Says that we serve on `path`; resolves when that was asked. */
  served(): Promise<void>
}

export interface SupervisorParts {
  /** Ended with the supervisor, however it ends. */
  host: PluginHost | undefined
  upgrade: UpgradeDeps['upgrade']
  succession?: Succession
  log: Logger
}

/** Rejects when it cannot serve: another instance holds the root or the socket, history is illegal, a port is taken. */
export async function openSupervisor(settings: Settings, parts: SupervisorParts): Promise<Supervisor> {
  const { host, log } = parts
  const closers: (() => Promise<void> | void)[] = []
  const opened = <T>(thing: T, close: (thing: T) => Promise<void> | void): T => {
    closers.push(() => close(thing))
    return thing
  }
  const close = async () => {
    for (const step of closers.reverse()) await step()
  }
  try {
    if (host) opened(host, host => host.stop())
    const { api, metrics, ready } = await open(settings, parts, opened)
    return {
      ready,
      async close() {
        await api.close()
        await close()
      },
      descriptors: async () => ({ api: await api.descriptor(), metrics: await metrics.descriptor() }),
      async giveWay(patienceMs) {
        await api.calm(patienceMs)
        const back = await api.descriptor()
        log.info('giving way: clients wait for the next version')
        try {
          await api.giveWay()
        } catch (error) {
          await api.comeBack(back)
          throw error
        }
        closeSync(back)
        await close()
        return api
      },
    }
  } catch (error) {
    await close()
    throw error
  }
}

type Opened = <T>(thing: T, close: (thing: T) => Promise<void> | void) => T

async function open(settings: Settings, { host, log, upgrade, succession }: SupervisorParts, opened: Opened) {
  const { root, state } = settings
  await mkdir(root, { recursive: true, mode: 0o700 })
  await mkdir(state, { recursive: true, mode: 0o700 })

  const journal = opened(await openJournal(settings, log), journal => journal.close())
  const comingBack = returning(journal)
  const store = opened(await Store.open(journal, log), store => store.close())
  const clock = systemClock()
  const metrics = opened(
    await observe({ settings, version, journal, store, log, descriptor: succession?.descriptors.metrics }),
    metrics => metrics.close(),
  )

  const directory = opened(
    new PluginDirectory({ log, expected: bundledPlugins, onCall: metrics.pluginCall }),
    directory => directory.close(),
  )
  const calls = pluginCalls(directory)
  const core = opened(
    await openCore({
      store,
      journal,
      clock,
      log,
      calls,
      checkpointFiles: await openCheckpointFiles(state, store.world),
      observe: metrics.phase,
    }),
    core => core.close(),
  )
  const { runner, heavy, snapshots, blobs, ledger, reconciliation, orphans } = core
  for (const proxy of settings.proxyPlugins) directory.addProxy(proxy)
  await openRegistry(settings, log, opened, directory, ledger)
  host?.begin()

  const relay = opened(
    openRelay({
      settings,
      journal,
      publication: record => publicationOf({ record, event: decodeEvent(record) }),
      begins: opening(settings, directory, reconciliation),
      log,
    }),
    relay => relay.close(),
  )
  const relayed = () => relay.status()?.released
  const policy = settings.journal.keep
  const retention = opened(new Retention({ journal, store, runner, heavy, clock, policy, relayed, log }), retention =>
    retention.close(),
  )
  const content = calls.content
  const collection = opened(
    new Collection({
      journal,
      store,
      runner,
      clock,
      blobs,
      snapshots,
      content,
      settings: settings.gc,
      observe: metrics.collected,
      log,
    }),
    collection => collection.close(),
  )
  const feed = new Feed({ journal, store, returning: comingBack })
  const api = await openApi({
    address: settings.address,
    runner,
    store,
    journal,
    feed,
    heavy,
    clock,
    calls,
    snapshots,
    blobs,
    directory,
    observe: metrics.apiCall,
    upgrade,
    takeOver: succession && { ...succession, descriptor: succession.descriptors.api },
    compact: () => retention.run(),
    collect: () => collection.collect(),
    orphans,
    log,
  })
  metrics.watch({ directory, relay, feed })
  return { api, metrics, ready: (withinMs: number) => ready(directory, reconciliation, withinMs) }
}

/** Resolves when containers are cared for, or that takes long: starting a nats-server holds us up for a moment. */
async function opening({ pluginHost }: Settings, directory: PluginDirectory, reconciliation: Reconciliation) {
  if (pluginHost) await ready(directory, reconciliation, openingPatienceMs)
}

const openingPatienceMs = 2_000

/** A comparison takes that long only when a shim is silent; then it goes on beside everything else. */
const comparisonPatienceMs = 1_000

async function ready(directory: PluginDirectory, reconciliation: Reconciliation, waitMs: number): Promise<string[]> {
  const found = await Promise.allSettled(bundledPlugins.map(({ kind, id }) => directory.find(kind, id, { waitMs })))
  await Promise.race([reconciliation.settled(), sleep(comparisonPatienceMs, undefined, { ref: false })])
  return found.filter(result => result.status === 'rejected').map(({ reason }) => messageOf(reason))
}

/** Throws when the journal needs a later version than this one. Touches nothing, and needs no lock. */
export async function checkJournal({ root }: Settings): Promise<void> {
  await refuseNewer(realDisk, join(root, 'journal'), { program: program(), events: versions })
}

async function openJournal({ root, node, journal }: Settings, log: Logger): Promise<Journal> {
  return openFileJournal({
    dir: join(root, 'journal'),
    node,
    log,
    writtenBy: { program: program(), events: versions },
    ...(journal.segmentBytes !== undefined && { segmentBytes: journal.segmentBytes }),
    ...(journal.reserveBytes !== undefined && { reserveBytes: journal.reserveBytes }),
  })
}

/** Where plugins register, the bundled ones like any other. */
async function openRegistry(
  settings: Settings,
  log: Logger,
  opened: Opened,
  directory: PluginDirectory,
  ledger: Ledger,
): Promise<void> {
  const registry = await serveRegistry({
    path: registrySocket(settings),
    ledger: registryLedger(ledger),
    directory,
    configFor: (kind, id) => pluginConfig(settings, kind, id),
    log,
  })
  opened(registry, registry => registry.close())
}

/** The registry names a registration by (kind, id, epoch) in one. */
function registryLedger(ledger: Ledger): PluginLedger {
  return {
    registered: async facts => ({ epoch: await ledger.registered(facts) }),
    ready: plugin => ledger.ready(plugin, plugin.epoch),
    draining: (plugin, reason) => ledger.draining(plugin, plugin.epoch, reason),
    lost: (plugin, reason) => ledger.lost(plugin, plugin.epoch, reason),
    left: (plugin, reason) => ledger.left(plugin, plugin.epoch, reason),
    emitted: (plugin, emission) => ledger.emitted(plugin, emission),
  }
}
