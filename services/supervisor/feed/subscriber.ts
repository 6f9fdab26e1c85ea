// One subscriber: reads the journal from where it stands, then hears what comes, and goes back to the journal when it
// fell behind. Its place is one number, so neither a gap nor a double is possible: what it is told next is the first
// record from `next` on that it accepts, wherever that record comes from.
import type { Journal, Sequence } from '../journal/journal.js'
import { unreadable } from './errors.js'
import { Happening } from './happening.js'
import { Queue, type QueueLimits } from './queue.js'

export type News =
  | { kind: 'event'; happening: Happening }
  /** All up to here has been told or was not accepted. `present`: nothing is behind it at the moment. */
  | { kind: 'mark'; sequence: Sequence; timeUnixNano: bigint | undefined; present: boolean }

/** When a subscriber that is told little hears how far it has come. */
export interface MarkSettings {
  /** After so many records that it did not accept. */
  records: number
  /** When nothing happened for so long since some were not accepted. */
  idleMs: number
}

export interface SubscriberOptions {
  /** The first record that it has not seen. */
  next: Sequence
  accepts(happening: Happening): boolean
  /** Ends it, quietly. */
  signal: AbortSignal
  /** None unless asked for. */
  marks: MarkSettings | undefined
  queue: QueueLimits
}

/** What a subscriber needs of the feed. */
export interface Source {
  readonly journal: Pick<Journal, 'id' | 'read' | 'first'>
  /** Up to here all has been told to those who hear. */
  heard(): Sequence
  /** From now on the subscriber hears each durable event, or no more. */
  join(subscriber: Subscriber): void
  leave(subscriber: Subscriber): void
  /** For whoever counts. */
  began(subscriber: Subscriber): void
  fellBehind(): void
  ended(subscriber: Subscriber): void
}

export class Subscriber implements AsyncIterable<News> {
  private at: Sequence
  /** The last that it heard, whether it accepted it or not; undefined while it reads the journal. */
  private heard: Sequence | undefined
  private marked: Sequence
  /** Of the last record that it read or heard. */
  private timeUnixNano: bigint | undefined
  private readonly queue: Queue
  private wake = () => {}

  constructor(
    private readonly source: Source,
    private readonly options: SubscriberOptions,
  ) {
    this.at = options.next
    this.marked = options.next - 1n
    this.queue = new Queue(options.queue)
  }

  /** The first record that it was not told yet, and that it is not known to refuse. */
  get next(): Sequence {
    return this.at
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<News> {
    const { signal } = this.options
    const wakeUp = () => this.wake()
    signal.addEventListener('abort', wakeUp)
    this.source.began(this)
    try {
      while (!signal.aborted) {
        yield* this.past()
        if (this.join()) yield* this.present()
      }
    } finally {
      signal.removeEventListener('abort', wakeUp)
      this.leave()
      this.source.ended(this)
    }
  }

  /** Called by the feed with each durable event, in order. Never waits, never throws. */
  hear(happening: Happening): void {
    if (this.heard === undefined || happening.sequence <= this.heard) return
    const accepted = this.options.accepts(happening)
    const missed = happening.sequence !== this.heard + 1n
    if (missed || (accepted && !this.queue.put(happening))) this.fallBehind()
    else this.heard = happening.sequence
    this.timeUnixNano = happening.record.timeUnixNano
    if (this.heard === undefined || accepted || this.isMarkDue(this.heard)) this.wake()
  }

  private async *past(): AsyncGenerator<News> {
    const { accepts, marks, signal } = this.options
    try {
      for await (const record of this.source.journal.read(this.at)) {
        if (signal.aborted) return
        const happening = new Happening(record)
        this.at = record.sequence + 1n
        this.timeUnixNano = record.timeUnixNano
        if (accepts(happening)) yield this.told(happening)
        else if (marks && this.unmarked() >= marks.records) yield this.mark(false)
      }
    } catch (error) {
      if (!signal.aborted) throw unreadable(this.source.journal, this.at, error)
    }
  }

  /** Between this and the end of the journal's reading no event can become durable, as nothing is waited for. */
  private join(): boolean {
    const heard = this.source.heard()
    if (this.options.signal.aborted || this.at !== heard + 1n) return false
    this.heard = heard
    this.source.join(this)
    return true
  }

  /** Ends when it fell behind or is over. */
  private async *present(): AsyncGenerator<News> {
    const { marks, signal } = this.options
    if (marks) yield this.mark(true)
    let quiet = false
    while (!signal.aborted) {
      const happening = this.queue.take()
      if (happening) {
        this.at = happening.sequence + 1n
        yield this.told(happening)
        continue
      }
      if (this.heard === undefined) return
      this.at = this.heard + 1n
      if (marks && this.unmarked() >= (quiet ? 1 : marks.records)) yield this.mark(true)
      else quiet = await this.silence(marks?.idleMs)
    }
  }

  private told(happening: Happening): News {
    this.marked = happening.sequence
    return { kind: 'event', happening }
  }

  private mark(present: boolean): News {
    this.marked = this.at - 1n
    return { kind: 'mark', sequence: this.marked, timeUnixNano: this.timeUnixNano, present }
  }

  /** Records that it passed since it was told how far it has come. */
  private unmarked(): number {
    return Number(this.at - 1n - this.marked)
  }

  private isMarkDue(heard: Sequence): boolean {
    const { marks } = this.options
    return marks !== undefined && Number(heard - this.marked) >= marks.records
  }

  private fallBehind(): void {
    this.source.fellBehind()
    this.leave()
  }

  private leave(): void {
    this.source.leave(this)
    this.heard = undefined
    this.queue.clear()
  }

  /** Waits for something to do; true when nothing came in time. */
  private silence(forMs: number | undefined): Promise<boolean> {
    return new Promise(resolve => {
      const timer = forMs === undefined ? undefined : setTimeout(() => resolve(true), forMs)
      this.wake = () => {
        clearTimeout(timer)
        resolve(false)
      }
      if (this.options.signal.aborted) this.wake()
    })
  }
}
