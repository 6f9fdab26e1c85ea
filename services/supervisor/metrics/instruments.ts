// Every metric of the supervisor by name. The one module that loads prom-client: import it when it is needed, not before.
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { JournalHealth, JournalStats, Sequence } from '../journal/journal.js'
import type { RelayStatus } from '../relay/relay.js'
import { Series } from './series.js'

/** What is asked at every scrape. Absent ones have no samples. */
export interface Sources {
  /** By state. */
  tasks(): ReadonlyMap<string, number>
  journal: {
    stats(): JournalStats
    health(): JournalHealth
    first(): Sequence
    last(): Sequence
  }
  relay(): RelayStatus | undefined
  plugins(): Iterable<{ kind: string; id: string; state: string }>
}

const journalReasons = ['full', 'read-only', 'failed', 'damaged'] as const
export const pluginStates = ['opening', 'ready', 'draining', 'lost', 'left'] as const

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
    relay('total', 'errors_total', 'Connections that were lost or failed.', ({ errors }) => errors)
    relay('total', 'dropped_total', 'Events that left the journal unpublished.', ({ dropped }) => Number(dropped))

    this.#gauge('purser_plugin_state', '1 for the state that a plugin is in.', ['kind', 'id', 'state'], gauge => {
      gauge.reset()
      for (const { kind, id, state } of sources.plugins?.() ?? [])
        for (const each of pluginStates) gauge.set({ kind, id, state: each }, each === state ? 1 : 0)
    })
  }

  #counter<Label extends string>(name: string, help: string, labelNames: Label[]): Counter<Label> {
    return new Counter({ name, help, labelNames, registers: [this.registry] })
  }

  #histogram<Label extends string>(name: string, help: string, buckets: number[], labelNames: Label[]) {
    return new Histogram({ name, help, buckets, labelNames, registers: [this.registry] })
  }

  #gauge<Label extends string>(
    name: string,
    help: string,
    labelNames: Label[],
    collect: (gauge: Gauge<Label>) => void,
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
