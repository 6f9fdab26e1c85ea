// Puts the rooms together: opened from the journal outwards, closed in the opposite order. Nothing else is decided here.
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { openApi } from './api/server.js'
import { systemClock } from './clock.js'
import type { Settings } from './config.js'
import { Blobs } from './effects/blobs.js'
import { Emissions } from './effects/emissions.js'
import { Execs } from './effects/execs.js'
import { Ledger } from './effects/ledger.js'
import { Networks } from './effects/networks.js'
import { Busy, performer } from './effects/perform.js'
import { NetworkRecovery } from './effects/recovery/networks.js'
import { TaskRecovery } from './effects/recovery/tasks.js'
import { Snapshots } from './effects/snapshots.js'
import { messageOf } from './effects/supervisor.js'
import { Tasks } from './effects/tasks.js'
import { openFileJournal } from './journal/fileLog.js'
import type { Journal } from './journal/journal.js'
import { observe } from './metrics/observe.js'
import { bundledPlugins, type PluginCalls, pluginCalls, pluginConfig } from './pluginCalls.js'
import { PluginDirectory } from './plugins/directory.js'
import { startPluginHost } from './plugins/host.js'
import { type PluginLedger, serveRegistry } from './plugins/registry.js'
import { type Reconciliation, reconcileOnReady } from './reconcile.js'
import { openRelay } from './relay/open.js'
import { Runner } from './runner.js'
import { decodeEvent } from './state/codec.js'
import { HeavyParts } from './state/heavy.js'
import { publicationOf } from './state/publication.js'
import { Store } from './state/store.js'
import { version } from './version.js'

export interface Supervisor {
  /**
   * Resolves when the bundled plugins serve and the journal was compared with what they know; answers what is wrong
   * with those that did not come in time. Calls are taken before: they wait for the plugin that they need.
   */
  ready(withinMs: number): Promise<string[]>
  /** Containers go on. What is under way is finished first, within bounds. */
  close(): Promise<void>
}

/** Rejects when it cannot serve: another instance holds the root or the socket, history is illegal, a port is taken. */
export async function openSupervisor(settings: Settings, log: Logger): Promise<Supervisor> {
  const closers: (() => Promise<void> | void)[] = []
  const opened = <T>(thing: T, close: (thing: T) => Promise<void> | void): T => {
    closers.push(() => close(thing))
    return thing
  }
  const close = async () => {
    for (const step of closers.reverse()) await step()
  }
  try {
    return { close, ready: await open(settings, log, opened) }
  } catch (error) {
    await close()
    throw error
  }
}

type Opened = <T>(thing: T, close: (thing: T) => Promise<void> | void) => T

async function open(settings: Settings, log: Logger, opened: Opened): Promise<Supervisor['ready']> {
  const { root, state } = settings
  await mkdir(root, { recursive: true, mode: 0o700 })
  await mkdir(state, { recursive: true, mode: 0o700 })

  const journal = opened(await openJournal(settings, log), journal => journal.close())
  const store = opened(await Store.open(journal, log), store => store.close())
  const clock = systemClock()
  const runner = new Runner(store, journal, clock)
  const heavy = new HeavyParts(journal)
  const metrics = opened(await observe({ settings, version, journal, store, log }), metrics => metrics.close())

  const directory = opened(
    new PluginDirectory({ log, expected: bundledPlugins, onCall: metrics.pluginCall }),
    directory => directory.close(),
  )
  const calls = pluginCalls(directory)
  const busy = new Busy()
  const networks = opened(new Networks(runner, store, calls.network, log), networks => networks.close())
  const snapshots = opened(new Snapshots(runner, store, calls.snapshotter, log), snapshots => snapshots.close())
  const blobs = new Blobs(store, calls.content, log)
  const readHeavy = heavy.read.bind(heavy)
  const tasks = new Tasks(runner, store, calls.runtime, networks, readHeavy, log, metrics.phase)
  const execs = new Execs(runner, calls.runtime, readHeavy, log)
  runner.performWith(performer({ tasks, execs, networks, snapshots, blobs }, busy))

  const ledger = new Ledger(runner, store, new Emissions(runner, store, log), log)
  await ledger.loseAll('the supervisor was restarted')
  const recovery = {
    tasks: new TaskRecovery(runner, store, calls.runtime, networks, busy, clock, log),
    networks: new NetworkRecovery(store, calls.network, networks, busy, log),
    snapshots,
    blobs,
    listSnapshots: (name: string) => listSnapshots(calls, name),
    listBlobs: () => listBlobs(calls),
  }
  const reconciliation = opened(reconcileOnReady(store, recovery, log), reconciliation => reconciliation.stop())
  for (const proxy of settings.proxyPlugins) directory.addProxy(proxy)
  await openPlugins(settings, log, opened, directory, ledger)

  const relay = opened(
    openRelay({
      settings,
      journal,
      publication: record => publicationOf({ record, event: decodeEvent(record) }),
      log,
    }),
    relay => relay.close(),
  )
  const api = await openApi({
    address: settings.address,
    runner,
    store,
    journal,
    heavy,
    clock,
    calls,
    snapshots,
    blobs,
    directory,
    observe: metrics.apiCall,
    log,
  })
  opened(api, api => api.close())
  metrics.watch({ directory, relay })
  return withinMs => ready(directory, reconciliation, withinMs)
}

async function ready(directory: PluginDirectory, reconciliation: Reconciliation, waitMs: number): Promise<string[]> {
  const late = sleep(waitMs, undefined, { ref: false })
  const found = await Promise.allSettled(bundledPlugins.map(({ kind, id }) => directory.find(kind, id, { waitMs })))
  await Promise.race([reconciliation.settled(), late])
  return found.filter(result => result.status === 'rejected').map(({ reason }) => messageOf(reason))
}

async function openJournal({ root, node, journal }: Settings, log: Logger): Promise<Journal> {
  return openFileJournal({
    dir: join(root, 'journal'),
    node,
    log,
    ...(journal.segmentBytes !== undefined && { segmentBytes: journal.segmentBytes }),
    ...(journal.reserveBytes !== undefined && { reserveBytes: journal.reserveBytes }),
  })
}

/** The registry first, then the host whose plugins register there. */
async function openPlugins(
  settings: Settings,
  log: Logger,
  opened: Opened,
  directory: PluginDirectory,
  ledger: Ledger,
): Promise<void> {
  const registryPath = join(settings.state, 'plugins', 'registry.sock')
  const registry = await serveRegistry({
    path: registryPath,
    ledger: registryLedger(ledger),
    directory,
    configFor: (kind, id) => pluginConfig(settings, kind, id),
    log,
  })
  opened(registry, registry => registry.close())
  if (!settings.pluginHost) return
  const host = startPluginHost({
    script: new URL('./plugin-host.js', import.meta.url).pathname,
    args: [
      '--registry',
      `unix://${registryPath}`,
      '--endpoint-dir',
      join(settings.state, 'plugins'),
      '--log-level',
      settings.logLevel === 'silent' ? 'error' : settings.logLevel,
    ],
    log,
  })
  opened(host, host => host.stop())
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

async function listSnapshots(calls: PluginCalls, name: string): Promise<string[]> {
  const keys: string[] = []
  for await (const { info } of calls
    .snapshotter(name)
    .list({ snapshotter: name, filters: [] }, { deadlineMs: 60_000 })) {
    keys.push(...info.map(snapshot => snapshot.name))
  }
  return keys
}

async function* listBlobs(calls: PluginCalls) {
  for await (const { info } of calls.content.list({ filters: [] }, { deadlineMs: 60_000 })) yield* info
}
