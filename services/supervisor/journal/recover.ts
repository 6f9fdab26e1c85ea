// Reading a journal's directory: what is in it, where it ends, and whether it is whole. Changes nothing.
import { join } from 'node:path'
import type { Logger } from 'pino'
import type { Disk, DiskFile } from './disk.js'
import { ALIGNMENT, readFrame } from './frame.js'
import type { Sequence } from './journal.js'
import { type Mark, readMark } from './mark.js'
import { glance } from './record.js'
import { checksumOf, Scan, type Stopped } from './scan.js'
import { decodeHeader, SEGMENT_HEADER_BYTES, type Segment, type SegmentHeader, segmentFirst } from './segment.js'
import { listSnapshots, newestSnapshot, type StoredSnapshot } from './snapshots.js'
import type { SparseIndex } from './sparseIndex.js'
import { examine, judge } from './tail.js'

/** A place where the journal is not what was written. */
export interface Damage {
  file: string
  offset: number
  what: string
}

export interface Recovered {
  /** Undefined: there is no journal here yet. */
  journal: string | undefined
  segments: Segment[]
  indexes: Map<Segment, SparseIndex>
  /** Right only when there is no damage. */
  versions: Map<string, Sequence>
  last: Sequence
  /** The first sequence that is kept. */
  first: Sequence
  /** The last segment's bytes up to its end. */
  checksum: number
  /** Where in the last segment the records begin of which the mark does not know. */
  unmarked: number
  /** Why the last segment has to be cut at its end. */
  torn: string | undefined
  damage: Damage | undefined
  /** Files that a crash left and nobody needs. */
  leftovers: string[]
}

export async function recover(disk: Disk, dir: string, log: Logger): Promise<Recovered> {
  const mark = await readMark(disk, dir)
  const names = await disk.list(dir)
  const known = typeof mark === 'string' ? undefined : mark
  const files = await readHeaders(disk, dir, names)
  const journal = known?.journal ?? files.map(file => file.header?.journal).find(id => id !== undefined)
  if (!known && files.length > 0)
    log.warn(
      { dir },
      `the journal's mark is ${mark}: a damaged end may pass for one that a crash tore; a new mark is made`,
    )
  const recovery = new Recovery(disk, dir, log, journal, known)
  await recovery.loadVersions()
  await recovery.readSegments(files.filter(({ first }) => first >= recovery.result.first))
  recovery.result.leftovers = [
    ...names.filter(name => name.endsWith('.new')).map(name => join(dir, name)),
    ...files.filter(({ first }) => first < recovery.result.first).map(({ path }) => path),
  ]
  return recovery.result
}

interface SegmentFile {
  path: string
  /** As its name says. */
  first: Sequence
  size: number
  /** Undefined when it is not whole: `problem` says why. */
  header: SegmentHeader | undefined
  problem: string
  salt: number
  headerBytes: Buffer
}

async function readHeaders(disk: Disk, dir: string, names: string[]): Promise<SegmentFile[]> {
  const files: SegmentFile[] = []
  for (const name of names) {
    const first = segmentFirst(name)
    if (first === undefined) continue
    const path = join(dir, name)
    files.push(
      await using(disk, path, async file => {
        const bytes = Buffer.alloc(SEGMENT_HEADER_BYTES)
        const headerBytes = bytes.subarray(0, await file.read(bytes, 0))
        const decoded = decodeHeader(headerBytes)
        const size = await file.size()
        const common = { path, first, size, headerBytes, salt: bytes.readUInt32LE(60) }
        return typeof decoded === 'string'
          ? { ...common, header: undefined, problem: decoded }
          : { ...common, header: decoded, problem: '' }
      }),
    )
  }
  return files
}

