// Group commit: batches queue up while the store writes, and go together into its next write.
import type { Logger } from 'pino'
import type { Batch, JournalRecord, JournalUnavailable, Sequence } from './journal.js'
import { encodeRecord, recordsOf } from './record.js'
import type { StreamVersions } from './streams.js'

/** A batch that was accepted, with the sequences that it gets if nothing before it fails. */
export interface Pending {
  batch: Batch
  records: JournalRecord[]
  /** The records' bytes, one for one. */
  encoded: Uint8Array[]
}

/** How a write ended. */
export type Written =
  /** So many batches from the front are durable, at least one. `bytes` as the store counts them. */
  | { durable: number; bytes: number }
  /** Nothing became durable. Whatever waits is refused, except for batches that are `spared`: they get another write. */
  | { refused: JournalUnavailable; spared: (batch: Batch) => boolean }

export interface CommitStore {
  /** Writes as many of the batches as it likes, from the front on. Must not throw. */
  write(waiting: readonly Pending[]): Promise<Written>
}

export type Flush = { records: number; bytes: number; seconds: number }
type Waiting = Pending & { resolve(last: Sequence): void; reject(error: Error): void }

export interface CommitsOptions {
  node: string
  log: Logger
  store: CommitStore
  versions: StreamVersions
  /** The last durable sequence. */
  last: Sequence
  /** Waited for before each write, so that those who come together are written together. */
  gather(): Promise<void>
}

export class Commits {
  private waiting: Waiting[] = []
  private running: Promise<void> | undefined
  private next: Sequence
  private readonly durableListeners = new Set<(records: readonly JournalRecord[]) => void>()
  private readonly flushListeners = new Set<(flush: Flush) => void>()
  /** Records and bytes that became durable, and the writes that it took. */
  readonly totals = { appends: 0, bytes: 0, flushes: 0 }
  last: Sequence

  constructor(private readonly options: CommitsOptions) {
    this.last = options.last
    this.next = options.last + 1n
  }

  /** Resolves with the batch's last sequence when it is durable and the listeners have heard it. */
  append(batch: Batch): Promise<Sequence> {
    if (batch.entries.length === 0) return Promise.reject(new RangeError('a batch needs at least one entry'))
    const conflict = this.options.versions.conflict(batch)
    if (conflict) return Promise.reject(conflict)
    return new Promise((resolve, reject) => {
      this.queue({ batch, resolve, reject })
      this.running ??= this.run()
    })
  }

  /** Resolves when nothing waits any more. */
  async idle(): Promise<void> {
    await this.running
  }

  /** Runs `work`, which must not throw, unless something is being written. Appends wait for it. */
  async ifIdle(work: () => Promise<void>): Promise<void> {
    this.running ??= work().then(() => this.run())
    await this.running
  }

  onDurable(listener: (records: readonly JournalRecord[]) => void): () => void {
    this.durableListeners.add(listener)
    return () => this.durableListeners.delete(listener)
  }

  onFlush(listener: (flush: Flush) => void): () => void {
    this.flushListeners.add(listener)
    return () => this.flushListeners.delete(listener)
  }

  private queue({ batch, resolve, reject }: Omit<Waiting, 'records' | 'encoded'>): void {
    const records = recordsOf(batch, this.next, this.options.node)
    this.waiting.push({ batch, records, encoded: records.map(encodeRecord), resolve, reject })
    this.next += BigInt(records.length)
    this.options.versions.stage(records)
  }

  private async run(): Promise<void> {
    const { store, gather } = this.options
    while (this.waiting.length > 0) {
      await gather()
      const begun = performance.now()
      const written = await store.write(this.waiting.slice())
      if ('refused' in written) this.refuse(written.refused, written.spared)
      else this.accept(this.waiting.splice(0, written.durable), written.bytes, (performance.now() - begun) / 1000)
    }
    this.running = undefined
  }

  private accept(group: Waiting[], bytes: number, seconds: number): void {
    const records = group.flatMap(waiting => waiting.records)
    this.last += BigInt(records.length)
    this.totals.appends += records.length
    this.totals.bytes += bytes
    this.totals.flushes += 1
    this.options.versions.settle(records)
    this.tell(this.durableListeners, records)
    this.tell(this.flushListeners, { records: records.length, bytes, seconds })
    for (const { records, resolve } of group) resolve(records.at(-1)?.sequence ?? this.last)
  }

  /** What comes behind a refused batch was decided as if that had happened: the spared are checked again. */
  private refuse(error: JournalUnavailable, spared: (batch: Batch) => boolean): void {
    const group = this.waiting
    this.waiting = []
    this.next = this.last + 1n
    this.options.versions.discardStaged()
    for (const waiting of group) {
      const conflict = spared(waiting.batch) ? this.options.versions.conflict(waiting.batch) : error
      if (conflict) waiting.reject(conflict)
      else this.queue(waiting)
    }
  }

  /** A listener that throws has a bug; the records are durable all the same and the others must hear them. */
  private tell<T>(listeners: Set<(news: T) => void>, news: T): void {
    for (const listener of listeners)
      try {
        listener(news)
      } catch (error) {
        this.options.log.error({ err: error }, 'a listener to the journal failed; the records are durable')
      }
  }
}
