// Segments: the files that hold the journal, `<first sequence, 20 digits>.log`, of which only the last is written to.
//
//   0  "PURSERJL"
//   8  u32  format version
//  12  u32  zero
//  16       journal id, 16 bytes
//  32  u64  first sequence
//  40  u64  first sequence of the segment before, 0 when this is the journal's first
//  48  u64  size of the segment before
//  56  u32  checksum of the segment before: all its bytes
//  60  u32  checksum of the 60 bytes above, also the salt of the frames' checksums
//  64       frames (frame.ts), then zeros
//
// A segment is made under the name `….log.new` and renamed once its header and first zeros are on disk, so one that
// has its name has a whole header. It grows by zeros ahead of the frames: a flush then changes no metadata, which is
// faster, and a full disk shows before a flush is begun rather than in its middle. It is sealed by cutting off the
// zeros; only then is the next one made.

import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import { type Disk, type DiskFile, readExactly, writeAll } from './disk.js'
import type { Sequence } from './journal.js'
import type { Milestone } from './scan.js'

export const SEGMENT_HEADER_BYTES = 64
const MAGIC = Buffer.from('PURSERJL', 'latin1')
export const SEGMENT_FORMAT = 1
const PAGE = 4096
const REWRITE_BYTES = 1024 * 1024
const zeros = Buffer.alloc(64 * 1024)

export interface SegmentHeader {
  journal: string
  first: Sequence
  before: Before
}

/** The segment before; all zero when there is none. */
export interface Before {
  first: Sequence
  size: number
  checksum: number
}

export const NOTHING_BEFORE: Before = { first: 0n, size: 0, checksum: 0 }

/** A segment as the journal remembers it. */
export interface Segment {
  path: string
  first: Sequence
  /** Its last record that counts; `first - 1` when it has none yet. */
  last: Sequence
  salt: number
  /** Where its records end, in bytes. */
  end: number
  /** The file's size: `end` and the zeros behind it. */
  size: number
}

export function segmentName(first: Sequence): string {
  return `${first.toString().padStart(20, '0')}.log`
}

/** The first sequence that a file's name tells, if it is a segment's name. */
export function segmentFirst(name: string): Sequence | undefined {
  const digits = /^(\d{20})\.log$/.exec(name)?.[1]
  return digits === undefined ? undefined : BigInt(digits)
}

export function encodeHeader({ journal, first, before }: SegmentHeader): Buffer {
  const bytes = Buffer.alloc(SEGMENT_HEADER_BYTES)
  MAGIC.copy(bytes)
  bytes.writeUInt32LE(SEGMENT_FORMAT, 8)
  idBytes(journal).copy(bytes, 16)
  bytes.writeBigUInt64LE(first, 32)
  bytes.writeBigUInt64LE(before.first, 40)
  bytes.writeBigUInt64LE(BigInt(before.size), 48)
  bytes.writeUInt32LE(before.checksum, 56)
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 60)), 60)
  return bytes
}

/** The header and the salt of its frames; or in words what is wrong with it. */
export function decodeHeader(bytes: Buffer): (SegmentHeader & { salt: number }) | string {
  if (bytes.length < SEGMENT_HEADER_BYTES) return 'the file ends within its header'
  const salt = bytes.readUInt32LE(60)
  if (crc32(bytes.subarray(0, 60)) !== salt) return "the header's checksum is wrong"
  if (!bytes.subarray(0, 8).equals(MAGIC)) return 'the file is no segment of a journal'
  const format = bytes.readUInt32LE(8)
  if (format !== SEGMENT_FORMAT) return `the format is version ${format}, this program knows version ${SEGMENT_FORMAT}`
  return {
    journal: idText(bytes.subarray(16, 32)),
    first: bytes.readBigUInt64LE(32),
    before: {
      first: bytes.readBigUInt64LE(40),
      size: Number(bytes.readBigUInt64LE(48)),
      checksum: bytes.readUInt32LE(56),
    },
    salt,
  }
}

/** The format's version if the header is whole and of a later program. */
export function newerSegment(bytes: Buffer): number | undefined {
  if (crc32(bytes.subarray(0, 60)) !== bytes.readUInt32LE(60) || !bytes.subarray(0, 8).equals(MAGIC)) return undefined
  const format = bytes.readUInt32LE(8)
  return format > SEGMENT_FORMAT ? format : undefined
}

