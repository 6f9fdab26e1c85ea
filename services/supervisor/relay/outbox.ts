// The messages on their way: a bounded number, acknowledged in order, given up together at the first failure.

import type { headers, Msg, NatsConnection } from 'nats'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import type { Sequence } from '../journal/journal.js'
import { type Ack, parseAck, Refused } from './ack.js'
import { type Message, messageIdHeader, type Place } from './message.js'
import type { Recovery } from './recovery.js'
import { apiCode } from './stream.js'

/** What is taken from the journal and not yet acknowledged: bounds the memory that a slow broker costs. */
const inFlightMax = 256
/** A link that carries this in two pings' time is fast enough. */
const inFlightBytesMax = 1 << 20
const wrongLastMessage = 10070
/** So many messages go one by one when a stranger's came between ours; doubled each time that it happens again soon. */
const aloneMin = 8
const aloneMax = 1024

export interface OutboxOptions {
  connection: NatsConnection
  newHeaders: typeof headers
  /** A subject of the connection's own, below which the answers come in. */
  inbox: string
  stream: string
  recovery: Recovery
  /** How long the broker may be silent while something is on its way. */
  ackTimeoutMs: number
  /** `settled` moved on by one message. */
  onSettled(settled: Place, duplicate: boolean): void
  /** Called once. */
  onFailed(error: unknown): void
}

interface Flight {
  sequence: Sequence
  /** undefined: lies in the stream already, behind a gap. */
  message: Message | undefined
  ack?: Ack
}

/**
 * A message that follows another one still on its way demands that this one is the stream's last. So when the broker
 * does not take a message (it is full, its leader changes), it takes none of those behind it either, and the order
 * holds. In a stream that others publish to, too, theirs may come between: then all that followed is refused as well,
 * and is sent once more, one by one for a while.
 */
export class Outbox {
  /** Everything up to here is in the stream. */
  #settled: Place
  readonly #beyond: Set<Sequence>
  #flights: Flight[] = []
  /** The first of them, that many, were sent. */
  #sent = 0
  readonly #unanswered = new Map<string, Flight>()
  #tokens = 0
  readonly #end: () => void
  #bytes = 0
  /** Messages that still have to go one by one. */
  #alone = 0
  #nextAlone = aloneMin
  #landedTogether = 0
  /** When the broker answered last, or had nothing to answer, as performance.now() tells it. */
  #heardAt = 0
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
        this.#answered(answer.subject.slice(inbox.length + 1), answer)
      },
    })
    const clock = setInterval(() => this.#checkSilence(), ackTimeoutMs / 4)
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
    this.#flights.push({ sequence, message: undefined, ack: { position: 0, duplicate: true } })
    this.#proceed()
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
    this.#flights.push({ sequence: message.sequence, message })
    this.#bytes += message.data.length
    this.#proceed()
  }

  #proceed(): void {
    for (;;) {
      this.#land()
      const flight = this.#flights[this.#sent]
      if (this.#failed || !flight || (this.#alone > 0 && this.#sent > 0)) return
      const before = this.#flights[this.#sent - 1]
      this.#sent += 1
      if (flight.message) this.#publish(flight, flight.message, before?.message)
    }
  }

  #publish(flight: Flight, message: Message, before: Message | undefined): void {
    const { connection, newHeaders, inbox, stream } = this.options
    const headers = newHeaders()
    headers.append(messageIdHeader, message.id)
    headers.append('Nats-Expected-Stream', stream)
    if (before) headers.append('Nats-Expected-Last-Msg-Id', before.id)
    for (const [name, value] of message.headers) headers.append(name, value)
    const token = String(++this.#tokens)
    if (this.#unanswered.size === 0) this.#heardAt = performance.now()
    this.#unanswered.set(token, flight)
    try {
      connection.publish(message.subject, message.data, { reply: `${inbox}.${token}`, headers })
      failpoint('relay.published')
    } catch (error) {
      this.#fail(error)
    }
  }

  #answered(token: string, answer: Msg): void {
    const flight = this.#unanswered.get(token)
    if (!flight || this.#failed) return
    this.#heardAt = performance.now()
    this.#unanswered.delete(token)
    try {
      flight.ack = parseAck(answer)
    } catch (error) {
      // Only the first: that another one's predecessor is not the last may also mean that it never arrived.
      if (apiCode(error) === wrongLastMessage && flight === this.#flights[0]) this.#sendAlone()
      else this.#fail(error)
    }
    this.#proceed()
  }

  /** Somebody else's message came between ours, so that this one and all behind it are refused. */
  #sendAlone(): void {
    this.#unanswered.clear()
    this.#sent = 0
    this.#alone = this.#nextAlone
    this.#nextAlone = Math.min(2 * this.#nextAlone, aloneMax)
    this.#landedTogether = 0
  }

  /** A slow broker answers late, but answers; one that is away does not. */
  #checkSilence(): void {
    if (this.#unanswered.size === 0 || performance.now() - this.#heardAt < this.options.ackTimeoutMs) return
    this.#fail(new Refused('the broker does not acknowledge', 'TIMEOUT', { err_code: 0 }))
  }

  #land(): void {
    for (let first = this.#flights[0]; first?.ack && !this.#failed; first = this.#flights[0]) {
      this.#flights.shift()
      if (this.#sent > 0) this.#sent -= 1
      this.#bytes -= first.message?.data.length ?? 0
      this.#countCalm()
      this.#beyond.delete(first.sequence)
      // While gaps are open, later messages may lie before this one: a restart has to look from the old position on.
      const position = this.#beyond.size > 0 ? 0 : first.ack.position
      this.#settled = { sequence: first.sequence, position: Math.max(this.#settled.position, position) }
      this.options.onSettled(this.#settled, first.ack.duplicate)
      failpoint('relay.acknowledged')
    }
    this.#wake()
  }

  #countCalm(): void {
    if (this.#alone > 0) this.#alone -= 1
    else if (++this.#landedTogether > inFlightMax) this.#nextAlone = aloneMin
  }

  #fail(error: unknown): void {
    if (this.#failed) return
    this.#failed = true
    this.options.onFailed(error)
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
