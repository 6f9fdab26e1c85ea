// Reading a journal's directory: what is in it, where it ends, and whether it is whole. Changes nothing.
import { join } from 'node:path'
import type { Logger } from 'pino'
import { type Disk, type DiskFile, errorCode, readExactly, reading } from './disk.js'
import { ALIGNMENT, readFrame } from './frame.js'
import type { Sequence } from './journal.js'
import { type Mark, readMark } from './mark.js'
import { glance } from './record.js'
import { checksumOf, Scan, type Stopped } from './scan.js'
import { decodeHeader, SEGMENT_HEADER_BYTES, type Segment, type SegmentHeader, segmentFirst } from './segment.js'
import { listSnapshots, newestSnapshot, type StoredSnapshot, snapshotsDirectory } from './snapshots.js'
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
  /** How many places are damaged; `damage` is the first. */
  damagedPlaces: number
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
  const drafts = (await disk.list(snapshotsDirectory(dir))).map(name => join(snapshotsDirectory(dir), name))
  recovery.result.leftovers = [
    ...[...names.map(name => join(dir, name)), ...drafts].filter(path => path.endsWith('.new')),
    ...files.filter(({ first }) => first < recovery.result.first).map(({ path }) => path),
  ]
  return recovery.result
}

interface SegmentFile {
  path: string
  /** As its name says. */
  first: Sequence
  size: number
  header: (SegmentHeader & { salt: number }) | undefined
  /** What is wrong with the header; then the frames tell whether its salt is right all the same. */
  problem: string | undefined
  salt: number
  headerBytes: Buffer
}

async function readHeaders(disk: Disk, dir: string, names: string[]): Promise<SegmentFile[]> {
  const files: SegmentFile[] = []
  for (const name of names) {
    const first = segmentFirst(name)
    if (first !== undefined) files.push(await readHeader(disk, join(dir, name), first))
  }
  return files
}

async function readHeader(disk: Disk, path: string, first: Sequence): Promise<SegmentFile> {
  const headerBytes = Buffer.alloc(SEGMENT_HEADER_BYTES)
  const none = { path, first, size: 0, header: undefined, salt: 0, headerBytes }
  try {
    return await reading(disk, path, async file => {
      const size = await file.size()
      if ((await file.read(headerBytes, 0)) < SEGMENT_HEADER_BYTES)
        return { ...none, problem: 'the file ends within its header' }
      const salt = headerBytes.readUInt32LE(60)
      const header = decodeHeader(headerBytes)
      return typeof header === 'string'
        ? { path, first, size, headerBytes, salt, header: undefined, problem: header }
        : { path, first, size, headerBytes, salt, header, problem: undefined }
    })
  } catch (error) {
    return { ...none, problem: unreadable(error) }
  }
}

/** A bad place on the disk is damage like any other: the journal opens, and tells. */
function unreadable(error: unknown): string {
  const code = errorCode(error)
  if (code === undefined) throw error
  return `it can't be read (${code})`
}

class Recovery {
  readonly result: Recovered
  /** Nothing up to here may be missing. */
  private acknowledged: Sequence
  private exact: boolean
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
    this.exact = mark?.exact ?? false
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
      damagedPlaces: 0,
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
      this.exact = false
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
      if (after && followsDirectly(after, file) && after.first - 1n <= this.covered) this.take(file, after.first - 1n)
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

  private belongs(file: SegmentFile): boolean {
    const { header } = file
    if (file.problem) this.damaged(file.path, 0, file.problem)
    if (!header) return file.size >= SEGMENT_HEADER_BYTES
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
    if (before && (!followsDirectly(file, before) || (file.header && file.header.before.size !== before.size)))
      this.damaged(before.path, before.size, `it has another size than ${file.path}, which follows it, remembers`)
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
    const whole = await reading(disk, path, opened => this.readThrough(opened, scan, after === undefined)).catch(
      error => this.damaged(path, scan.position, unreadable(error)),
    )
    result.last = segment.last
    result.unmarked = scan.unmarked ?? segment.end
    if (!after) result.checksum = scan.checksum
    else if (whole && followsDirectly(after, file) && after.header && after.header.before.checksum !== scan.checksum)
      this.damaged(path, 0, `its checksum is not the one that ${after.path} remembers`)
    return whole
  }

  /** Answers false at a damaged place behind which there is no going on. */
  private async readThrough(file: DiskFile, scan: Scan, isLast: boolean): Promise<boolean> {
    while (true) {
      const stopped = await scan.run(file)
      const damage = isLast ? await this.judgeEnd(file, stopped, scan) : sealedDamage(stopped, scan)
      if (!damage) return true
      this.damaged(scan.segment.path, damage.offset, damage.what)
      if (!(await this.skipDamage(file, scan, stopped.position))) return false
    }
  }

  /** Judges where the last segment ends. Leaves the segment cut to the batches that count. */
  private async judgeEnd(file: DiskFile, stopped: Stopped, scan: Scan): Promise<Problem | undefined> {
    if (stopped.stray) return { offset: stopped.position, what: stopped.stray }
    const { segment } = scan
    const tail = await readExactly(file, segment.size - stopped.position, stopped.position)
    const { judgement, because } = judge({
      acknowledged: this.acknowledged > segment.last,
      exact: this.exact,
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
    const rest = await readExactly(file, scan.segment.size - position, position)
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
    this.result.damagedPlaces += 1
    this.log.error({ file, offset }, `the journal is damaged: ${what}`)
    return false
  }
}

/** As far as its header can tell. */
function followsDirectly({ header }: SegmentFile, before: SegmentFile): boolean {
  return !header || header.before.first === before.first
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
