// One subscriber of events: a queue that is filled as events become durable and emptied as the caller reads.
import { Code, StatusError } from '../../../plugins/kit/errors.js'
import type { Envelope } from '../../../proto/gen/containerd/types/event.js'
import type { Sequence } from '../journal/journal.js'

/** What may wait for one subscriber: far more than a client that reads ever has. */
export interface QueueLimits {
  envelopesMax: number
  bytesMax: number
}

const defaultLimits: QueueLimits = { envelopesMax: 8192, bytesMax: 16 << 20 }

interface Waiting {
  envelope: Envelope
  sequence: Sequence
  bytes: number
}

/**
 * Ends quietly when `signal` aborts; throws RESOURCE_EXHAUSTED when the caller did not read and events were missed.
 * What waited is given up with it, so a subscriber that stopped reading holds no memory.
 */
export class Subscription implements AsyncIterable<Envelope> {
  private queue: Waiting[] = []
  /** Where in the queue the next one is; the places before it are empty. */
  private head = 0
  private bytes = 0
  /** The first event that the caller does not get. */
  private missedFrom: Sequence | undefined
  private wake = () => {}

  constructor(
    private readonly signal: AbortSignal,
    private readonly limits: QueueLimits = defaultLimits,
  ) {}

  /** Never waits. False: the subscriber has fallen behind and needs no more. */
  push(envelope: Envelope, sequence: Sequence): boolean {
    if (this.missedFrom !== undefined) return false
    const bytes = bytesOf(envelope)
    this.queue.push({ envelope, sequence, bytes })
    this.bytes += bytes
    if (this.queue.length - this.head > this.limits.envelopesMax || this.bytes > this.limits.bytesMax) this.giveUp()
    this.wake()
    return this.missedFrom === undefined
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Envelope> {
    const wakeUp = () => this.wake()
    this.signal.addEventListener('abort', wakeUp)
    try {
      while (!this.signal.aborted) {
        const next = this.take()
        if (next) yield next
        else if (this.missedFrom !== undefined) throw fellBehind(this.missedFrom)
        else await this.news()
      }
    } finally {
      this.signal.removeEventListener('abort', wakeUp)
    }
  }

  private take(): Envelope | undefined {
    const next = this.queue[this.head]
    if (!next) return undefined
    this.head++
    this.bytes -= next.bytes
    if (this.head === this.queue.length || this.head >= 1024) {
      this.queue = this.queue.slice(this.head)
      this.head = 0
    }
    return next.envelope
  }

  private giveUp(): void {
    this.missedFrom = this.queue[this.head]?.sequence
    this.queue = []
    this.head = 0
    this.bytes = 0
  }

  private news(): Promise<void> {
    return new Promise(resolve => {
      this.wake = resolve
      if (this.signal.aborted) resolve()
    })
  }
}

function fellBehind(sequence: Sequence): StatusError {
  return new StatusError(
    Code.RESOURCE_EXHAUSTED,
    `the subscriber read too slowly and missed the events from sequence ${sequence} on: subscribe again, and look at the present state`,
  )
}

/** Near enough for a limit: the payload, and what an object costs besides. */
const bytesOf = ({ topic, event }: Envelope): number => 256 + topic.length + (event?.value.length ?? 0)
