// The journal on disk: the port's promises, kept by a writer, a reader, a mark and snapshots.
import { randomUUID } from 'node:crypto'
import { setImmediate as turn } from 'node:timers/promises'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import { Commits, type Flush } from './commits.js'
import { realDisk } from './disk.js'
import { refuseNewer } from './format.js'
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
import { lockDirectory } from './lock.js'
import { type Prepared, prepare } from './prepare.js'
import { type Piece, SegmentReader } from './reader.js'
import { Recent } from './recent.js'
import { type Recovered, recover } from './recover.js'
import { attachmentOf, closedError } from './refusals.js'
import type { Segment } from './segment.js'
import type { FileJournalOptions, FileJournalSettings } from './settings.js'
import { dropSnapshotsBefore, listSnapshots, newestSnapshot, SNAPSHOTS_NEEDED, writeSnapshot } from './snapshots.js'
import { StreamVersions } from './streams.js'
import { unavailable } from './trouble.js'
import { Writer } from './writer.js'

const RECENT = { records: 2048, bytes: 1024 * 1024 }
/** Records that a reader gets from memory before others get their turn. */
const CACHED_IN_A_ROW = 128

/**
 * Opens, and makes if need be, the journal in a directory, for this process alone. Rejects with JournalLocked when
 * another process has it, with JournalNewer when this program is too old for it. A journal that can't be written to opens all the same, and `health()` tells why.
 */
export async function openFileJournal(options: FileJournalOptions): Promise<Journal> {
  const settings = {
    segmentBytes: 64 * 1024 * 1024,
    preallocateBytes: 1024 * 1024,
    reserveBytes: 4 * 1024 * 1024,
    markEveryMs: 250,
    healEveryMs: 1000,
    disk: realDisk,
    ...options,
  }
  await settings.disk.makeDirectory(settings.dir)
  await refuseNewer(settings.disk, settings.dir, settings.writtenBy)
  const unlock = lockDirectory(settings.dir)
  try {
    const recovered = await recover(settings.disk, settings.dir, settings.log)
    const id = recovered.journal ?? randomUUID()
    return new FileLog(settings, id, recovered, await prepare(settings, recovered, id), unlock)
  } catch (error) {
    unlock()
    throw error
  }
}

class FileLog implements Journal {
  private readonly kept: Segment[]
  private readonly versions: StreamVersions
  private readonly commits: Commits
  private readonly reader: SegmentReader
  private readonly writer: Writer
  private readonly recent = new Recent(RECENT)
  private readonly mark
  private firstKept: Sequence
  /** Those who read: what they are to read next is not dropped. */
  private readonly readers = new Set<{ next: Sequence }>()
  private readonly dropped = { compactions: 0, droppedSegments: 0 }
  private readonly found: Pick<JournalStats, 'damagedPlaces' | 'tornEnds'>
  private dropping: Promise<unknown> = Promise.resolve()
  private saving: Promise<void> = Promise.resolve()
  private marking: Promise<void> = Promise.resolve()
  private ended = false
  private markTimer: NodeJS.Timeout | undefined
  private closing: Promise<void> | undefined

  constructor(
    private readonly settings: FileJournalSettings,
    readonly id: string,
    { segments, indexes, versions, first, last, damagedPlaces, torn }: Recovered,
    prepared: Prepared,
    private readonly unlock: () => void,
  ) {
    const { node, log, disk } = settings
    this.kept = segments
    this.firstKept = first
    this.found = { damagedPlaces, tornEnds: torn === undefined ? 0 : 1 }
    this.mark = prepared.writing?.mark
    this.reader = new SegmentReader(disk, segments)
    for (const [segment, index] of indexes) this.reader.keepIndex(segment, index)
    const lastSegment = segments.at(-1)
    this.writer = new Writer({
      settings,
      journal: id,
      prepared,
      segments,
      index: lastSegment && indexes.get(lastSegment),
      reader: this.reader,
      recent: this.recent,
      askToHeal: () => void this.commits.ifIdle(() => this.writer.heal()),
      ended: () => this.markEnd(),
    })
    this.versions = new StreamVersions(versions)
    // A turn of the event loop: all who were woken by the flush before have come back with their next batch.
    const gather = () => new Promise<void>(resolve => setImmediate(resolve))
    this.commits = new Commits({ node, log, store: this.writer, versions: this.versions, last, gather })
    this.commits.onDurable(() => this.markSoon())
  }

  async append(batch: Batch): Promise<Sequence> {
    if (this.closing) throw closedError()
    const refusal = this.writer.refusal()
    if (refusal) throw refusal
    return this.commits.append(batch)
  }

  async *read(from: Sequence): AsyncGenerator<JournalRecord> {
    if (from > 0n && from < this.first()) throw new RangeError(`records before ${this.first()} are no longer kept`)
    const reader = { next: from > 0n ? from : this.first() }
    this.readers.add(reader)
    try {
      yield* this.readWith(reader)
    } finally {
      this.readers.delete(reader)
    }
  }

  private async *readWith(reader: { next: Sequence }): AsyncGenerator<JournalRecord> {
    let place: Piece['next']
    while (reader.next <= this.last()) {
      if (this.closing) throw closedError()
      if (this.recent.get(reader.next)) {
        for (let count = 0; count < CACHED_IN_A_ROW; count += 1) {
          const record = this.recent.get(reader.next)
          if (!record || reader.next > this.last()) break
          reader.next += 1n
          yield record
        }
        await turn()
      } else {
        const piece = await this.reader.piece(reader.next, this.last(), place)
        place = piece.next
        reader.next += BigInt(piece.records.length)
        yield* piece.records
      }
    }
  }

