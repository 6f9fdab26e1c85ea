// Reading one segment from its first record to its last: positions, versions and the checksum of its bytes.
import { crc32 } from 'node:zlib'
import { type DiskFile, readExactly } from './disk.js'
import type { Frame } from './frame.js'
import type { Sequence } from './journal.js'
import { type Glance, glance } from './record.js'
import { SEGMENT_HEADER_BYTES, type Segment } from './segment.js'
import { SparseIndex } from './sparseIndex.js'
import { type Fault, walk } from './walk.js'

const CHUNK_BYTES = 1024 * 1024

/** Where a walk came to its end: at the file's, at something that is no frame, or at a frame that should not be here. */
export interface Stopped {
  position: number
  fault: Fault | undefined
  stray: string | undefined
}

export interface ScanParts {
  /** Its `last` and `end` follow the batches that count. */
  segment: Segment
  header: Buffer
  /** Records up to here are known from a snapshot. */
  covered: Sequence
  acknowledged: Sequence
  /** Follow the batches that count. */
  versions: Map<string, Sequence>
  /** A place in it up to which it need not be read: what a snapshot covers. */
  from: Milestone | undefined
}

/** The end of a batch, and the checksum of the segment's bytes up to there. */
export interface Milestone {
  /** Of the record that ends there. */
  sequence: Sequence
  position: number
  checksum: number
}

export class Scan {
  readonly segment: Segment
  /** Of what was read. */
  readonly index: SparseIndex
  expected: Sequence
  /** Of the bytes up to where the walk has come. */
  checksum: number
  /** Where the first record begins that is not known to have been acknowledged. */
  unmarked: number | undefined
  /** How far it has come. */
  position: number
  private flush = 0
  private batch: (Glance & { position: number })[] = []

  constructor(private readonly parts: ScanParts) {
    const { segment, header, from } = parts
    this.segment = segment
    this.index = new SparseIndex(segment.first)
    this.expected = from ? from.sequence + 1n : segment.first
    this.checksum = from ? from.checksum : crc32(header)
    this.position = from?.position ?? SEGMENT_HEADER_BYTES
    segment.last = this.expected - 1n
    segment.end = this.position
  }

  async run(file: DiskFile): Promise<Stopped> {
    let stray: string | undefined
    const { segment } = this
    const end = await walk({
      file,
      salt: segment.salt,
      from: this.position,
      to: segment.size,
      chunkBytes: CHUNK_BYTES,
      visit: frame => {
        stray = this.strays(frame)
        return stray === undefined
      },
      passed: bytes => {
        this.checksum = crc32(bytes, this.checksum)
      },
    })
    return { position: stray ? this.position : end.position, fault: end.why === 'fault' ? end.found : undefined, stray }
  }

  /** Continues with a frame that was found behind a damaged place. */
  resume(sequence: Sequence, { position, flush }: Frame): void {
    this.index.addBehindDamage(sequence, position)
    this.batch = []
    this.expected = sequence
    this.position = position
    this.flush = flush
  }

  /** Counts a frame, or says why it is not the one that should be here. */
  private strays(frame: Frame): string | undefined {
    const { sequence, stream, ends } = glance(frame.record)
    if (sequence !== this.expected) return `record ${sequence} is in the place of ${this.expected}`
    if (frame.flush !== frame.position && frame.flush !== this.flush)
      return `record ${sequence} was written to another place, at the flush of byte ${frame.flush}`
    if (sequence > this.parts.acknowledged) this.unmarked ??= frame.position
    this.expected = sequence + 1n
    this.flush = frame.flush
    this.position = frame.end
    this.batch.push({ sequence, stream, ends, position: frame.position })
    if (frame.lastOfBatch) this.countBatch(frame.end)
    return undefined
  }

  private countBatch(end: number): void {
    for (const { sequence, stream, ends, position } of this.batch) {
      this.index.add(sequence, position)
      if (sequence <= this.parts.covered) continue
      if (ends) this.parts.versions.delete(stream)
      else this.parts.versions.set(stream, sequence)
    }
    this.batch = []
    this.segment.end = end
    this.segment.last = this.expected - 1n
  }
}

/** Of a segment's bytes up to `end`. */
export async function checksumOf(file: DiskFile, end: number): Promise<number> {
  let sum = 0
  for (let at = 0; at < end; at += CHUNK_BYTES)
    sum = crc32(await readExactly(file, Math.min(CHUNK_BYTES, end - at), at), sum)
  return sum
}
