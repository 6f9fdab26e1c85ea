// Reading records back from the segments, by sequence, a bounded piece at a time.
import { type Disk, type DiskFile, reading } from './disk.js'
import type { Frame } from './frame.js'
import type { JournalRecord, Sequence } from './journal.js'
import { decodeRecord } from './record.js'
import { SEGMENT_HEADER_BYTES, type Segment } from './segment.js'
import { type Place, SparseIndex } from './sparseIndex.js'
import { walk } from './walk.js'

const PIECE_RECORDS = 512
const PIECE_BYTES = 256 * 1024
/** What is read for one record: from the remembered place before it to behind it, as a rule. */
const RUN_BYTES = 32 * 1024
/** Indexes of sealed segments that are kept; the others are made anew when they are needed. */
const INDEXES_KEPT = 16

/** A record that should be there can't be read. */
export class JournalDamaged extends Error {
  constructor(
    readonly file: string,
    readonly offset: number,
    what: string,
  ) {
    super(`${file} is damaged at byte ${offset}: ${what}`)
    this.name = 'JournalDamaged'
  }
}

/** A record that somebody waits for. */
interface Wanted {
  sequence: Sequence
  resolve(record: JournalRecord): void
  reject(error: unknown): void
}

/** Records in a row, and where the one after them begins if that is in the same segment. */
export interface Piece {
  records: JournalRecord[]
  next: (Place & { segment: Segment }) | undefined
}

export class SegmentReader {
  /** By the segments' first sequence, least recently used first. */
  private readonly indexes = new Map<Sequence, SparseIndex>()
  private active: { segment: Segment; index: SparseIndex } | undefined
  /** What was asked for since the last turn of the event loop. */
  private readonly wanted: Wanted[] = []

  constructor(
    private readonly disk: Disk,
    /** All there are, in order; the owner adds and removes. */
    private readonly segments: readonly Segment[],
  ) {}

  /** Follows the segment that is written to; its index grows with it. */
  follow(segment: Segment, index: SparseIndex): void {
    if (this.active) this.keepIndex(this.active.segment, this.active.index)
    this.active = { segment, index }
  }

  /** Remembers the index of a segment that was read. */
  keepIndex(segment: Segment, index: SparseIndex): void {
    this.indexes.delete(segment.first)
    this.indexes.set(segment.first, index)
    const [oldest] = this.indexes.keys()
    if (this.indexes.size > INDEXES_KEPT && oldest !== undefined) this.indexes.delete(oldest)
  }

  /** Some records from `from` on, at least one, none behind `last`. `hint`: what the piece before answered as `next`. */
  async piece(from: Sequence, last: Sequence, hint: Piece['next']): Promise<Piece> {
    const segment = this.locate(from)
    const place = hint?.segment === segment ? hint : await this.place(segment, from)
    if (!place) throw new JournalDamaged(segment.path, SEGMENT_HEADER_BYTES, `record ${from} is missing`)
    const records: JournalRecord[] = []
    const until = segment.last < last ? segment.last : last
    let { sequence } = place
    let bytes = 0
    const end = await this.walk(segment, place.position, frame => {
      if (sequence >= from) {
        records.push(expectRecord(segment, frame, sequence))
        bytes += frame.end - frame.position
      }
      sequence += 1n
      return sequence <= until && records.length < PIECE_RECORDS && bytes < PIECE_BYTES
    })
    // A damaged place behind the first record is for the next piece to find.
    if (records.length === 0) throw new JournalDamaged(segment.path, end, `record ${sequence} has changed`)
    return { records, next: sequence <= until ? { segment, sequence, position: end } : undefined }
  }

  /** One record. Those that are asked for in the same turn of the event loop are read together. */
  record(sequence: Sequence): Promise<JournalRecord> {
    return new Promise((resolve, reject) => {
      this.wanted.push({ sequence, resolve, reject })
      if (this.wanted.length === 1) queueMicrotask(() => void this.readWanted())
    })
  }

