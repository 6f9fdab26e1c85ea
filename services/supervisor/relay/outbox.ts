// The messages on their way: a bounded number, acknowledged in order, given up together at the first failure.

import type { headers, Msg, NatsConnection } from 'nats'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import type { Sequence } from '../journal/journal.js'
import { type Ack, parseAck, Refused } from './ack.js'
import { type Message, messageIdHeader, type Place } from './message.js'
import type { Recovery } from './recovery.js'
import { apiCode } from './stream.js'

/** What is published and not yet acknowledged: bounds the memory that a slow broker costs. */
const inFlightMax = 256
const inFlightBytesMax = 4 << 20
const wrongLastMessage = 10070

export interface OutboxOptions {
  connection: NatsConnection
  newHeaders: typeof headers
  /** A subject of the connection's own, below which the answers come in. */
  inbox: string
  stream: string
  recovery: Recovery
  /** Each message demands that the one before it is the stream's last, so that nothing follows a message that failed. */
  chained: boolean
  ackTimeoutMs: number
  /** `settled` moved on by one message. */
  onSettled(settled: Place, duplicate: boolean): void
  /** Called once. `foreign`: the chain broke because somebody else published to the stream. */
  onFailed(error: unknown, foreign: boolean): void
}

interface Flight {
  sequence: Sequence
  bytes: number
  /** As performance.now() tells it. */
  sentAt: number
  ack?: Ack
}

export class Outbox {
  /** Everything up to here is in the stream. */
  #settled: Place
  readonly #beyond: Set<Sequence>
  #flights: Flight[] = []
  readonly #unanswered = new Map<string, Flight>()
  readonly #end: () => void
  #bytes = 0
  #lastId: string | undefined
  #failed = false
  #waiting: (() => void)[] = []

  constructor(readonly options: OutboxOptions) {
    const { connection, inbox, ackTimeoutMs } = options
    this.#settled = options.recovery.settled
    this.#beyond = new Set(options.recovery.beyond)
    // One subscription and one clock for all: a request with a timer, a promise and a stack for each message would cost
    // more than the message.
    const answers = connection.subscribe(`${inbox}.*`, {
      callback: (error, answer) => {
        if (error) return this.#fail(error) // the login may not subscribe here: then there is no answer either
        const flight = this.#unanswered.get(answer.subject.slice(inbox.length + 1))
        if (flight) this.#answered(flight, answer)
      },
    })
    const clock = setInterval(() => this.#checkAge(), ackTimeoutMs / 4)
    this.#end = () => {
      clearInterval(clock)
      if (!connection.isClosed()) answers.unsubscribe()
    }
  }

  close(): void {
    this.#end()
  }

  get settled(): Place {
    return this.#settled
  }

  get idle(): boolean {
    return this.#flights.length === 0
  }

  get hasRoom(): boolean {
    return this.#flights.length < inFlightMax && this.#bytes < inFlightBytesMax
  }

  /** Already in the stream, behind a gap: takes its place in the order without being sent. */
  skips(sequence: Sequence): boolean {
    if (!this.#beyond.has(sequence)) return false
    this.#flights.push({ sequence, bytes: 0, sentAt: 0, ack: { position: 0, duplicate: true } })
    this.#land()
    return true
  }

  /** The journal no longer has the events up to `sequence`. Only when nothing is in flight. */
  jump(sequence: Sequence): void {
    this.#settled = { ...this.#settled, sequence }
  }

  /** Resolves when there is room for another message, or nothing more to wait for. */
  room(signal: AbortSignal): Promise<void> {
    return this.#until(() => this.hasRoom, signal)
  }

  /** Resolves when everything is acknowledged, or given up, or when `signal` aborts. */
  drained(signal: AbortSignal): Promise<void> {
    return this.#until(() => this.idle, signal)
  }

  send(message: Message): void {
    if (this.#failed) return
    const { connection, newHeaders, inbox, stream, chained } = this.options
    const headers = newHeaders()
    headers.append(messageIdHeader, message.id)
    headers.append('Nats-Expected-Stream', stream)
    if (chained && this.#lastId !== undefined) headers.append('Nats-Expected-Last-Msg-Id', this.#lastId)
    for (const [name, value] of message.headers) headers.append(name, value)
    const token = message.sequence.toString()
    const flight: Flight = { sequence: message.sequence, bytes: message.data.length, sentAt: performance.now() }
    this.#flights.push(flight)
    this.#unanswered.set(token, flight)
    this.#bytes += flight.bytes
    this.#lastId = message.id
    try {
      connection.publish(message.subject, message.data, { reply: `${inbox}.${token}`, headers })
      failpoint('relay.published')
    } catch (error) {
      this.#fail(error, flight)
    }
  }

  #answered(flight: Flight, answer: Msg): void {
    this.#unanswered.delete(flight.sequence.toString())
    try {
      flight.ack = parseAck(answer)
      this.#land()
    } catch (error) {
      this.#fail(error, flight)
    }
  }

  #checkAge(): void {
    const oldest = this.#flights[0]
    if (!oldest || oldest.ack || performance.now() - oldest.sentAt < this.options.ackTimeoutMs) return
    this.#fail(new Refused('the broker does not acknowledge', 'TIMEOUT', { err_code: 0 }), oldest)
  }

  #land(): void {
    for (let first = this.#flights[0]; first?.ack && !this.#failed; first = this.#flights[0]) {
      this.#flights.shift()
      this.#bytes -= first.bytes
      this.#beyond.delete(first.sequence)
      // While gaps are open, later messages may lie before this one: a restart has to look from the old position on.
      const position = this.#beyond.size > 0 ? 0 : first.ack.position
      this.#settled = { sequence: first.sequence, position: Math.max(this.#settled.position, position) }
      this.options.onSettled(this.#settled, first.ack.duplicate)
      failpoint('relay.acknowledged')
    }
    this.#wake()
  }

  #fail(error: unknown, flight?: Flight): void {
    if (this.#failed) return
    this.#failed = true
    const foreign = apiCode(error) === wrongLastMessage && flight !== undefined && this.#flights[0] === flight
    this.options.onFailed(error, foreign)
    this.#wake()
  }

  async #until(condition: () => boolean, signal: AbortSignal): Promise<void> {
    const wake = () => this.#wake()
    signal.addEventListener('abort', wake)
    while (!this.#failed && !signal.aborted && !condition())
      await new Promise<void>(resolve => this.#waiting.push(resolve))
    signal.removeEventListener('abort', wake)
  }

  #wake(): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const resolve of waiting) resolve()
  }
}
