// Looks at every byte of a journal's directory, from outside and without changing anything: which records are whole,
// and what is wrong. Works beside a supervisor that writes: what it appends meanwhile is not looked at, and what its
// retention drops meanwhile is not missed.
import { basename, join } from 'node:path'
import { type Disk, type DiskFile, errorCode, readExactly, reading } from '../disk.js'
import { refuseNewer, type WrittenBy } from '../format.js'
import { ALIGNMENT, type Frame, readFrame } from '../frame.js'
import type { JournalRecord, Sequence } from '../journal.js'
import { type Mark, readMark } from '../mark.js'
import { decodeRecord } from '../record.js'
import { checksumOf } from '../scan.js'
import { decodeHeader, SEGMENT_HEADER_BYTES, type Segment, type SegmentHeader, segmentFirst } from '../segment.js'
import { listSnapshots, readSnapshot, snapshotPath } from '../snapshots.js'
import { examine, judge } from '../tail.js'
import { walk } from '../walk.js'

export interface Range {
  from: Sequence
  to: Sequence
}

/** Something that is not as it was written. */
export interface Finding {
  file: string
  offset: number
  what: string
  /** The records that can't be read because of it. */
  lost?: Range
}

/** A record that is whole, and where it lies. */
export interface Whole {
  record: JournalRecord
  file: string
  position: number
  /** With its frame. */
  bytes: number
}

export interface SurveyedSegment extends Segment {
  checksum: number
  /** Nothing is wrong with it, nor with what the next one remembers of it. */
  intact: boolean
}

export interface Survey {
  journal: string | undefined
  /** Those that belong to the journal, in order. */
  segments: SurveyedSegment[]
  /** Segments that don't: of another journal, or copies. */
  strangers: string[]
  snapshots: { sequence: Sequence; file: string; problem: string | undefined }[]
  mark: Mark | 'missing' | 'unreadable'
  /** The first and last sequence that should be there. */
  first: Sequence
  last: Sequence
  /** Whole records. */
  records: number
  damage: Finding[]
  /** What the next start puts right by itself: torn ends, files that retention had no time to remove. */
  notes: Finding[]
}

export interface SurveyOptions {
  disk: Disk
  dir: string
  /** A supervisor writes to it. */
  inUse: boolean
  writtenBy?: WrittenBy
  /** Hears every whole record, in order. */
  visit?(whole: Whole): void
  /** Waited for behind each segment. */
  between?(segment: SurveyedSegment): Promise<void>
}

/** Rejects with JournalNewer when this program is too old to judge. */
export async function survey(options: SurveyOptions): Promise<Survey> {
  await refuseNewer(options.disk, options.dir, options.writtenBy)
  return new Surveyor(options).run()
}

interface File {
  path: string
  /** As its name says. */
  first: Sequence
}

class Surveyor {
  private readonly result: Survey
  private expected: Sequence = 1n
  private acknowledged: Sequence = 0n
  private exact = false

  constructor(private readonly options: SurveyOptions) {
    const nothing = { segments: [], strangers: [], snapshots: [], damage: [], notes: [] }
    this.result = { ...nothing, journal: undefined, mark: 'missing', first: 1n, last: 0n, records: 0 }
  }

  async run(): Promise<Survey> {
    const { disk, dir } = this.options
    const { result } = this
    const mark = await readMark(disk, dir)
    const files = (await disk.list(dir)).flatMap((name): File[] => {
      const first = segmentFirst(name)
      return first === undefined ? [] : [{ path: join(dir, name), first }]
    })
    result.mark = mark
    if (typeof mark === 'string') {
      result.first = files[0]?.first ?? 1n
      if (files.length > 0) this.damage({ file: join(dir, 'mark'), offset: 0, what: `the mark is ${mark}` })
    } else {
      result.journal = mark.journal
      result.first = mark.first
      this.acknowledged = mark.acknowledged
      this.exact = mark.exact
    }
    this.expected = result.first
    for (const [index, file] of files.entries()) await this.look(file, files[index + 1])
    if (this.expected <= this.acknowledged && !this.options.inUse)
      this.damage({
        file: files.at(-1)?.path ?? dir,
        offset: result.segments.at(-1)?.end ?? 0,
        what: `records up to ${this.acknowledged} were acknowledged, the journal ends at ${this.expected - 1n}`,
        lost: { from: this.expected, to: this.acknowledged },
      })
    result.last = this.expected - 1n > this.acknowledged ? this.expected - 1n : this.acknowledged
    await this.lookAtSnapshots()
    return result
  }

