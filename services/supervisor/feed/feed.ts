// The events to whoever wants them: one way in which history and the present are read, for every API that tells them.
import type { Journal, Sequence } from '../journal/journal.js'
import type { Store, Told } from '../state/store.js'
import { Happening } from './happening.js'
import type { QueueLimits } from './queue.js'
import { firstSince, type Since } from './since.js'
import { type MarkSettings, type Source, Subscriber } from './subscriber.js'

export interface FeedOptions {
  journal: Journal
  store: Store
  /** What may wait for one subscriber: more, and it reads the journal again. */
  queue?: QueueLimits
  marks?: MarkSettings
  /** A subscriber that does not read anything for so long is ended. */
  stallMs?: number
  /** Where a client of containerd's API begins that may have been cut off by a restart. */
  returning?: () => Since | undefined
}

export interface Selection {
  accepts(happening: Happening): boolean
  signal: AbortSignal
  /** Whether it wants to hear how far it has come while nothing passes its filter. */
  marks: boolean
}

export interface Subscription extends Selection {
  /** From now on unless told. */
  since: Since | undefined
}

export interface FeedStatus {
  /** Subscribers that read the journal, and that wait for what comes. */
  history: number
  live: number
  /** How often one fell behind and went back to the journal. */
  fellBehind: number
  /** Subscriptions that were ended because nothing was read from them. */
  endedSlow: number
}

const defaults = {
  queue: { events: 1024, bytes: 1 << 20 },
  marks: { records: 1000, idleMs: 1000 },
  stallMs: 5 * 60_000,
}

export class Feed {
  readonly journal: Journal
  readonly stallMs: number
  readonly returning: () => Since | undefined
  private readonly settings: typeof defaults
  private readonly store: Store
  private readonly subscribers = new Set<Subscriber>()
  /** Those of them that hear what comes. */
  private readonly live = new Set<Subscriber>()
  private readonly counts = { fellBehind: 0, endedSlow: 0 }
  private unsubscribe: (() => void) | undefined
  private readonly source: Source

  constructor({ journal, store, returning = () => undefined, ...options }: FeedOptions) {
    this.journal = journal
    this.returning = returning
    this.store = store
    this.settings = { ...defaults, ...options }
    this.stallMs = this.settings.stallMs
    this.source = {
      journal,
      heard: () => this.store.world.sequence,
      join: subscriber => this.join(subscriber),
      leave: subscriber => this.leave(subscriber),
      began: subscriber => void this.subscribers.add(subscriber),
      fellBehind: () => void this.counts.fellBehind++,
      ended: subscriber => void this.subscribers.delete(subscriber),
    }
  }

  /** Rejects when it cannot begin there. What happens after the call is told, even if it resolves later. */
  async subscribe({ since, ...selection }: Subscription): Promise<Subscriber> {
    const now = this.store.world.sequence + 1n
    return this.from(since ? await firstSince(this.journal, since) : now, selection)
  }

  /** `next`: the first record that it is told, if it accepts it. */
  from(next: Sequence, { accepts, signal, marks }: Selection): Subscriber {
    const { queue } = this.settings
    return new Subscriber(this.source, { next, accepts, signal, queue, marks: marks ? this.settings.marks : undefined })
  }

  status(): FeedStatus {
    return { history: this.subscribers.size - this.live.size, live: this.live.size, ...this.counts }
  }

  /** Said by whoever ends a subscription because nothing was read from it. */
  endedSlow(): void {
    this.counts.endedSlow++
  }

  private join(subscriber: Subscriber): void {
    this.live.add(subscriber)
    this.unsubscribe ??= this.store.subscribe(told => this.tell(told))
  }

  private leave(subscriber: Subscriber): void {
    this.live.delete(subscriber)
    if (this.live.size > 0) return
    this.unsubscribe?.()
    this.unsubscribe = undefined
  }

  /** Each event is decoded and put into an envelope once, whoever listens. */
  private tell({ record, event }: Told): void {
    const happening = new Happening(record, event)
    for (const subscriber of this.live) subscriber.hear(happening)
  }
}
