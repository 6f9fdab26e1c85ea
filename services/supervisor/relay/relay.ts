// The outbox to NATS: whatever becomes durable in the journal is published once, in order, however long it takes.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { JournalRecord, Sequence } from '../journal/journal.js'
import type { Publication } from '../state/publication.js'
import type { Broker, Problem } from './broker.js'
import { explain } from './explain.js'
import type { Source } from './follow.js'
import { MemoryFile } from './memory.js'
import { runSession, SessionEnded, type SessionEvents } from './session.js'
import { defaultStream, type StreamSettings } from './stream.js'

export interface RelayOptions {
  journal: Source
  publication(record: JournalRecord): Publication
  node: string
  broker: Broker
  log: Logger
  /** Where the relay keeps its place: below the durable root. */
  memoryPath: string
  stream?: Partial<StreamSettings>
  /** How long the broker may take for one answer. */
  answerTimeoutMs?: number
  idleCheckMs?: number
}

export interface RelayStatus {
  state: 'connecting' | 'publishing' | 'stopped'
  broker: string
  stream: string
  /** Everything up to here is in the stream; before the first contact, as remembered. */
  cursor: Sequence
  /** Durable events that are not in the stream yet. */
  lag: bigint
  /** Since the start: acknowledged messages, those of them that the broker had already, failed sessions. */
  published: number
  duplicates: number
  errors: number
  /** Events that the journal dropped before they could be published. */
  dropped: bigint
  problem: Problem | undefined
}

export interface Relay {
  status(): RelayStatus
  /** Lets what is on its way arrive, for two seconds at most. The broker stays open: it is its opener's. */
  stop(): Promise<void>
}

const pauseMinMs = 100
const pauseMaxMs = 10_000
const privateStreamBytesMax = 2 ** 30

/** Returns at once; the broker may come later, or never. */
export function startRelay(options: RelayOptions): Relay {
  return new Outward(options)
}

class Outward implements Relay {
  readonly #memory: MemoryFile
  readonly #stop = new AbortController()
  readonly #running: Promise<void>
  #status: Omit<RelayStatus, 'cursor' | 'lag'>
  #chained: boolean
  #pauseMs = pauseMinMs

  constructor(readonly options: RelayOptions) {
    const { broker, journal, log, memoryPath } = options
    this.#memory = new MemoryFile(memoryPath, journal.id, log)
    this.#chained = broker.exclusive
    this.#status = {
      state: 'connecting',
      broker: broker.name,
      stream: this.#stream.name,
      published: 0,
      duplicates: 0,
      errors: 0,
      dropped: 0n,
      problem: undefined,
    }
    this.#running = this.#run()
  }

  status(): RelayStatus {
    const cursor = this.#memory.memory?.sequence ?? 0n
    const behind = this.options.journal.last() - cursor
    const problem = this.#status.problem ?? this.options.broker.problem()
    return { ...this.#status, problem, cursor, lag: behind > 0n ? behind : 0n }
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
    const [stream, chained, on] = [this.#stream, this.#chained, this.#events]
    return runSession(
      { journal, publication, origin, broker, stream, answerTimeoutMs, idleCheckMs, memory, chained, on },
      signal,
    )
  }

  readonly #events: SessionEvents = {
    connected: server => this.options.log.debug({ server }, 'connected to NATS'),
    recovered: (stream, { settled, beyond, reason }) => {
      const { log, journal } = this.options
      this.#memory.keep({ stream: stream.name, created: stream.created, ...settled })
      Object.assign(this.#status, { state: 'publishing', stream: stream.name })
      // Otherwise the first acknowledgement says that all is well again.
      if (settled.sequence >= journal.last()) this.#status.problem = undefined
      const facts = { stream: stream.name, after: settled.sequence, last: journal.last(), gaps: beyond.size > 0 }
      if (reason === 'refilled')
        log.warn(facts, 'the stream holds less than it did: what the journal still has of it is published again')
      else if (this.#status.problem === undefined) log.info(facts, 'events go out to NATS')
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
      this.options.log.warn(
        { sequence, bytes },
        "an event is larger than the broker's max_payload: it goes out without data",
      ),
    settled: (memory, duplicate) => {
      this.#memory.keep(memory)
      this.#status.published += 1
      if (duplicate) this.#status.duplicates += 1
      this.#pauseMs = pauseMinMs
      if (this.#status.problem === undefined) return
      this.#status.problem = undefined
      this.options.log.info({ after: memory.sequence }, 'events go out to NATS again')
    },
    foreign: () => {
      this.#chained = false
      this.options.log.info(
        'somebody else publishes to the stream: a failed message may now be overtaken by the next ones',
      )
    },
  }

  #failed(error: unknown): void {
    const { log, broker } = this.options
    const problem = explain(error)
    const isNews = problem.message !== this.#status.problem?.message
    this.#status.errors += 1
    Object.assign(this.#status, { state: 'connecting', problem })
    const facts = { broker: broker.name, advice: problem.advice, lag: this.status().lag }
    if (error instanceof SessionEnded) log.info(facts, `NATS: ${problem.message}`)
    else if (isNews) log.warn(facts, `NATS: ${problem.message}; events wait in the journal`)
    else log.debug(facts, `NATS: still ${problem.message}`)
  }

  async #pause(signal: AbortSignal): Promise<void> {
    // Half of it by chance, so that a fleet does not come back to a broker at one blow.
    const pause = this.#pauseMs * (0.5 + Math.random() / 2)
    this.#pauseMs = Math.min(this.#pauseMs * 2, pauseMaxMs)
    await sleep(pause, undefined, { signal }).catch(() => undefined)
  }
}