class Recovery {
  readonly result: Recovered
  /** Nothing up to here may be missing. */
  private acknowledged: Sequence
  private closed: boolean
  /** The newest snapshot's sequence: what lies before is not needed for the state. */
  private covered: Sequence = 0n
  private snapshots: Sequence[] = []
  /** Where the records begin that the newest snapshot does not cover. */
  private milestone: StoredSnapshot['milestone']

  constructor(
    private readonly disk: Disk,
    private readonly dir: string,
    private readonly log: Logger,
    journal: string | undefined,
    mark: Mark | undefined,
  ) {
    const first = mark?.first ?? 1n
    this.acknowledged = mark?.acknowledged ?? 0n
    this.closed = mark?.closed ?? false
    this.result = {
      journal,
      segments: [],
      indexes: new Map(),
      versions: new Map(),
      last: first - 1n,
      first,
      checksum: 0,
      unmarked: SEGMENT_HEADER_BYTES,
      torn: undefined,
      damage: undefined,
      leftovers: [],
    }
  }

  async loadVersions(): Promise<void> {
    const { result, disk, dir, log } = this
    this.snapshots = await listSnapshots(disk, dir)
    const snapshot = result.journal && (await newestSnapshot(disk, dir, result.journal, log))
    if (!snapshot) return
    result.versions = snapshot.versions
    this.covered = snapshot.sequence
    this.milestone = snapshot.milestone
    if (snapshot.durable > this.acknowledged) {
      this.acknowledged = snapshot.durable
      this.closed = false
    }
  }

  async readSegments(all: SegmentFile[]): Promise<void> {
    const { result } = this
    const files = all.filter(file => this.belongs(file))
    if (result.first - 1n > this.covered)
      this.damaged(this.dir, 0, `records before ${result.first} were given up for a snapshot, and none is whole`)
    let before: SegmentFile | undefined
    for (const [index, file] of files.entries()) {
      if (!this.follows(file, before)) break
      const after = files[index + 1]
      if (after && after.first - 1n <= this.covered) this.take(file, after.first - 1n)
      else if (!(await this.scan(file, after))) break
      before = file
    }
    if (result.last < this.acknowledged && !result.damage)
      this.damaged(
        before?.path ?? this.dir,
        before?.size ?? 0,
        `records up to ${this.acknowledged} were acknowledged, the journal ends at ${result.last}`,
      )
    if (files.length === 0 && this.snapshots.length > 0 && !result.damage)
      this.damaged(this.dir, 0, 'there are snapshots, but no segments')
  }

  /** A header that is not whole is no reason to stop: the frames tell whether its salt is right. */
  private belongs(file: SegmentFile): boolean {
    const { header } = file
    if (!header) {
      this.damaged(file.path, 0, file.problem)
      return file.headerBytes.length === SEGMENT_HEADER_BYTES
    }
    if (header.journal !== this.result.journal)
      return this.damaged(file.path, 16, `it belongs to journal ${header.journal}, not to ${this.result.journal}`)
    if (header.first !== file.first)
      return this.damaged(file.path, 32, `it was written as the segment that begins with record ${header.first}`)
    return true
  }

  /** Answers false when records are missing that the state needs. */
  private follows(file: SegmentFile, before: SegmentFile | undefined): boolean {
    const expected = this.result.last + 1n
    if (file.first !== expected) {
      const what =
        file.first > expected
          ? `records ${expected} to ${file.first - 1n} are missing before it`
          : `it begins with record ${file.first}, which the segment before has already`
      this.damaged(file.path, 0, what)
      return file.first > expected && file.first - 1n <= this.covered
    }
    const told = file.header?.before
    if (told && before && (told.first !== before.first || told.size !== before.size))
      this.damaged(file.path, 40, `it follows a segment of ${told.size} bytes, but ${before.path} has ${before.size}`)
    return true
  }

  /** Takes a sealed segment without reading it. */
  private take({ path, first, size, salt }: SegmentFile, last: Sequence): void {
    this.result.segments.push({ path, first, last, salt, end: size, size })
    this.result.last = last
  }

