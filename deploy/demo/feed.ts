// The events of the demo's supervisor as they come from NATS, over the death of a supervisor and its broker as well.
import type { Host } from '../../test/harness/host.js'
import { listen, type RelayedEvent } from '../../test/harness/jetstream.js'
import { Arrivals, OpenScope } from '../../test/harness/wait.js'

export interface FeedEvent {
  /** The journal's sequence. */
  sequence: bigint
  /** "/tasks/start" */
  topic: string
  /** What it is about: for a task, the container's id. */
  subject: string
  data: Record<string, unknown>
}

export class Feed {
  /** Every event once, in order. */
  readonly events = new Arrivals<FeedEvent>()
  #connection = new OpenScope()
  #numbers: bigint[] = []

  /** Reads the stream from its beginning; what was seen before is not told again. */
  async follow(host: Host): Promise<void> {
    await this.close()
    this.#numbers = []
    const arrivals = await listen(this.#connection, host)
    arrivals.each(event => this.#take(event))
  }

  first(topic: string, subject: string, matches = (_: FeedEvent['data']) => true): Promise<FeedEvent> {
    return this.events.first(`the event ${topic} of ${subject} to arrive from NATS`, event => {
      return event.topic === topic && event.subject === subject && matches(event.data)
    })
  }

  /** What is wrong with the numbers of the stream as it was read last: they have to be 1, 2, 3 …; '' when nothing is. */
  flaw(): string {
    const wrong = this.#numbers.findIndex((number, index) => number !== BigInt(index + 1))
    return wrong < 0 ? '' : `the event after number ${wrong} has number ${this.#numbers[wrong]}`
  }

  async close(): Promise<void> {
    await this.#connection.close()
    this.#connection = new OpenScope()
  }

  #take({ sequence, subject, data }: RelayedEvent): void {
    this.#numbers.push(sequence)
    if (sequence <= (this.events.items.at(-1)?.sequence ?? 0n)) return
    // purser.<node>.<namespace>.<topic with dots>.<id, percent-encoded>
    const parts = subject.split('.')
    this.events.push({
      sequence,
      topic: `/${parts.slice(3, -1).join('/')}`,
      // A snapshot that is made into a layer is told by that: "extract-… sha256:…" says less.
      subject: typeof data.name === 'string' ? data.name : decodeURIComponent(parts.at(-1) ?? ''),
      data,
    })
  }
}