  private async look(file: File, after: File | undefined): Promise<void> {
    const { disk, dir, between } = this.options
    try {
      const segment = await reading(disk, file.path, opened => this.lookInto(file, opened, after))
      if (segment) await between?.(segment)
    } catch (error) {
      if (errorCode(error) === undefined) throw error
      const mark = errorCode(error) === 'ENOENT' ? await readMark(disk, dir) : 'unreadable'
      if (typeof mark !== 'string' && mark.first > file.first) {
        // Retention dropped it since it was listed.
        this.result.first = mark.first
        if (mark.first > this.expected) this.expected = mark.first
        return
      }
      this.damage({ file: file.path, offset: 0, what: `it can't be read (${errorCode(error)})` })
    }
  }

  private async lookInto({ path, first }: File, file: DiskFile, after: File | undefined) {
    const { result, options } = this
    const size = await file.size()
    const headerBytes = Buffer.alloc(SEGMENT_HEADER_BYTES)
    const got = await file.read(headerBytes, 0)
    const header = decodeHeader(headerBytes.subarray(0, got))
    if (first < result.first) return void result.notes.push({ file: path, offset: 0, what: 'it was given up already' })
    if (this.isStranger(path, first, header)) return undefined
    const before = result.segments.at(-1)
    if (first > this.expected) this.lose(path, 0, 'records are missing before it', first - 1n)
    const segment: SurveyedSegment = {
      ...{ path, first, last: first - 1n, end: SEGMENT_HEADER_BYTES, size },
      ...{ salt: headerBytes.readUInt32LE(60), checksum: 0, intact: true },
    }
    result.segments.push(segment)
    const found = result.damage.length
    if (typeof header === 'string') this.damage({ file: path, offset: 0, what: header })
    // One that retention has dropped since need not be the one before.
    else if (before && before.first >= result.first && !follows(header, before)) {
      before.intact = false
      this.damage({ file: before.path, offset: 0, what: `it is not what ${basename(path)}, which follows, remembers` })
    }
    await this.records(segment, file, after)
    segment.checksum = await checksumOf(file, Math.min(after ? size : segment.end, await file.size()))
    if (result.damage.length > found) segment.intact = false
    if (after && segment.size !== segment.end && !options.inUse && segment.intact)
      this.damage({
        file: path,
        offset: segment.end,
        what: 'it does not end with its last record, though others follow',
      })
    return segment
  }

  private isStranger(path: string, first: Sequence, header: (SegmentHeader & { salt: number }) | string): boolean {
    const { result } = this
    if (typeof header === 'string') return false
    result.journal ??= header.journal
    const what =
      header.journal !== result.journal
        ? `it belongs to journal ${header.journal}, not to ${result.journal}`
        : header.first !== first
          ? `it was written as the segment that begins with record ${header.first}`
          : first < this.expected
            ? `it begins with record ${first}, which the segment before has already`
            : undefined
    if (what === undefined) return false
    result.strangers.push(path)
    this.damage({ file: path, offset: 16, what })
    return true
  }

  private async records(segment: SurveyedSegment, file: DiskFile, after: File | undefined): Promise<void> {
    let from = SEGMENT_HEADER_BYTES
    let flush = 0
    /** Of the batch that has no end yet. */
    let open: Whole[] = []
    const settle = () => {
      for (const whole of open) this.count(segment, whole)
      open = []
    }
    const visit = (frame: Frame): boolean => {
      const record = this.decode(segment, frame, flush)
      if (!record) return false
      flush = frame.flush
      from = frame.end
      const { position, end } = frame
      open.push({ record, file: segment.path, position, bytes: end - position })
      if (!frame.lastOfBatch) return true
      settle()
      segment.end = end
      return true
    }
    while (true) {
      const stop = await walk({ file, salt: segment.salt, from, to: segment.size, visit })
      if (stop.why === 'end') break
      const fault = stop.why === 'fault' ? stop.found : undefined
      if (!after && !(await this.endsInDamage(segment, file, stop.position, open, fault))) return
      const next = await this.nextFrame(segment, file, stop.position, fault ? ALIGNMENT : 0)
      settle() // acknowledged as a whole, since others follow
      const position = stop.position
      if (next === undefined) {
        const known = after ? after.first - 1n : this.acknowledged
        // Of an end that was not torn at least one record was there, even if nobody knows which was the last.
        const until = !after && known < this.expected ? this.expected : known
        const what = 'what lies here is no record'
        if (until >= this.expected) this.lose(segment.path, position, what, until)
        else this.damage({ file: segment.path, offset: position, what })
        segment.end = segment.size
        return
      }
      const { sequence, frame } = next
      if (sequence > this.expected) this.lose(segment.path, position, 'what lies here is no record', sequence - 1n)
      else this.damage({ file: segment.path, offset: position, what: 'what lies here is no record' })
      from = frame.position
      flush = frame.flush
    }
    if (open.length === 0) return
    const problem = { file: segment.path, offset: open[0]?.position ?? 0, what: 'the last batch is not whole' }
    if (after) {
      settle()
      this.damage(problem)
    } else if (!this.options.inUse) this.result.notes.push(problem)
  }

