// The journal in memory, for the simulator and for tests of what stands on a journal.
import { randomUUID } from 'node:crypto'
import type { Logger } from 'pino'
import { type CommitStore, Commits, type Flush } from './commits.js'
import { frameBytes } from './frame.js'
import type {
  Batch,
  FoldSnapshot,
  Journal,
  JournalHealth,
  JournalRecord,
  JournalStats,
  KeptSegment,
  Sequence,
} from './journal.js'
import { decodeRecord } from './record.js'
import { attachmentOf, closedError } from './refusals.js'
import { SNAPSHOTS_NEEDED, surplus } from './snapshots.js'
import { StreamVersions } from './streams.js'

/** So many records are dropped together. */
const SEGMENT_RECORDS = 256n

/** What outlives a close, as the files of the other journal do: give it to the next one to reopen. */
export interface MemoryStorage {
  id: string
  /** Those from `first` on. */
  records: Uint8Array[]
  first: Sequence
  versions: Map<string, Sequence>
  /** Newest first. */
  snapshots: FoldSnapshot[]
}

export function memoryStorage(id: string = randomUUID()): MemoryStorage {
  return { id, records: [], first: 1n, versions: new Map(), snapshots: [] }
}

/** Durable means "a microtask later": a simulation of many appends never waits for a real clock or disk. */
export function openMemoryJournal({
  node,
  log,
  storage = memoryStorage(),
}: {
  node: string
  log: Logger
  storage?: MemoryStorage
}): Journal {
  return new MemoryLog(node, log, storage)
}

class MemoryLog implements Journal {
  readonly id: string
  private readonly commits: Commits
  private bytes = 0
  private readonly dropped = { compactions: 0, droppedSegments: 0 }
  private readonly readers = new Set<{ next: Sequence }>()
  private closed = false

  constructor(
    node: string,
    log: Logger,
    private readonly storage: MemoryStorage,
  ) {
    this.id = storage.id
    const store: CommitStore = {
      write: async waiting => {
        const encoded = waiting.flatMap(pending => pending.encoded)
        const bytes = encoded.reduce((total, { length }) => total + frameBytes(length), 0)
        storage.records.push(...encoded)
        this.bytes += bytes
        return { durable: waiting.length, bytes }
      },
    }
    const last = storage.first - 1n + BigInt(storage.records.length)
    const versions = new StreamVersions(storage.versions)
    this.commits = new Commits({ node, log, store, versions, last, gather: () => Promise.resolve() })
  }

  async append(batch: Batch): Promise<Sequence> {
    if (this.closed) throw closedError()
    return this.commits.append(batch)
  }

  async *read(from: Sequence): AsyncGenerator<JournalRecord> {
    if (from > 0n && from < this.first()) throw new RangeError(`records before ${this.first()} are no longer kept`)
    const reader = { next: from > 0n ? from : this.first() }
    this.readers.add(reader)
    try {
      for (; reader.next <= this.last(); reader.next += 1n) {
        if (this.closed) throw closedError()
        yield this.record(reader.next)
      }
    } finally {
      this.readers.delete(reader)
    }
  }

  async attachment(sequence: Sequence, index: number): Promise<Uint8Array> {
    if (this.closed) throw closedError()
    return attachmentOf(this.record(sequence), index)
  }

  last(): Sequence {
    return this.commits.last
  }

  first(): Sequence {
    return this.storage.first
  }

  onDurable(listener: (records: readonly JournalRecord[]) => void): () => void {
    return this.commits.onDurable(listener)
  }

  onFlush(listener: (flush: Flush) => void): () => void {
    return this.commits.onFlush(listener)
  }

  health(): JournalHealth {
    return { writable: true }
  }

  stats(): JournalStats {
    const nothingWrong = { damagedPlaces: 0, tornEnds: 0 }
    const segments = this.segments().length
    return { ...this.commits.totals, ...this.dropped, ...nothingWrong, size: this.bytes, segments }
  }

  async saveSnapshot({ sequence, state }: FoldSnapshot): Promise<void> {
    if (this.closed) throw closedError()
    if (sequence > this.last()) throw new RangeError(`a snapshot at ${sequence} is ahead of the journal`)
    const others = this.storage.snapshots.filter(other => other.sequence !== sequence)
    const all = [...others, { sequence, state: Buffer.from(state) }].sort((a, b) => (a.sequence < b.sequence ? 1 : -1))
    const removed = surplus(all.map(({ sequence }) => sequence))
    this.storage.snapshots = all.filter(({ sequence }) => !removed.includes(sequence))
  }

  async loadSnapshot(upTo?: Sequence): Promise<FoldSnapshot | undefined> {
    return this.storage.snapshots.find(({ sequence }) => upTo === undefined || sequence <= upTo)
  }

  async snapshots(): Promise<Sequence[]> {
    return this.storage.snapshots.map(({ sequence }) => sequence)
  }

  segments(): readonly KeptSegment[] {
    const segments: KeptSegment[] = []
    let first = this.first()
    do {
      const end = first - ((first - 1n) % SEGMENT_RECORDS) + SEGMENT_RECORDS - 1n
      const last = end < this.last() ? end : this.last()
      const records = this.storage.records.slice(Number(first - this.first()), Number(last - this.first()) + 1)
      segments.push({ first, last, bytes: records.reduce((total, { length }) => total + frameBytes(length), 0) })
      first = last + 1n
    } while (first <= this.last())
    return segments
  }

  async dropBefore(sequence: Sequence): Promise<Sequence> {
    const { storage } = this
    const oldest = storage.snapshots.slice(0, SNAPSHOTS_NEEDED).at(-1)
    if (!oldest) return storage.first
    const limits = [sequence, oldest.sequence + 1n, ...[...this.readers].map(({ next }) => next)]
    const needed = limits.reduce((least, limit) => (limit < least ? limit : least))
    const segments = this.segments()
    const kept = segments.findLastIndex(({ first }) => first <= needed)
    const first = segments[kept]?.first
    if (kept <= 0 || first === undefined) return storage.first
    storage.records.splice(0, Number(first - storage.first))
    storage.first = first
    storage.snapshots = storage.snapshots.filter(
      ({ sequence }, index) => index < SNAPSHOTS_NEEDED || sequence + 1n >= first,
    )
    this.dropped.compactions += 1
    this.dropped.droppedSegments += kept
    return first
  }

  async close(): Promise<void> {
    if (this.closed) return
    this.closed = true
    await this.commits.idle()
  }

  private record(sequence: Sequence): JournalRecord {
    const { first, records } = this.storage
    const bytes = sequence >= first && sequence <= this.last() ? records[Number(sequence - first)] : undefined
    if (!bytes) throw new RangeError(`there is no record ${sequence}`)
    return decodeRecord(bytes)
  }
}
