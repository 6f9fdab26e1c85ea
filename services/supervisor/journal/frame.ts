// How records lie in a segment: frames, one after another.
//
//   0  u32  length of the record in bytes (bits 0–27); bit 31: the last of its batch
//   4  u32  checksum of the record and its padding
//   8  u32  where in this segment the flush that wrote the frame begins
//  12  u32  check of the twelve bytes above
//  16       the record: purser.journal.v1.Record
//           zeros up to the next multiple of 16
//
// All numbers are little-endian. Sixteen zeros in place of a header are the segment's preallocated rest.
//
// Why it is so:
// - Batches are atomic: they count from the frame that says "last of its batch" on. A rest without it is cut.
// - A flush is written only when the flush before it was on disk and acknowledged. So a frame whose flush begins
//   behind a damaged place proves that what is damaged was acknowledged, where a frame of the same flush does not:
//   the parts of one flush may reach the disk in any order.
// - Frames begin at multiples of 16, so a header lies within one sector of the disk and is written whole or not at
//   all. It has a check of its own, so that a record's extent is known when the record itself is not whole. What
//   this tells about a damaged end is in tail.ts.
// - Checksums and checks begin with the segment header's (`salt`), so that a frame that strayed in from another file is none.
// - The checksum is node:zlib's CRC-32. CRC-32C is as good against torn writes and flipped bits (both find every
//   burst of up to 32 bits) but would need native code of our own or a table in JavaScript, ten times slower.
import { crc32 } from 'node:zlib'

export const HEADER_BYTES = 16
/** The most that a record may have: what 28 bits can say. */
export const MAX_RECORD_BYTES = 0x0fff_ffff

/** Frames begin at multiples of it. */
export const ALIGNMENT = 16
const LAST_OF_BATCH = 0x8000_0000

export interface Frame {
  /** Where it begins. */
  position: number
  /** Where the next one begins. */
  end: number
  flush: number
  lastOfBatch: boolean
  /** Lies in the buffer that was read: valid only until that is used again. */
  record: Buffer
}

/** What is found where a frame is expected. */
export type Found =
  | ({ found: 'frame' } & Frame)
  /** Sixteen zeros. */
  | { found: 'blank' }
  | { found: 'bad header' }
  /** The header is whole, the record is not; it should reach from `record` to `end`. */
  | { found: 'bad record'; record: number; recordEnd: number; end: number }
  /** The bytes end before the frame does, which would be at `end`. */
  | { found: 'beyond'; end: number }

/** The bytes that a record takes with its header and padding. */
export function frameBytes(recordBytes: number): number {
  return Math.ceil((HEADER_BYTES + recordBytes) / ALIGNMENT) * ALIGNMENT
}

/** Writes a frame into `into` from byte `at` on, and answers where the next begins. */
export function writeFrame(
  into: Buffer,
  at: number,
  record: Uint8Array,
  { salt, flush, lastOfBatch }: { salt: number; flush: number; lastOfBatch: boolean },
): number {
  const end = at + frameBytes(record.length)
  into.set(record, at + HEADER_BYTES)
  into.fill(0, at + HEADER_BYTES + record.length, end)
  into.writeUInt32LE((record.length | (lastOfBatch ? LAST_OF_BATCH : 0)) >>> 0, at)
  into.writeUInt32LE(crc32(into.subarray(at + HEADER_BYTES, end), salt), at + 4)
  into.writeUInt32LE(flush, at + 8)
  into.writeUInt32LE(headerCheck(into, at, salt), at + 12)
  return end
}

/** Looks for a frame at `at` of `bytes`, whose byte 0 lies at `base` of the segment. */
export function readFrame(bytes: Buffer, at: number, base: number, salt: number): Found {
  const position = base + at
  const start = at + HEADER_BYTES
  if (start > bytes.length) return { found: 'beyond', end: base + start }
  const header = readHeader(bytes, at, salt)
  if (!header) return isZero(bytes.subarray(at, start)) ? { found: 'blank' } : { found: 'bad header' }
  const end = at + frameBytes(header.length)
  if (end > bytes.length) return { found: 'beyond', end: base + end }
  if (crc32(bytes.subarray(start, end), salt) !== header.checksum)
    return { found: 'bad record', record: base + start, recordEnd: base + start + header.length, end: base + end }
  const { flush, lastOfBatch } = header
  return {
    found: 'frame',
    position,
    end: base + end,
    flush,
    lastOfBatch,
    record: bytes.subarray(start, start + header.length),
  }
}

interface Header {
  length: number
  lastOfBatch: boolean
  checksum: number
  flush: number
}

/** A header, if its own check is right. An empty record is none: it would look like the preallocated rest. */
export function readHeader(bytes: Buffer, at: number, salt: number): Header | undefined {
  const word = bytes.readUInt32LE(at)
  if (word === 0 || headerCheck(bytes, at, salt) !== bytes.readUInt32LE(at + 12)) return undefined
  return {
    length: word & MAX_RECORD_BYTES,
    lastOfBatch: (word & LAST_OF_BATCH) !== 0,
    checksum: bytes.readUInt32LE(at + 4),
    flush: bytes.readUInt32LE(at + 8),
  }
}

/**
 * A mix of the header's three words. Each step can be undone, so a change in one word always shows, and others with
 * the certainty of 32 bits. A native checksum of 12 bytes would cost ten times as much as this.
 */
function headerCheck(bytes: Buffer, at: number, salt: number): number {
  let check = salt
  for (let word = at; word < at + 12; word += 4) {
    check = Math.imul(check ^ bytes.readUInt32LE(word), 0x9e3779b1)
    check ^= check >>> 15
  }
  return check >>> 0
}

const zeros = Buffer.alloc(64 * 1024)

export function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at += zeros.length) {
    const part = bytes.subarray(at, at + zeros.length)
    if (Buffer.compare(part, zeros.subarray(0, part.length)) !== 0) return false
  }
  return true
}
