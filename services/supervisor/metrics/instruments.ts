// Every metric of the supervisor by name. The one module that loads prom-client: import it when it is needed, not before.
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { FeedStatus } from '../feed/feed.js'
import type { JournalHealth, JournalStats, Sequence } from '../journal/journal.js'
import type { RelayStatus } from '../relay/relay.js'
import { Series } from './series.js'

/** What is asked at every scrape. Absent ones have no samples. */
export interface Sources {
  /** By state. */
  tasks(): ReadonlyMap<string, number>
  /** Tasks whose shim does not answer now. */
  tasksUnresponsive(): number | undefined
  journal: {
    stats(): JournalStats
    health(): JournalHealth
    first(): Sequence
    last(): Sequence
  }
  relay(): RelayStatus | undefined
  /** When the oldest event that NATS does not have was decided. */
  relayWaitingSince(): Promise<bigint | undefined>
  feed(): FeedStatus | undefined
  plugins(): Iterable<{ kind: string; id: string; state: string }>
}

const journalReasons = ['full', 'read-only', 'failed', 'damaged'] as const
const pluginStates = ['opening', 'ready', 'draining', 'lost', 'left'] as const

/** Of a flush to disk, in seconds. */
const flushBuckets = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1]
/** Of a call within the machine. */
const callBuckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30]
/** Of a step in a task's life. */
const phaseBuckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60]

/** prom-client's own names that Prometheus' lint refuses: gauges that end in `_total`. */
const illNamed = ['nodejs_active_handles_total', 'nodejs_active_requests_total', 'nodejs_active_resources_total']

export class Instruments {
  readonly registry = new Registry()
  readonly sources: Partial<Sources>

