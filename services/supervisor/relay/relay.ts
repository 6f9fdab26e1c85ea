// The outbox to NATS: whatever becomes durable in the journal is published once, in order, however long it takes.
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { JournalRecord, Sequence } from '../journal/journal.js'
import type { Publication } from '../state/publication.js'
import type { Broker, Problem } from './broker.js'
import { SessionEnded } from './ended.js'
import { explain, type FailureReason } from './explain.js'
import type { Source } from './follow.js'
import { MemoryFile } from './memory.js'
import { runSession, type SessionEvents } from './session.js'
import { SparingLog } from './sparing.js'
import { defaultStream, type StreamSettings } from './stream.js'
import { SyncedPlace } from './synced.js'

export interface RelayOptions {
  journal: Source
  publication(record: JournalRecord): Publication
  node: string
  broker: Broker
  log: Logger
  /** Where the relay keeps its place: below the durable root. */
  memoryPath: string
  /** Nothing is asked of the broker before this has resolved. */
  begins?: Promise<void>
  stream?: Partial<StreamSettings>
  /** How long the broker may be silent. */
  answerTimeoutMs?: number
  idleCheckMs?: number
  /** After that long an acknowledged message is on the broker's disk. */
  syncedAfterMs?: number
}

export interface RelayStatus {
  state: 'connecting' | 'publishing' | 'stopped'
  broker: string
  stream: string
  /** Everything up to here is in the stream; before the first contact, as remembered. */
  cursor: Sequence
  /** Durable events that are not in the stream yet. */
  lag: bigint
  /** The events up to here may leave the journal: the stream keeps them, also if the broker's power is cut now. */
  released: Sequence
  /** Since the start: connections that found their place in the stream, and acknowledged messages … */
  connections: number
  published: number
  /** … those of them that the broker had already, those that the stream had and lost, and what went wrong. */
  duplicates: number
  republished: bigint
  failures: ReadonlyMap<FailureReason, number>
  /** Events that the journal dropped before they could be published. */
  dropped: bigint
  problem: Problem | undefined
}

export interface Relay {
  status(): RelayStatus
  /** When the oldest event that is not in the stream yet was decided; undefined when all are. */
  waitingSince(): Promise<bigint | undefined>
  /** Lets what is on its way arrive, for two seconds at most. The broker stays open: it is its opener's. */
  stop(): Promise<void>
}

const pauseMinMs = 100
const pauseMaxMs = 10_000
/** So many sessions in a row without a single acknowledgement, and a broker that is there is taken to be ill for good. */
const vainMax = 2
const ofTheBroker: ReadonlySet<FailureReason> = new Set(['timeout', 'jetstream', 'stream', 'full', 'other'])
const privateStreamBytesMax = 2 ** 30

/** Returns at once; the broker may come later, or never. */
export function startRelay(options: RelayOptions): Relay {
  return new Outward(options)
}

class Outward implements Relay {
  readonly #memory: MemoryFile
  readonly #stop = new AbortController()
  readonly #running: Promise<void>
  readonly #sparing: SparingLog
  readonly #synced: SyncedPlace
  readonly #failures = new Map<FailureReason, number>()
  #status: Omit<RelayStatus, 'cursor' | 'lag' | 'released'>
  #pauseMs = pauseMinMs
  #vain = 0