  async attachment(sequence: Sequence, index: number): Promise<Uint8Array> {
    if (this.closing) throw closedError()
    if (sequence < this.first() || sequence > this.last()) throw new RangeError(`there is no record ${sequence}`)
    const reader = { next: sequence }
    this.readers.add(reader)
    try {
      return attachmentOf(this.recent.get(sequence) ?? (await this.reader.record(sequence)), index)
    } finally {
      this.readers.delete(reader)
    }
  }

  last(): Sequence {
    return this.commits.last
  }

  first(): Sequence {
    return this.firstKept
  }

  onDurable(listener: (records: readonly JournalRecord[]) => void): () => void {
    return this.commits.onDurable(listener)
  }

  onFlush(listener: (flush: Flush) => void): () => void {
    return this.commits.onFlush(listener)
  }

  health(): JournalHealth {
    return this.writer.health()
  }

  stats(): JournalStats {
    const size = this.kept.reduce((total, segment) => total + segment.size, 0)
    return { ...this.commits.totals, ...this.dropped, ...this.found, size, segments: this.kept.length }
  }

  async saveSnapshot({ sequence, state }: FoldSnapshot): Promise<void> {
    if (this.closing) throw closedError()
    const durable = this.last()
    if (sequence > durable)
      throw new RangeError(`a snapshot at ${sequence} is ahead of the journal, which ends at ${durable}`)
    const health = this.health()
    if (!health.writable && health.reason !== 'full') throw unavailable(health)
    const { disk, dir } = this.settings
    const end = this.writer.milestone()
    const milestone = end?.sequence === sequence ? end : undefined
    const snapshot = { sequence, state, durable, milestone, versions: this.versions.copy() }
    const saved = this.saving.then(() => writeSnapshot(disk, dir, this.id, snapshot))
    this.saving = saved.catch(() => {})
    await saved
  }

  async loadSnapshot(upTo?: Sequence): Promise<FoldSnapshot | undefined> {
    const { disk, dir, log } = this.settings
    const snapshot = await newestSnapshot(disk, dir, this.id, log, upTo)
    return snapshot && { sequence: snapshot.sequence, state: snapshot.state }
  }

  snapshots(): Promise<Sequence[]> {
    return listSnapshots(this.settings.disk, this.settings.dir)
  }

  segments(): readonly KeptSegment[] {
    return this.kept.map(({ first, last, size }) => ({ first, last, bytes: size }))
  }

  dropBefore(sequence: Sequence): Promise<Sequence> {
    const dropped = this.dropping.then(() => this.drop(sequence))
    this.dropping = dropped.catch(() => {})
    return dropped
  }

  private async drop(sequence: Sequence): Promise<Sequence> {
    const { disk, dir } = this.settings
    if (this.closing) throw closedError()
    const health = this.health()
    if (!health.writable && health.reason !== 'full') throw unavailable(health)
    const oldest = (await this.snapshots()).slice(0, SNAPSHOTS_NEEDED).at(-1)
    if (oldest === undefined) return this.firstKept
    const limits = [sequence, oldest + 1n, ...[...this.readers].map(({ next }) => next)]
    const needed = limits.reduce((least, limit) => (limit < least ? limit : least))
    const index = this.kept.findLastIndex(({ first }) => first <= needed)
    const first = this.kept[index]?.first
    if (index <= 0 || first === undefined) return this.firstKept
    this.firstKept = first
    const old = this.kept.splice(0, index)
    await this.writeMark() // first of all, or the missing segments would look like damage
    failpoint('journal.drop.marked')
    for (const { path } of old) {
      await disk.remove(path)
      failpoint('journal.drop.removed')
    }
    await disk.syncDirectory(dir)
    failpoint('journal.drop.synced')
    await dropSnapshotsBefore(disk, dir, first)
    this.dropped.compactions += 1
    this.dropped.droppedSegments += old.length
    return first
  }

  close(): Promise<void> {
    this.closing ??= this.shut()
    return this.closing
  }

  private async shut(): Promise<void> {
    await this.commits.idle()
    clearTimeout(this.markTimer)
    this.markEnd()
    await this.marking
    await this.saving
    await this.dropping
    try {
      await this.writer.close()
      await this.mark?.close()
    } finally {
      this.unlock()
    }
  }

  private markSoon(): void {
    this.markTimer ??= setTimeout(() => {
      this.markTimer = undefined
      this.writeMark().catch(err => this.warnOfMark(err))
    }, this.settings.markEveryMs).unref()
  }

  /** Nothing more will be acknowledged. */
  private markEnd(): void {
    this.ended = true
    this.writeMark().catch(err => this.warnOfMark(err))
  }

  private writeMark(): Promise<void> {
    const write = async () => {
      await this.mark?.write({
        journal: this.id,
        acknowledged: this.last(),
        first: this.firstKept,
        exact: this.ended,
      })
    }
    const written = this.marking.then(write)
    this.marking = written.catch(() => {})
    return written
  }

  private warnOfMark(err: unknown): void {
    this.settings.log.warn({ err }, 'the mark of the journal could not be written; the journal itself goes on')
  }
}
