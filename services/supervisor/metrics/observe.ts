// What the rooms tell, as metrics; and what is wrong, in sentences.
import type { Logger } from 'pino'
import { Code } from '../../../plugins/kit/errors.js'
import type { Settings } from '../config.js'
import type { FeedStatus } from '../feed/feed.js'
import type { Journal } from '../journal/journal.js'
import type { PluginStatus } from '../plugins/directory.js'
import type { CallObserver } from '../plugins/live.js'
import type { RelayStatus } from '../relay/relay.js'
import type { Store } from '../state/store.js'
import { createMetrics, type Metrics } from './metrics.js'
import { serveMetrics } from './server.js'

export interface Observation {
  phase: Metrics['phase']
  apiCall: Metrics['request']
  pluginCall: CallObserver
  collected: Metrics['collected']
  /** Said once, when everything is open: from then on /healthz tells of it. */
  watch(parts: Watched): void
  /** Of the endpoint's socket; the caller closes it. Undefined when there is none. */
  descriptor(): Promise<number | undefined>
  close(): Promise<void>
}

export interface Watched {
  directory: { list(): PluginStatus[]; countUnresponsive(): number }
  relay: { status(): RelayStatus | undefined; waitingSince(): Promise<bigint | undefined> }
  feed: { status(): FeedStatus }
}

export interface ObservationDeps {
  settings: Settings
  version: string
  journal: Journal
  store: Store
  log: Logger
  /** The endpoint's socket, when a process before us has listened on it. */
  descriptor?: number | undefined
}

/** Without `--metrics` nothing is counted and nothing is loaded. Rejects when the port cannot be had. */
export async function observe({
  settings,
  version,
  journal,
  store,
  log,
  descriptor,
}: ObservationDeps): Promise<Observation> {
  if (!settings.metrics) return silent
  const metrics = createMetrics({ version })
  const watched: Partial<Watched> = {}
  metrics.watch({
    journal,
    tasks: () => tasksByState(store),
    tasksUnresponsive: () => watched.directory?.countUnresponsive(),
    relay: () => watched.relay?.status(),
    relayWaitingSince: async () => watched.relay?.waitingSince(),
    feed: () => watched.feed?.status(),
    plugins: () => watched.directory?.list() ?? [],
  })
  const stopFlushes = journal.onFlush(flush => metrics.flushed(flush))
  const stopEvents = store.subscribe(({ event, record }) => {
    metrics.lifecycle(record.stream.slice(0, record.stream.indexOf('/')), event.type)
    if (event.type === 'TaskExited') metrics.exited(event.exit.status)
  })
  const server = await serveMetrics({
    ...settings.metrics,
    descriptor,
    metrics,
    health: () => complaints(journal, watched.directory?.list()),
    remarks: () => remarks(watched.relay?.status()),
    log,
  })
  return {
    phase: metrics.phase.bind(metrics),
    apiCall: metrics.request.bind(metrics),
    pluginCall: call => metrics.pluginCall({ ...call, code: Code[call.code] ?? String(call.code) }),
    collected: metrics.collected.bind(metrics),
    watch: parts => void Object.assign(watched, parts),
    descriptor: () => server.descriptor(),
    async close() {
      stopFlushes()
      stopEvents()
      await server.close()
    },
  }
}

const silent: Observation = {
  phase() {},
  apiCall() {},
  pluginCall() {},
  collected() {},
  watch() {},
  async descriptor() {
    return undefined
  },
  async close() {},
}

function tasksByState(store: Store): Map<string, number> {
  const counts = new Map<string, number>()
  for (const { tasks } of store.world.namespaces.values()) {
    for (const { state } of tasks.values()) counts.set(state, (counts.get(state) ?? 0) + 1)
  }
  return counts
}

/** A broker that is away is no reason to call the supervisor sick: containers go on, and events wait in the journal. */
function remarks(relay: RelayStatus | undefined): string[] {
  if (!relay || (relay.state === 'publishing' && !relay.problem)) return []
  const { broker, problem, lag } = relay
  const why = problem ? `${problem.message}; ${problem.advice}` : 'not connected yet'
  return [`NATS (${broker}): ${why}; ${lag} events wait in the journal`]
}

function complaints(journal: Journal, plugins: PluginStatus[] | undefined): string[] {
  const health = journal.health()
  const ofJournal = health.writable ? [] : [`the journal takes no writes: ${health.message}; ${health.advice}`]
  if (!plugins) return [...ofJournal, 'the supervisor is starting']
  const ofPlugins = plugins
    .filter(({ state }) => state !== 'ready' && state !== 'draining')
    .map(({ kind, id, state, reason }) => `${kind} plugin "${id}" is ${state}${reason && `: ${reason}`}`)
  return [...ofJournal, ...ofPlugins]
}
