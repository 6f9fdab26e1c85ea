// Writes batches to the segments, and decides what a disk that is full or fails means.
import { failpoint } from '../../../plugins/kit/failpoint.js'
import type { CommitStore, Pending, Written } from './commits.js'
import { frameBytes, writeFrame } from './frame.js'
import type { Batch, JournalHealth, JournalUnavailable } from './journal.js'
import type { Prepared, Writing } from './prepare.js'
import type { SegmentReader } from './reader.js'
import type { Recent } from './recent.js'
import { ActiveSegment, SEGMENT_HEADER_BYTES, type Segment } from './segment.js'
import type { FileJournalSettings } from './settings.js'
import { SparseIndex } from './sparseIndex.js'
import { failed, full, isFull, type Trouble, unavailable } from './trouble.js'

/** The most that is written at once, unless one batch has more; the rest goes into the next flush. */
const FLUSH_BYTES = 8 * 1024 * 1024
const STALLED_MS = 5000

export interface WriterParts {
  settings: FileJournalSettings
  journal: string
  prepared: Prepared
  /** In order; the writer adds those that it begins. */
  segments: Segment[]
  /** Of the last segment. */
  index: SparseIndex | undefined
  reader: SegmentReader
  recent: Recent
  /** Calls `heal` when nothing is being written. */
  askToHeal(): void
  /** Nothing more will be written. */
  ended(): void
}

/** Some of the waiting batches, and the bytes that they take. */
interface Group {
  batches: Pending[]
  bytes: number
}

export class Writer implements CommitStore {
  private readonly writing: Writing | undefined
  private trouble: Trouble | undefined
  private healTimer: NodeJS.Timeout | undefined
  private index = new SparseIndex(0n)

  constructor(private readonly parts: WriterParts) {
    const { prepared, index } = parts
    this.writing = prepared.writing
    if (this.writing) this.follow(this.writing.active.segment, index)
    if (prepared.trouble) this.enter(prepared.trouble)
  }

  health(): JournalHealth {
    return this.trouble ?? { writable: true }
  }

  /** Where the last durable record ends. */
  milestone(): ReturnType<ActiveSegment['milestone']> | undefined {
    return this.writing?.active.milestone()
  }

  /** What an append is told at once. Whether a full disk still is full shows when it is written. */
  refusal(): JournalUnavailable | undefined {
    const { trouble } = this
    return trouble && (trouble.reason !== 'full' || !this.writing) ? unavailable(trouble) : undefined
  }

  async write(waiting: readonly Pending[]): Promise<Written> {
    const { writing } = this
    if (!writing || this.refusal()) return this.refuse(nobody)
    try {
      if (this.trouble && !(await this.makeWritable(writing)) && !waiting[0]?.batch.mayUseReserve)
        return this.refuse(thoseWithReserve)
      const group = this.group(writing, waiting)
      const written = (await this.makeRoom(writing, group.bytes)) && (await this.flush(writing, group))
      if (written) return written
    } catch (error) {
      await this.giveUp(writing, error)
      return this.refuse(nobody)
    }
    if (this.trouble) return this.refuse(nobody) // the reserve is used up as well
    this.enter(full(this.parts.settings.dir))
    return this.refuse(thoseWithReserve)
  }

  /** Goes on after a full disk, if there is room again. Not while something is being written. */
  async heal(): Promise<void> {
    const { writing, trouble } = this
    if (!writing || trouble?.reason !== 'full') return
    try {
      await this.makeWritable(writing)
    } catch (error) {
      await this.giveUp(writing, error)
    }
  }

  async close(): Promise<void> {
    clearInterval(this.healTimer)
    await this.writing?.active.close()
  }

  /** The batches from the front that one flush can take: they fit into one segment. */
  private group({ active }: Writing, waiting: readonly Pending[]): Group {
    const { segmentBytes } = this.parts.settings
    const left = segmentBytes - active.segment.end
    const [first, ...others] = waiting.map(({ encoded }) => sum(encoded.map(record => frameBytes(record.length))))
    let [taken, bytes] = [1, first ?? 0]
    const limit = Math.min(FLUSH_BYTES, bytes <= left ? left : segmentBytes - SEGMENT_HEADER_BYTES)
    for (const more of others) {
      if (bytes + more > limit || (this.trouble && !waiting[taken]?.batch.mayUseReserve)) break
      bytes += more
      taken += 1
    }
    return { batches: waiting.slice(0, taken), bytes }
  }

  /** Answers false when the disk is full, and so is, or is not to be used yet, what the reserve gave. */
  private async makeRoom(writing: Writing, bytes: number): Promise<boolean> {
    const { preallocateBytes } = this.parts.settings
    while (true) {
      try {
        await this.extend(writing, bytes, this.trouble ? 0 : preallocateBytes)
        return true
      } catch (error) {
        if (!isFull(error)) throw error
      }
      if (!this.trouble || !(await writing.reserve.giveUp(Math.max(preallocateBytes, bytes)))) return false
    }
  }