  /** undefined when the frame is not what should be here. */
  private decode({ path }: Segment, frame: Frame, flush: number): JournalRecord | undefined {
    if (frame.flush !== frame.position && frame.flush !== flush) return undefined
    try {
      const record = decodeRecord(frame.record)
      return record.sequence >= this.expected ? record : undefined
    } catch {
      this.damage({ file: path, offset: frame.position, what: 'the record has the right checksum, but no content' })
      return undefined
    }
  }

  private count(segment: SurveyedSegment, whole: Whole): void {
    const { sequence } = whole.record
    if (sequence < this.expected) return
    if (sequence > this.expected)
      this.lose(whole.file, whole.position, `record ${sequence} is in the place of ${this.expected}`, sequence - 1n)
    this.expected = sequence + 1n
    segment.last = sequence
    this.result.records += 1
    this.options.visit?.(whole)
  }

  /** At a place in the last segment that is no record: whether the journal simply ends here, or should not. */
  private async endsInDamage(
    segment: SurveyedSegment,
    file: DiskFile,
    position: number,
    open: readonly Whole[],
    fault: Parameters<typeof examine>[3],
  ): Promise<boolean> {
    const next = open.at(-1)?.record.sequence ?? this.expected - 1n
    if (this.options.inUse) return next < this.acknowledged
    const tail = await readExactly(file, segment.size - position, position)
    const { judgement, because } = judge({
      acknowledged: this.acknowledged >= this.expected,
      exact: this.exact,
      openBatch: open.length > 0,
      ...examine(tail, position, segment.salt, fault),
    })
    if (judgement === 'torn') this.result.notes.push({ file: segment.path, offset: segment.end, what: because })
    return judgement === 'damaged'
  }

  /** The next whole record behind a damaged place. */
  private async nextFrame(segment: Segment, file: DiskFile, position: number, start: number) {
    const rest = await readExactly(file, Math.max(0, segment.size - position), position)
    for (let at = start; at < rest.length; at += ALIGNMENT) {
      const frame = readFrame(rest, at, position, segment.salt)
      if (frame.found !== 'frame') continue
      const { sequence } = decodeRecord(frame.record)
      if (sequence >= this.expected) return { sequence, frame }
    }
    return undefined
  }

  private async lookAtSnapshots(): Promise<void> {
    const { disk, dir } = this.options
    const { result } = this
    for (const sequence of await listSnapshots(disk, dir)) {
      const file = snapshotPath(dir, sequence)
      const snapshot = await readSnapshot(disk, file, result.journal ?? '', sequence)
      const isGone = this.options.inUse && !(await listSnapshots(disk, dir)).includes(sequence)
      if (isGone) continue
      const problem = typeof snapshot === 'string' ? snapshot : undefined
      result.snapshots.push({ sequence, file, problem })
      if (problem) this.damage({ file, offset: 0, what: problem })
    }
    const newest = result.snapshots.find(({ problem }) => problem === undefined)?.sequence ?? 0n
    if (newest + 1n < result.first)
      this.damage({ file: dir, offset: 0, what: `no snapshot tells what the records before ${result.first} said` })
  }

  private lose(file: string, offset: number, what: string, to: Sequence): void {
    this.damage({ file, offset, what, lost: { from: this.expected, to } })
    this.expected = to + 1n
  }

  private damage(finding: Finding): void {
    this.result.damage.push(finding)
  }
}

function follows({ before }: SegmentHeader, { first, size, checksum }: SurveyedSegment): boolean {
  return before.first === first && before.size === size && before.checksum === checksum
}