  readonly lifecycleEvents = new Series(
    this.#counter('purser_lifecycle_events_total', 'Durable events by lifecycle.', ['lifecycle', 'event']),
    2,
  )
  readonly taskPhases = new Series(
    this.#histogram(
      'purser_task_phase_duration_seconds',
      'Time taken by one step in the life of a task.',
      phaseBuckets,
      ['phase'],
    ),
    1,
  )
  readonly taskExits = new Series(
    this.#counter('purser_task_exits_total', 'Exits of tasks by exit status.', ['code']),
    1,
  )
  readonly journalFlushes = this.#histogram(
    'purser_journal_flush_duration_seconds',
    'Time from writing a batch of events until it was on disk.',
    flushBuckets,
    [],
  )
  readonly collections = this.#histogram(
    'purser_gc_duration_seconds',
    'Time that a collection of garbage took.',
    callBuckets,
    [],
  )
  readonly collected = new Series(
    this.#counter('purser_gc_removed_total', 'What nothing held any more, and is gone.', ['type']),
    1,
  )
  readonly pluginCalls = new Series(
    this.#histogram('purser_plugin_call_duration_seconds', 'Time taken by calls to plugins.', callBuckets, [
      'kind',
      'id',
      'method',
      'code',
    ]),
    4,
  )
  readonly requests = new Series(
    this.#counter('purser_grpc_requests_total', 'Finished gRPC calls of clients.', ['service', 'method', 'code']),
    3,
  )
  readonly requestTimes = new Series(
    this.#histogram('purser_grpc_request_duration_seconds', 'Time taken by gRPC calls of clients.', callBuckets, [
      'service',
      'method',
    ]),
    2,
  )

  /** `sources` may be filled in later. */
  constructor(sources: Partial<Sources>, version: string) {
    this.sources = sources
    this.#asked()
    this.#gauge('purser_build_info', 'Always 1: the labels tell what runs.', ['version', 'node_version'], gauge =>
      gauge.set({ version, node_version: process.version }, 1),
    )
    collectDefaultMetrics({ register: this.registry, prefix: 'purser_', eventLoopMonitoringPrecision: 50 })
    for (const name of illNamed) this.registry.removeSingleMetric(`purser_${name}`)
  }

  /** The metrics that are read from the rooms at a scrape. */
  #asked(): void {
    const { sources } = this
    this.#single('gauge', 'purser_tasks_unresponsive', 'Tasks whose shim does not answer now.', () =>
      sources.tasksUnresponsive?.(),
    )
    this.#gauge('purser_tasks', 'Tasks by state.', ['state'], gauge => {
      gauge.reset()
      for (const [state, count] of sources.tasks?.() ?? []) gauge.set({ state }, count)
    })

    const journal = (
      kind: 'gauge' | 'total',
      name: string,
      help: string,
      read: (journal: Sources['journal']) => number,
    ) => {
      const value = () => sources.journal && read(sources.journal)
      this.#single(kind, `purser_journal_${name}`, help, value)
    }
    journal('total', 'appends_total', 'Events appended since the start.', of => of.stats().appends)
    journal('total', 'appended_bytes_total', 'Bytes appended since the start.', of => of.stats().bytes)
    journal('total', 'flushes_total', 'Flushes to disk since the start.', of => of.stats().flushes)
    journal('gauge', 'size_bytes', 'Bytes of the journal on disk.', of => of.stats().size)
    journal('gauge', 'segments', 'Files of the journal.', of => of.stats().segments)
    journal('gauge', 'first_sequence', 'The oldest event that can still be read.', of => Number(of.first()))
    journal('gauge', 'last_sequence', 'The newest durable event.', of => Number(of.last()))
    journal('total', 'compactions_total', 'Times that retention dropped something.', of => of.stats().compactions)
    journal('total', 'dropped_segments_total', 'Files that retention dropped.', of => of.stats().droppedSegments)
    journal('gauge', 'damaged_places', 'Places found damaged at the start.', of => of.stats().damagedPlaces)
    journal('gauge', 'torn_ends', '1 when the start cut an end that a crash had torn.', of => of.stats().tornEnds)
    this.#gauge('purser_journal_degraded', '1 for the reason for which it takes no writes.', ['reason'], gauge => {
      const health = sources.journal?.health()
      for (const reason of journalReasons)
        gauge.set({ reason }, health?.writable === false && health.reason === reason ? 1 : 0)
    })
    journal('gauge', 'writable', '1 while events can be appended, 0 when read-only.', of =>
      of.health().writable ? 1 : 0,
    )

    const relay = (kind: 'gauge' | 'total', name: string, help: string, read: (status: RelayStatus) => number) => {
      const value = () => {
        const status = sources.relay?.()
        return status && read(status)
      }
      this.#single(kind, `purser_relay_${name}`, help, value)
    }
    relay('gauge', 'connected', '1 while events go out to NATS.', ({ state }) => (state === 'publishing' ? 1 : 0))
    relay('gauge', 'lag_events', 'Durable events that are not in the stream yet.', ({ lag }) => Number(lag))
    relay('total', 'published_total', 'Events that NATS acknowledged.', ({ published }) => published)
    relay('total', 'duplicates_total', 'Events that NATS had already.', ({ duplicates }) => duplicates)
    relay('gauge', 'cursor', 'The newest event up to which the stream has all.', ({ cursor }) => Number(cursor))
    relay('gauge', 'released', 'The newest event that may leave the journal.', ({ released }) => Number(released))
    relay('total', 'connections_total', 'Connections to NATS that served.', ({ connections }) => connections)
    relay('total', 'republished_total', 'Events that the stream had lost.', of => Number(of.republished))
    this.#gauge('purser_relay_lag_seconds', 'Age of the oldest event that waits for NATS.', [], async gauge => {
      const since = await sources.relayWaitingSince?.()
      gauge.set(since === undefined ? 0 : Math.max(0, Date.now() / 1e3 - Number(since) / 1e9))
    })
    this.#counter('purser_relay_failures_total', 'Connections to NATS lost or failed.', ['reason'], of => {
      of.reset()
      for (const [reason, count] of sources.relay?.()?.failures ?? []) of.inc({ reason }, count)
    })
    relay('total', 'dropped_total', 'Events that left the journal unpublished.', ({ dropped }) => Number(dropped))

    this.#gauge(
      'purser_subscribers',
      'Subscribers to events: live while their queue has room for what comes, else history, read or not.',
      ['state'],
      gauge => {
        const status = sources.feed?.()
        if (!status) return
        gauge.set({ state: 'history' }, status.history)
        gauge.set({ state: 'live' }, status.live)
      },
    )
    const subscribers = (name: string, help: string, read: (status: FeedStatus) => number) => {
      this.#single('total', `purser_subscribers_${name}_total`, help, () => {
        const status = sources.feed?.()
        return status && read(status)
      })
    }
    subscribers('fell_behind', 'Times that a subscriber had to read history again.', ({ fellBehind }) => fellBehind)
    subscribers('ended_slow', 'Subscriptions that were ended as nothing was read.', ({ endedSlow }) => endedSlow)

    this.#gauge('purser_plugin_state', '1 for the state that a plugin is in.', ['kind', 'id', 'state'], gauge => {
      gauge.reset()
      for (const { kind, id, state } of sources.plugins?.() ?? [])
        for (const each of pluginStates) gauge.set({ kind, id, state: each }, each === state ? 1 : 0)
    })
  }

  /** `collect`: for what is counted elsewhere. */
  #counter<Label extends string>(
    name: string,
    help: string,
    labelNames: Label[],
    collect?: (counter: Counter<Label>) => void,
  ): Counter<Label> {
    const registers = [this.registry]
    const counter: Counter<Label> = new Counter({
      ...{ name, help, labelNames, registers },
      ...(collect && { collect: () => collect(counter) }),
    })
    return counter
  }

  #histogram<Label extends string>(name: string, help: string, buckets: number[], labelNames: Label[]) {
    return new Histogram({ name, help, buckets, labelNames, registers: [this.registry] })
  }

  #gauge<Label extends string>(
    name: string,
    help: string,
    labelNames: Label[],
    collect: (gauge: Gauge<Label>) => void | Promise<void>,
  ) {
    const gauge: Gauge<Label> = new Gauge({
      name,
      help,
      labelNames,
      registers: [this.registry],
      collect: () => collect(gauge),
    })
  }

  /** Without labels; no sample while the value is unknown. */
  #single(kind: 'gauge' | 'total', name: string, help: string, read: () => number | undefined): void {
    const registers = [this.registry]
    if (kind === 'gauge') {
      const gauge: Gauge = new Gauge({
        name,
        help,
        registers,
        collect: () => {
          const value = read()
          if (value === undefined) gauge.remove()
          else gauge.set(value)
        },
      })
      return
    }
    const counter: Counter = new Counter({
      name,
      help,
      registers,
      collect: () => {
        counter.reset()
        counter.inc(read() ?? 0)
      },
    })
  }
}
