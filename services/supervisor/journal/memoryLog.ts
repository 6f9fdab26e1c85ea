// The journal in memory, for the simulator and for tests of what stands on a journal.
import { randomUUID } from 'node:crypto'
import type { Logger } from 'pino'
import { type CommitStore, Commits, type Flush } from './commits.js'
import { frameBytes } from './frame.js'
import type { Batch, FoldSnapshot, Journal, JournalHealth, JournalRecord, JournalStats, Sequence } from './journal.js'
import { decodeRecord } from './record.js'
import { attachmentOf, closedError } from './refusals.js'
import { StreamVersions } from './streams.js'

/** What outlives a close, as the files of the other journal do: give it to the next one to reopen. */
export interface MemoryStorage {
  id: string
  records: Uint8Array[]
  versions: Map<string, Sequence>
  snapshot: FoldSnapshot | undefined
}

export function memoryStorage(id: string = randomUUID()): MemoryStorage {
  return { id, records: [], versions: new Map(), snapshot: undefined }
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
    const last = BigInt(storage.records.length)
    const versions = new StreamVersions(storage.versions)
    this.commits = new Commits({ node, log, store, versions, last, gather: () => Promise.resolve() })
  }

  async append(batch: Batch): Promise<Sequence> {
    if (this.closed) throw closedError()
    return this.commits.append(batch)
  }

  async *read(from: Sequence): AsyncGenerator<JournalRecord> {
    for (let next = from > 0n ? from : 1n; next <= this.last(); next += 1n) {
      if (this.closed) throw closedError()
      yield this.record(next)
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
    return 1n
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
    return { ...this.commits.totals, size: this.bytes, segments: 1 }
  }

  async saveSnapshot({ sequence, state }: FoldSnapshot): Promise<void> {
    if (this.closed) throw closedError()
    if (sequence > this.last()) throw new RangeError(`a snapshot at ${sequence} is ahead of the journal`)
    this.storage.snapshot = { sequence, state: Buffer.from(state) }
  }

  async loadSnapshot(): Promise<FoldSnapshot | undefined> {
    return this.storage.snapshot
  }

  async close(): Promise<void> {
    if (this.closed) return
    this.closed = true
    await this.commits.idle()
  }

  private record(sequence: Sequence): JournalRecord {
    const bytes = sequence > 0n && sequence <= this.last() ? this.storage.records[Number(sequence) - 1] : undefined
    if (!bytes) throw new RangeError(`there is no record ${sequence}`)
    return decodeRecord(bytes)
  }
}
