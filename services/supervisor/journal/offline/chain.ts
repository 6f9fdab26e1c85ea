// Writes segments one after another, from records that have their sequences already: for an import and for a repair.

import type { Disk } from '../disk.js'
import { frameBytes, writeFrame } from '../frame.js'
import type { JournalRecord, Sequence } from '../journal.js'
import { encodeRecord } from '../record.js'
import type { Milestone } from '../scan.js'
import { ActiveSegment, type Before } from '../segment.js'

const SEGMENT_BYTES = 64 * 1024 * 1024
const GROW_BYTES = 1024 * 1024
/** So much is written at once. */
const FLUSH_BYTES = 256 * 1024

export interface ChainOptions {
  disk: Disk
  /** Of its own: nobody else writes there. */
  dir: string
  journal: string
  /** The first sequence that will be added. */
  first: Sequence
  before: Before
  segmentBytes?: number
}

export class Chain {
  private waiting: Buffer[] = []
  private bytes = 0

  private constructor(
    private readonly options: ChainOptions,
    private active: ActiveSegment,
    private next: Sequence,
  ) {}

  static async begin(options: ChainOptions): Promise<Chain> {
    const { disk, dir, journal, first, before } = options
    return new Chain(options, await ActiveSegment.create(disk, dir, { journal, first, before }, GROW_BYTES), first)
  }

  /** The records follow each other without a gap. Each is a batch of its own: what a batch promised holds by now. */
  async add(record: JournalRecord): Promise<void> {
    if (record.sequence !== this.next)
      throw new RangeError(`record ${record.sequence} does not follow ${this.next - 1n}`)
    this.next += 1n
    const bytes = Buffer.from(encodeRecord(record))
    this.waiting.push(bytes)
    this.bytes += frameBytes(bytes.length)
    if (this.bytes >= FLUSH_BYTES) await this.flush()
  }

  /** Everything is on disk; answers where the last record ends. */
  async end(): Promise<Milestone & { segment: Sequence }> {
    await this.flush()
    const milestone = this.active.milestone()
    await this.active.close()
    return milestone
  }

  private async flush(): Promise<void> {
    if (this.waiting.length === 0) return
    const { segmentBytes = SEGMENT_BYTES } = this.options
    const { end, first, last } = this.active.segment
    if (last >= first && end + this.bytes > segmentBytes) await this.turnOver()
    const { active } = this
    const { segment } = active
    if (active.room < this.bytes) await active.grow(Math.max(this.bytes, GROW_BYTES))
    const frames = Buffer.alloc(this.bytes)
    let at = 0
    for (const record of this.waiting)
      at = writeFrame(frames, at, record, { salt: segment.salt, flush: segment.end, lastOfBatch: true })
    const written = await active.write(frames)
    if (written !== frames.length)
      throw new Error(`the disk took ${written} of ${frames.length} bytes: make room on it`)
    active.accept(frames, this.next - 1n)
    this.waiting = []
    this.bytes = 0
  }

  private async turnOver(): Promise<void> {
    const { disk, dir, journal } = this.options
    await this.active.seal()
    const first = this.active.segment.last + 1n
    const next = await ActiveSegment.create(disk, dir, { journal, first, before: this.active.before }, GROW_BYTES)
    await this.active.close()
    this.active = next
  }
}