/** A journal's id is a UUID, 16 bytes on disk. */
export function idBytes(id: string): Buffer {
  return Buffer.from(id.replaceAll('-', ''), 'hex')
}

export function idText(bytes: Buffer): string {
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}

/** The segment that is written to. Nothing here may run while something else here does. */
export class ActiveSegment {
  private constructor(
    readonly segment: Segment,
    private readonly file: DiskFile,
    /** Of all bytes up to `segment.end`. */
    private checksum: number,
  ) {}

  /** Makes a segment with room for `room` bytes of frames. Leaves nothing behind when it fails. */
  static async create(disk: Disk, dir: string, header: SegmentHeader, room: number): Promise<ActiveSegment> {
    const path = join(dir, segmentName(header.first))
    const draft = `${path}.new`
    const bytes = encodeHeader(header)
    const file = await disk.open(draft, 'create')
    try {
      const size = wholePages(SEGMENT_HEADER_BYTES + room)
      await writeAll(file, [bytes, ...zeroParts(size - SEGMENT_HEADER_BYTES)], 0)
      failpoint('journal.segment.drafted')
      await disk.rename(draft, path)
      failpoint('journal.segment.renamed')
      await disk.syncDirectory(dir)
      failpoint('journal.segment.synced')
      const segment = {
        path,
        first: header.first,
        last: header.first - 1n,
        salt: bytes.readUInt32LE(60),
        end: SEGMENT_HEADER_BYTES,
        size,
      }
      return new ActiveSegment(segment, file, crc32(bytes))
    } catch (error) {
      await file.close()
      await disk.remove(draft)
      throw error
    }
  }

  /** Opens the last segment behind its last record. `checksum`: of all its bytes up to there. */
  static async open(disk: Disk, segment: Segment, checksum: number): Promise<ActiveSegment> {
    return new ActiveSegment(segment, await disk.open(segment.path, 'update'), checksum)
  }

  /** Bytes that may still be written without growing. */
  get room(): number {
    return this.segment.size - this.segment.end
  }

  /** What the next segment's header tells about this one, once it is sealed. */
  get before(): Before {
    return { first: this.segment.first, size: this.segment.end, checksum: this.checksum }
  }

  /** Where its last record ends. */
  milestone(): Milestone & { segment: Sequence } {
    const { first, last, end } = this.segment
    return { segment: first, sequence: last, position: end, checksum: this.checksum }
  }

  /** Appends zeros so that there is room for at least `bytes`. When it fails, the file is as before. */
  async grow(bytes: number): Promise<void> {
    const { segment, file } = this
    const size = wholePages(Math.max(segment.end + bytes, segment.size))
    try {
      await writeAll(file, zeroParts(size - segment.size), segment.size)
    } catch (error) {
      await file.truncate(segment.size)
      throw error
    }
    failpoint('journal.segment.grown')
    segment.size = size
  }

  /** Writes a flush. When it resolves to its full length, it is on disk; otherwise `cutBack` has to follow. */
  write(frames: Buffer): Promise<number> {
    return this.file.write([frames], this.segment.end)
  }

  /** Counts what `write` has written. */
  accept(frames: Buffer, last: Sequence): void {
    this.segment.end += frames.length
    this.segment.last = last
    this.checksum = crc32(frames, this.checksum)
  }

  /** Takes away, durably, whatever a failed write has left behind the last record. */
  async cutBack(): Promise<void> {
    await this.file.truncate(this.segment.end)
    failpoint('journal.segment.cut')
    this.segment.size = this.segment.end
    await this.file.sync()
    failpoint('journal.segment.sealed')
  }

  /** Writes again, as they are, the bytes between `from` and the end. */
  async rewrite(from: number): Promise<void> {
    for (let at = from; at < this.segment.end; at += REWRITE_BYTES) {
      const bytes = await readExactly(this.file, Math.min(REWRITE_BYTES, this.segment.end - at), at)
      await writeAll(this.file, [bytes], at)
    }
  }

  /** Cuts off the zeros, for good. */
  async seal(): Promise<void> {
    if (this.room > 0) await this.cutBack()
  }

  close(): Promise<void> {
    return this.file.close()
  }
}

function wholePages(bytes: number): number {
  return Math.ceil(bytes / PAGE) * PAGE
}

function zeroParts(bytes: number): Buffer[] {
  const parts: Buffer[] = []
  for (let left = bytes; left > 0; left -= zeros.length) parts.push(zeros.subarray(0, Math.min(left, zeros.length)))
  return parts
}