  /** Reads a segment. Answers false when the journal can't be read beyond it. */
  private async scan(file: SegmentFile, after: SegmentFile | undefined): Promise<boolean> {
    const { result, disk } = this
    const { path, first, size, salt } = file
    const segment = { path, first, last: first - 1n, salt, end: SEGMENT_HEADER_BYTES, size }
    const { covered, acknowledged } = this
    const from = this.milestone?.segment === first && this.milestone.position <= size ? this.milestone : undefined
    const scan = new Scan({ segment, header: file.headerBytes, covered, acknowledged, versions: result.versions, from })
    result.segments.push(segment)
    result.indexes.set(segment, scan.index)
    const whole = await using(disk, path, async file => {
      while (true) {
        const stopped = await scan.run(file)
        const damage = after ? sealedDamage(stopped, scan) : await this.judgeEnd(file, stopped, scan)
        if (!damage) return true
        this.damaged(path, damage.offset, damage.what)
        if (!(await this.skipDamage(file, scan, stopped.position))) return false
      }
    })
    result.last = segment.last
    result.unmarked = scan.unmarked ?? segment.end
    if (!after) result.checksum = scan.checksum
    else if (whole && after.header && after.header.before.checksum !== scan.checksum)
      this.damaged(path, 0, `its checksum is not the one that ${after.path} remembers`)
    return whole
  }

  /** Judges where the last segment ends. Leaves the segment cut to the batches that count. */
  private async judgeEnd(file: DiskFile, stopped: Stopped, scan: Scan): Promise<Problem | undefined> {
    if (stopped.stray) return { offset: stopped.position, what: stopped.stray }
    const { segment } = scan
    const tail = Buffer.alloc(segment.size - stopped.position)
    await file.read(tail, stopped.position)
    const { judgement, because } = judge({
      acknowledged: this.acknowledged > segment.last,
      closed: this.closed && this.acknowledged === segment.last,
      openBatch: stopped.position > segment.end,
      ...examine(tail, stopped.position, segment.salt, stopped.fault),
    })
    if (judgement === 'damaged') return { offset: stopped.position, what: because }
    if (judgement === 'torn') this.result.torn = because
    if (stopped.position > segment.end) scan.checksum = await checksumOf(file, segment.end)
    return undefined
  }

  /** Goes on behind a damaged place when everything in it is covered by a snapshot. */
  private async skipDamage(file: DiskFile, scan: Scan, position: number): Promise<boolean> {
    if (this.covered < scan.expected) return false
    const rest = Buffer.alloc(scan.segment.size - position)
    await file.read(rest, position)
    for (let at = ALIGNMENT; at < rest.length; at += ALIGNMENT) {
      const found = readFrame(rest, at, position, scan.segment.salt)
      if (found.found !== 'frame') continue
      const { sequence } = glance(found.record)
      if (sequence <= scan.expected || sequence - 1n > this.covered) return false
      scan.resume(sequence, found)
      return true
    }
    return false
  }

  private damaged(file: string, offset: number, what: string): false {
    this.result.damage ??= { file, offset, what }
    this.log.error({ file, offset }, `the journal is damaged: ${what}`)
    return false
  }
}

type Problem = Omit<Damage, 'file'>

/** A segment that others follow ends with a whole batch, at the end of its file. */
function sealedDamage({ position, fault, stray }: Stopped, { segment }: Scan): Problem | undefined {
  if (stray) return { offset: position, what: stray }
  if (fault) return { offset: position, what: 'a record has changed, or is not whole, though others follow' }
  if (segment.end !== position)
    return { offset: segment.end, what: 'the last batch is not whole, though others follow' }
  return undefined
}

async function using<T>(disk: Disk, path: string, work: (file: DiskFile) => Promise<T>): Promise<T> {
  const file = await disk.open(path, 'read')
  try {
    return await work(file)
  } finally {
    await file.close()
  }
}
