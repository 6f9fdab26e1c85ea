// The mark: a small file beside the segments that tells what has been acknowledged.
//
// The log alone can't tell a last record that was torn from one that was acknowledged and has changed since, nor miss
// a last segment that is gone. The mark can. It follows a quarter of a second behind, off the way of the appends.
//
// `<dir>/mark` holds two slots, at 0 and at 4096, written in turns; the one with the higher turn counts:
//
//   0  "PURSERMK"
//   8  u32  format version
//  12  u32  1 when it is exact: nothing behind `acknowledged` was acknowledged. So after a clean close, or a failure
//  16       journal id, 16 bytes
//  32  u64  turn
//  40  u64  acknowledged: no record up to this one may be missing
//  48  u64  first: the journal begins with this sequence, older ones were given up on purpose
//  56  u32  zero
//  60  u32  checksum of the 60 bytes above

import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import { type Disk, type DiskFile, errorCode, reading, writeAll } from './disk.js'
import type { Sequence } from './journal.js'
import { idBytes, idText } from './segment.js'

const MAGIC = Buffer.from('PURSERMK', 'latin1')
export const MARK_FORMAT = 1
const SLOT_BYTES = 64
const SLOTS_APART = 4096

export interface Mark {
  journal: string
  acknowledged: Sequence
  first: Sequence
  exact: boolean
}

/** `unreadable`: the file is there, but neither slot is whole. */
export async function readMark(disk: Disk, dir: string): Promise<Mark | 'missing' | 'unreadable'> {
  return (await newestSlot(disk, dir)) ?? 'unreadable'
}

export class MarkFile {
  private constructor(
    private readonly file: DiskFile,
    private turn: bigint,
  ) {}

  /** Opens the mark to write to it, and makes it if there is none that can be read. */
  static async open(disk: Disk, dir: string): Promise<MarkFile> {
    const slot = await newestSlot(disk, dir)
    if (slot && slot !== 'missing') return new MarkFile(await disk.open(markPath(dir), 'update'), slot.turn + 1n)
    const draft = `${markPath(dir)}.new`
    const file = await disk.open(draft, 'create')
    try {
      await writeAll(file, [Buffer.alloc(SLOTS_APART + SLOT_BYTES)], 0)
      failpoint('journal.mark.drafted')
      await disk.rename(draft, markPath(dir))
      failpoint('journal.mark.renamed')
      await disk.syncDirectory(dir)
      return new MarkFile(file, 1n)
    } catch (error) {
      await file.close()
      throw error
    }
  }

  /** On disk when it resolves. Calls must not overlap. */
  async write(mark: Mark): Promise<void> {
    const position = Number(this.turn % 2n) * SLOTS_APART
    await writeAll(this.file, [encode(mark, this.turn)], position)
    failpoint('journal.marked')
    this.turn += 1n
  }

  close(): Promise<void> {
    return this.file.close()
  }
}

function markPath(dir: string): string {
  return join(dir, 'mark')
}

/** The format's version if a slot is whole and of a later program. */
export async function newerMark(disk: Disk, dir: string): Promise<number | undefined> {
  const bytes = await slots(disk, dir)
  if (!bytes || bytes === 'missing') return undefined
  return [bytes.subarray(0, SLOT_BYTES), bytes.subarray(SLOTS_APART)]
    .filter(slot => crc32(slot.subarray(0, 60)) === slot.readUInt32LE(60) && slot.subarray(0, 8).equals(MAGIC))
    .map(slot => slot.readUInt32LE(8))
    .find(format => format > MARK_FORMAT)
}

async function slots(disk: Disk, dir: string): Promise<Buffer | 'missing' | undefined> {
  const bytes = Buffer.alloc(SLOTS_APART + SLOT_BYTES)
  try {
    await reading(disk, markPath(dir), file => file.read(bytes, 0))
    return bytes
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return 'missing'
    if (errorCode(error) === undefined) throw error
    return undefined // the place on the disk is bad: as good as a wrong checksum
  }
}

async function newestSlot(disk: Disk, dir: string): Promise<(Mark & { turn: bigint }) | 'missing' | undefined> {
  const bytes = await slots(disk, dir)
  if (!bytes || bytes === 'missing') return bytes
  const [a, b] = [decode(bytes.subarray(0, SLOT_BYTES)), decode(bytes.subarray(SLOTS_APART))]
  return a && b ? (a.turn > b.turn ? a : b) : (a ?? b)
}

function encode({ journal, acknowledged, first, exact }: Mark, turn: bigint): Buffer {
  const bytes = Buffer.alloc(SLOT_BYTES)
  MAGIC.copy(bytes)
  bytes.writeUInt32LE(MARK_FORMAT, 8)
  bytes.writeUInt32LE(exact ? 1 : 0, 12)
  idBytes(journal).copy(bytes, 16)
  bytes.writeBigUInt64LE(turn, 32)
  bytes.writeBigUInt64LE(acknowledged, 40)
  bytes.writeBigUInt64LE(first, 48)
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 60)), 60)
  return bytes
}

function decode(bytes: Buffer): (Mark & { turn: bigint }) | undefined {
  if (crc32(bytes.subarray(0, 60)) !== bytes.readUInt32LE(60)) return undefined
  if (!bytes.subarray(0, 8).equals(MAGIC) || bytes.readUInt32LE(8) !== MARK_FORMAT) return undefined
  return {
    exact: bytes.readUInt32LE(12) === 1,
    journal: idText(bytes.subarray(16, 32)),
    turn: bytes.readBigUInt64LE(32),
    acknowledged: bytes.readBigUInt64LE(40),
    first: bytes.readBigUInt64LE(48),
  }
}