  private async readWanted(): Promise<void> {
    const bySegment = new Map<Segment, Wanted[]>()
    for (const one of this.wanted.splice(0).sort((a, b) => (a.sequence < b.sequence ? -1 : 1))) {
      try {
        const segment = this.locate(one.sequence)
        const others = bySegment.get(segment)
        if (others) others.push(one)
        else bySegment.set(segment, [one])
      } catch (error) {
        one.reject(error)
      }
    }
    await Promise.all([...bySegment].map(([segment, wanted]) => this.readOf(segment, wanted)))
  }

  /** Of one segment, in order: from one remembered place to the next in which something is wanted. */
  private async readOf(segment: Segment, wanted: Wanted[]): Promise<void> {
    try {
      const runs: { place: Place; wanted: Wanted[]; last: Sequence }[] = []
      for (const one of wanted) {
        const place = await this.place(segment, one.sequence)
        if (!place) throw new JournalDamaged(segment.path, SEGMENT_HEADER_BYTES, `record ${one.sequence} is missing`)
        const run = runs.at(-1)
        if (run && place.sequence <= run.last) {
          run.wanted.push(one)
          run.last = one.sequence
        } else {
          runs.push({ place, wanted: [one], last: one.sequence })
        }
      }
      await reading(this.disk, segment.path, async file => {
        for (const run of runs) await this.readRun(file, segment, run.place, run.wanted)
      })
    } catch (error) {
      for (const { reject } of wanted) reject(error)
    }
  }

  private async readRun(file: DiskFile, segment: Segment, place: Place, wanted: Wanted[]): Promise<void> {
    const { salt, end: to } = segment
    let { sequence } = place
    let found = 0
    const visit = (frame: Frame) => {
      for (; wanted[found]?.sequence === sequence; found += 1)
        wanted[found]?.resolve(expectRecord(segment, frame, sequence))
      sequence += 1n
      return found < wanted.length
    }
    const { position } = await walk({ file, salt, from: place.position, to, chunkBytes: RUN_BYTES, visit })
    const missing = new JournalDamaged(segment.path, position, `record ${sequence} has changed`)
    for (const { reject } of wanted.slice(found)) reject(missing)
  }

  private locate(sequence: Sequence): Segment {
    const segment = this.segments.findLast(({ first }) => first <= sequence)
    if (!segment) throw new RangeError(`record ${sequence} is no longer kept`)
    if (sequence > segment.last) throw new JournalDamaged(segment.path, segment.end, `record ${sequence} is missing`)
    return segment
  }

  /** A record at or before `sequence`. An index may lack what a snapshot made needless to read: then it is made whole. */
  private async place(segment: Segment, sequence: Sequence): Promise<Place | undefined> {
    const near = this.active?.segment === segment ? this.active.index.before(sequence) : undefined
    if (near) return near
    const known = this.indexes.get(segment.first)
    const index = known?.before(sequence) ? known : await this.makeIndex(segment)
    if (known && known !== index) index.continueWith(known)
    this.keepIndex(segment, index)
    return index.before(sequence)
  }

  /** Ends at the first damaged place: what lies before it is readable. */
  private async makeIndex(segment: Segment): Promise<SparseIndex> {
    const index = new SparseIndex(segment.first)
    let sequence = segment.first
    await this.walk(segment, SEGMENT_HEADER_BYTES, frame => {
      index.add(sequence, frame.position)
      sequence += 1n
      return true
    })
    return index
  }

  /** Visits whole frames up to the end of the segment's records, or to a damaged place, and answers where it stopped. */
  private walk(segment: Segment, from: number, visit: (frame: Frame) => boolean): Promise<number> {
    const { path, salt, end: to } = segment
    return reading(this.disk, path, async file => (await walk({ file, salt, from, to, visit })).position)
  }
}

function expectRecord({ path }: Segment, { record: bytes, position }: Frame, sequence: Sequence): JournalRecord {
  const record = decodeRecord(bytes)
  if (record.sequence === sequence) return record
  throw new JournalDamaged(path, position, `record ${record.sequence} is in the place of ${sequence}`)
}