  /** Sees to it that the active segment has room for `bytes`; it grows by `step`, or another one is begun. */
  private async extend(writing: Writing, bytes: number, step: number): Promise<void> {
    const { settings, journal, segments } = this.parts
    const { active } = writing
    const { segment } = active
    const left = settings.segmentBytes - segment.end
    if (bytes <= left || segment.last < segment.first) {
      if (active.room < bytes) await active.grow(Math.max(bytes, Math.min(step, left)))
      return
    }
    await active.seal()
    const header = { journal, first: segment.last + 1n, before: active.before }
    const next = await ActiveSegment.create(settings.disk, settings.dir, header, Math.max(bytes, step))
    writing.active = next
    segments.push(next.segment)
    this.follow(next.segment, undefined)
    await active.close()
  }

  /** Answers undefined when the disk took less than all; then it is as if nothing had been written. */
  private async flush({ active }: Writing, { batches, bytes }: Group): Promise<Written | undefined> {
    const { segment } = active
    const frames = Buffer.allocUnsafe(bytes)
    const flush = segment.end
    let at = 0
    for (const { encoded } of batches)
      for (const [index, record] of encoded.entries())
        at = writeFrame(frames, at, record, { salt: segment.salt, flush, lastOfBatch: index === encoded.length - 1 })
    if (!(await this.writeFrames(active, frames))) {
      await active.cutBack()
      return undefined
    }
    failpoint('journal.written')
    active.accept(frames, batches.at(-1)?.records.at(-1)?.sequence ?? segment.last)
    this.remember(batches, flush)
    return { durable: batches.length, bytes }
  }

  /** Answers false when the disk is full in the middle of it, which some file systems show only here. */
  private async writeFrames(active: ActiveSegment, frames: Buffer): Promise<boolean> {
    const { path } = active.segment
    const { log } = this.parts.settings
    const stalled = setTimeout(() => {
      log.warn({ file: path }, `the disk has not answered for ${STALLED_MS / 1000} s; appends to the journal wait`)
    }, STALLED_MS)
    try {
      return (await active.write(frames)) === frames.length
    } catch (error) {
      if (isFull(error)) return false
      throw error
    } finally {
      clearTimeout(stalled)
    }
  }

  private remember(batches: Pending[], flush: number): void {
    let position = flush
    for (const { records, encoded } of batches)
      for (const [index, record] of records.entries()) {
        const bytes = frameBytes(encoded[index]?.length ?? 0)
        this.index.add(record.sequence, position)
        this.parts.recent.add(record, bytes)
        position += bytes
      }
  }

  /** Answers whether there is room again, for the next records and for the whole reserve. */
  private async makeWritable(writing: Writing): Promise<boolean> {
    const { disk, dir, preallocateBytes, log } = this.parts.settings
    const { reserve } = writing
    if ((await disk.free(dir)) < reserve.missing + 2 * preallocateBytes) return false
    try {
      await this.extend(writing, preallocateBytes, preallocateBytes)
      await reserve.rebuild()
    } catch (error) {
      if (isFull(error)) return false
      throw error
    }
    this.trouble = undefined
    clearInterval(this.healTimer)
    log.info({ dir }, 'there is room again: the journal can be written to')
    return true
  }

  /** After an error of the disk: cuts back as well as that goes, and lets nothing be written any more. */
  private async giveUp({ active }: Writing, error: unknown): Promise<void> {
    const { path } = active.segment
    const trouble = failed(path, error)
    this.enter(trouble)
    if (trouble.reason === 'read-only') return
    this.parts.ended()
    try {
      await active.cutBack()
    } catch (err) {
      this.parts.settings.log.error(
        { err, file: path },
        'what the failed write left in the journal could not be cut back',
      )
    }
  }

  private enter(trouble: Trouble): void {
    const { settings, askToHeal } = this.parts
    this.trouble = trouble
    settings.log.error({ dir: settings.dir, reason: trouble.reason }, `${trouble.message}; ${trouble.advice}`)
    clearInterval(this.healTimer)
    if (trouble.reason === 'full' && this.writing) this.healTimer = setInterval(askToHeal, settings.healEveryMs).unref()
  }

  private follow(segment: Segment, index: SparseIndex | undefined): void {
    this.index = index ?? new SparseIndex(segment.first)
    this.parts.reader.follow(segment, this.index)
  }

  private refuse(spared: (batch: Batch) => boolean): Written {
    return { refused: unavailable(this.trouble ?? full(this.parts.settings.dir)), spared }
  }
}

const nobody = () => false
const thoseWithReserve = ({ mayUseReserve }: Batch) => mayUseReserve

function sum(numbers: number[]): number {
  return numbers.reduce((total, number) => total + number, 0)
}