  constructor(readonly options: RelayOptions) {
    const { broker, journal, log, memoryPath } = options
    this.#memory = new MemoryFile(memoryPath, journal.id, log)
    this.#sparing = new SparingLog(log)
    this.#synced = new SyncedPlace(options.syncedAfterMs)
    this.#status = {
      state: 'connecting',
      broker: broker.name,
      stream: this.#stream.name,
      connections: 0,
      published: 0,
      duplicates: 0,
      republished: 0n,
      failures: this.#failures,
      dropped: 0n,
      problem: undefined,
    }
    this.#running = this.#run()
  }

  status(): RelayStatus {
    const cursor = this.#memory.memory?.sequence ?? 0n
    const behind = this.options.journal.last() - cursor
    const problem = this.#status.problem ?? this.options.broker.problem()
    return { ...this.#status, problem, cursor, lag: behind > 0n ? behind : 0n, released: this.#released(cursor) }
  }

  async waitingSince(): Promise<bigint | undefined> {
    const { journal } = this.options
    const { cursor, lag } = this.status()
    if (lag === 0n) return undefined
    const [next, first] = [cursor + 1n, journal.first()]
    for await (const { timeUnixNano } of journal.read(next > first ? next : first)) return timeUnixNano
    return undefined
  }

  /** While the broker is away its word may turn out void when it is back (a store that was wiped): nothing is released. */
  #released(cursor: Sequence): Sequence {
    if (this.#status.state !== 'publishing') return 0n
    this.#synced.reached(cursor, performance.now())
    return this.#synced.at(performance.now())
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#running
  }

  get #stream(): StreamSettings {
    const { broker, stream } = this.options
    // A private broker has nobody but us to see to its disk; elsewhere the account's limits are the operator's.
    const bytesMax = broker.exclusive ? privateStreamBytesMax : defaultStream.bytesMax
    return { ...defaultStream, bytesMax, ...stream }
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop
    await this.#memory.load()
    if (!signal.aborted) await Promise.race([this.options.begins, once(signal, 'abort')])
    while (!signal.aborted) {
      try {
        await this.#session(signal)
      } catch (error) {
        if (!signal.aborted) this.#failed(error)
      }
      await this.#pause(signal)
    }
    this.#status.state = 'stopped'
    await this.#memory.save()
  }

  #session(signal: AbortSignal): Promise<void> {
    const { journal, publication, node, broker, answerTimeoutMs = 10_000, idleCheckMs = 15_000 } = this.options
    const origin = { node, journal: journal.id }
    const memory = this.#memory.memory
    const [stream, on] = [this.#stream, this.#events]
    return runSession(
      { journal, publication, origin, broker, stream, answerTimeoutMs, idleCheckMs, memory, on },
      signal,
    )
  }

  readonly #events: SessionEvents = {
    connected: server => this.options.log.debug({ server }, 'connected to NATS'),
    recovered: (stream, { settled, beyond, reason }) => {
      const { log, journal } = this.options
      const before = this.#memory.memory?.sequence ?? 0n
      if (reason === 'refilled' && before > settled.sequence) this.#status.republished += before - settled.sequence
      this.#memory.keep({ stream: stream.name, created: stream.created, ...settled })
      this.#synced.forget()
      Object.assign(this.#status, { state: 'publishing', stream: stream.name })
      this.#status.connections += 1
      // Otherwise the first acknowledgement says that all is well again.
      if (settled.sequence >= journal.last()) this.#status.problem = undefined
      const facts = { stream: stream.name, after: settled.sequence, last: journal.last(), gaps: beyond.size > 0 }
      if (reason === 'refilled')
        log.warn(facts, 'the stream holds less than it did: what the journal still has of it is published again')
      else if (this.#status.problem === undefined) this.#sparing.info(facts, 'events go out to NATS')
    },
    dropped: error => {
      this.#status.dropped += error.first - error.wanted
      const facts = { from: error.wanted, to: error.first - 1n }
      this.options.log.warn(
        facts,
        'the journal dropped events before they reached NATS: keep more, or let the relay run',
      )
    },
    omitted: (sequence, bytes) =>
      this.#sparing.warn(
        { sequence, bytes },
        "an event is larger than the broker's max_payload: it goes out without data, which the journal keeps; raise it",
      ),
    settled: (memory, duplicate) => {
      this.#memory.keep(memory)
      this.#status.published += 1
      if (duplicate) this.#status.duplicates += 1
      this.#pauseMs = pauseMinMs
      this.#vain = 0
      if (this.#status.problem === undefined) return
      this.#status.problem = undefined
      this.#sparing.info({ after: memory.sequence }, 'events go out to NATS again')
    },
  }

  #failed(error: unknown): void {
    const { log, broker } = this.options
    const { reason, ...problem } = explain(error)
    const isNews = problem.message !== this.#status.problem?.message
    this.#failures.set(reason, (this.#failures.get(reason) ?? 0) + 1)
    Object.assign(this.#status, { state: 'connecting', problem })
    const facts = { broker: broker.name, advice: problem.advice, lag: this.status().lag }
    if (error instanceof SessionEnded) this.#sparing.info(facts, `NATS: ${problem.message}`)
    else if (isNews) this.#sparing.warn(facts, `NATS: ${problem.message}; events wait in the journal`)
    else log.debug(facts, `NATS: still ${problem.message}`)
    if (ofTheBroker.has(reason) && ++this.#vain % vainMax === 0) broker.renew?.()
  }

  async #pause(signal: AbortSignal): Promise<void> {
    // Half of it by chance, so that a fleet does not come back to a broker at one blow.
    const pause = this.#pauseMs * (0.5 + Math.random() / 2)
    this.#pauseMs = Math.min(this.#pauseMs * 2, pauseMaxMs)
    await sleep(pause, undefined, { signal }).catch(() => undefined)
  }
}
