// Walking through a segment's frames with a bounded buffer.
import type { DiskFile } from './disk.js'
import { type Found, type Frame, HEADER_BYTES, readFrame } from './frame.js'

const CHUNK_BYTES = 256 * 1024

/** Where a walk ended, and why: `stopped` by the visitor, at the `end` it was given, or at something that is no frame. */
export type WalkEnd = { position: number; why: 'stopped' | 'end' } | { position: number; why: 'fault'; found: Fault }
export type Fault = Exclude<Found, { found: 'frame' }>

export interface Walk {
  file: DiskFile
  salt: number
  /** Where a frame begins. */
  from: number
  /** Where the frames, or the file, end. */
  to: number
  /** Bytes to read at a time; a larger frame is read in one piece nevertheless. */
  chunkBytes?: number
  /** Hears each frame; answers false to stop behind it. Its record is valid only during the call. */
  visit(frame: Frame): boolean
  /** Hears the bytes of the frames that were visited, a chunk at a time. */
  passed?(bytes: Buffer): void
}

/** Visits the frames in order. The event loop gets its turn between two chunks. */
export async function walk({ file, salt, from, to, chunkBytes = CHUNK_BYTES, visit, passed }: Walk): Promise<WalkEnd> {
  let buffer = Buffer.allocUnsafe(Math.min(chunkBytes, Math.max(to - from, HEADER_BYTES)))
  let position = from
  while (position < to) {
    const wanted = Math.min(buffer.length, to - position)
    const got = await file.read(buffer.subarray(0, wanted), position)
    if (got === 0) return { position, why: 'fault', found: { found: 'beyond', end: position + HEADER_BYTES } }
    const bytes = buffer.subarray(0, got)
    const { consumed, stop } = visitAll(bytes, position, salt, visit)
    if (consumed > 0) passed?.(bytes.subarray(0, consumed))
    const base = position
    position += consumed
    if (stop === 'visitor') return { position, why: 'stopped' }
    if (stop === undefined) continue
    if (stop.found !== 'beyond' || stop.end > to || got < wanted) return { position, why: 'fault', found: stop }
    // The frame is whole further on in the file: read from its start, and all of it.
    if (stop.end - position > buffer.length) buffer = Buffer.allocUnsafe(stop.end - position)
    else if (base === position) return { position, why: 'fault', found: stop }
  }
  return { position, why: 'end' }
}

function visitAll(bytes: Buffer, base: number, salt: number, visit: (frame: Frame) => boolean) {
  let at = 0
  while (at < bytes.length) {
    const found = readFrame(bytes, at, base, salt)
    if (found.found !== 'frame') return { consumed: at, stop: found }
    at = found.end - base
    if (!visit(found)) return { consumed: at, stop: 'visitor' as const }
  }
  return { consumed: at, stop: undefined }
}
