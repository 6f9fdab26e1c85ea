// Snapshots of the fold, `snapshots/<sequence, 20 digits>.snap`: the state, and beside it the streams' versions.
//
//   0  "PURSERSN"
//   8  u32  format version
//  12  u32  checksum of everything behind the header
//  16       journal id, 16 bytes
//  32  u64  sequence: the state holds the records up to it
//  40  u64  durable: the last durable sequence when the snapshot was made
//  48  u64  bytes of versions
//  56  u64  bytes of state
//  64  u64  the first sequence of the segment in which the record `sequence` ends, 0 when that is not told
//  72  u64  where in it that record ends
//  80  u32  checksum of that segment's bytes up to there
//  84       zeros
//  92  u32  checksum of the 92 bytes above
//  96       versions: for each stream u64 last sequence, u32 bytes of its name, the name (UTF-8)
//           state
//
// The versions may be newer than the state: reopening reads every record behind `sequence`, which sets those streams
// to the same values again. A file is written aside, synced and renamed. The newest two are kept for restarts, and some
// older ones, far apart, for whoever wants to know what was then; these go with the records that follow them.
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import type { Logger } from 'pino'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import { type Disk, errorCode, readExactly, reading, writeAll } from './disk.js'
import type { FoldSnapshot, Sequence } from './journal.js'
import type { Milestone } from './scan.js'
import { idBytes, idText } from './segment.js'

const MAGIC = Buffer.from('PURSERSN', 'latin1')
const FORMAT = 1
const HEADER_BYTES = 96
const CHUNK_BYTES = 1024 * 1024
/** The newest, which dropping segments leaves whole; and how many older ones. */
export const SNAPSHOTS_NEEDED = 2
const OLDER_KEPT = 6

export interface StoredSnapshot extends FoldSnapshot {
  durable: Sequence
  versions: Map<string, Sequence>
  /** Where `sequence` ends, so that reopening need not read what lies before it. */
  milestone: (Milestone & { segment: Sequence }) | undefined
}

export function snapshotsDirectory(dir: string): string {
  return join(dir, 'snapshots')
}

/** The sequences of the snapshots that are there, newest first. */
export async function listSnapshots(disk: Disk, dir: string): Promise<Sequence[]> {
  const names = await disk.list(snapshotsDirectory(dir))
  return names
    .map(name => /^(\d{20})\.snap$/.exec(name)?.[1])
    .filter(digits => digits !== undefined)
    .map(BigInt)
    .reverse()
}

/** The newest, up to a sequence, that is whole and this journal's; others are passed over with a log line. */
export async function newestSnapshot(
  disk: Disk,
  dir: string,
  journal: string,
  log: Logger,
  upTo?: Sequence,
): Promise<StoredSnapshot | undefined> {
  for (const sequence of await listSnapshots(disk, dir)) {
    if (upTo !== undefined && sequence > upTo) continue
    const path = snapshotPath(dir, sequence)
    const snapshot = await readSnapshot(disk, path, journal, sequence)
    if (typeof snapshot !== 'string') return snapshot
    log.warn({ file: path }, `this snapshot is passed over: ${snapshot}; an older one or the journal itself is read`)
  }
  return undefined
}

export async function writeSnapshot(disk: Disk, dir: string, journal: string, snapshot: StoredSnapshot): Promise<void> {
  const directory = snapshotsDirectory(dir)
  const path = snapshotPath(dir, snapshot.sequence)
  const draft = `${path}.new`
  const body = [encodeVersions(snapshot.versions), snapshot.state]
  const header = encodeHeader(journal, snapshot, body, await checksum(body))
  try {
    await disk.makeDirectory(directory)
    await writeDraft(disk, draft, [header, ...body])
    failpoint('journal.snapshot.drafted')
    await disk.rename(draft, path)
    failpoint('journal.snapshot.renamed')
    await disk.syncDirectory(directory)
    failpoint('journal.snapshot.synced')
  } catch (error) {
    await disk.remove(draft)
    throw error
  }
  for (const old of surplus(await listSnapshots(disk, dir))) await disk.remove(snapshotPath(dir, old))
}

/** Removes those from which nobody can go on: the records behind them are no longer kept. */
export async function dropSnapshotsBefore(disk: Disk, dir: string, first: Sequence): Promise<void> {
  for (const old of (await listSnapshots(disk, dir)).slice(SNAPSHOTS_NEEDED)) {
    if (old + 1n >= first) continue
    await disk.remove(snapshotPath(dir, old))
    failpoint('journal.snapshot.removed')
  }
}

/** Which of the snapshots, newest first, to remove so that those which stay lie evenly. */
export function surplus(sequences: readonly Sequence[]): Sequence[] {
  const kept = [...sequences]
  const removed: Sequence[] = []
  while (kept.length > SNAPSHOTS_NEEDED + OLDER_KEPT) {
    let [nearest, gap] = [kept.length - 1, undefined as Sequence | undefined]
    for (let index = SNAPSHOTS_NEEDED; index < kept.length - 1; index += 1) {
      const around = (kept[index - 1] ?? 0n) - (kept[index + 1] ?? 0n)
      if (gap === undefined || around < gap) [nearest, gap] = [index, around]
    }
    removed.push(...kept.splice(nearest, 1))
  }
  return removed
}

export function snapshotPath(dir: string, sequence: Sequence): string {
  return join(snapshotsDirectory(dir), `${sequence.toString().padStart(20, '0')}.snap`)
}

async function writeDraft(disk: Disk, draft: string, parts: Uint8Array[]): Promise<void> {
  const file = await disk.open(draft, 'draft')
  try {
    let position = 0
    for (const part of parts)
      for (const chunk of chunks(part)) {
        await writeAll(file, [chunk], position)
        position += chunk.length
      }
    await file.sync()
  } finally {
    await file.close()
  }
}

/** The snapshot; or in words what is wrong with it. */
export async function readSnapshot(
  disk: Disk,
  path: string,
  journal: string,
  sequence: Sequence,
): Promise<StoredSnapshot | string> {
  let bytes: Buffer
  try {
    bytes = await reading(disk, path, async file => readExactly(file, await file.size(), 0))
  } catch (error) {
    return `it can't be read (${errorCode(error) ?? String(error)})`
  }
  const header = bytes.subarray(0, HEADER_BYTES)
  if (header.length < HEADER_BYTES || crc32(header.subarray(0, 92)) !== header.readUInt32LE(92))
    return 'its header is damaged'
  if (!header.subarray(0, 8).equals(MAGIC)) return 'it is no snapshot'
  if (header.readUInt32LE(8) !== FORMAT) return `its format is version ${header.readUInt32LE(8)}, not ${FORMAT}`
  if (idText(header.subarray(16, 32)) !== journal) return 'it belongs to another journal'
  if (header.readBigUInt64LE(32) !== sequence) return 'its name is not the one it was written under'
  const versionsEnd = HEADER_BYTES + Number(header.readBigUInt64LE(48))
  if (bytes.length !== versionsEnd + Number(header.readBigUInt64LE(56))) return 'its size is wrong'
  if ((await checksum([bytes.subarray(HEADER_BYTES)])) !== header.readUInt32LE(12)) return 'its checksum is wrong'
  return {
    sequence,
    durable: header.readBigUInt64LE(40),
    versions: decodeVersions(bytes.subarray(HEADER_BYTES, versionsEnd)),
    milestone: decodeMilestone(header, sequence),
    state: bytes.subarray(versionsEnd),
  }
}

function encodeHeader(
  journal: string,
  { sequence, durable, milestone }: StoredSnapshot,
  [versions, state]: Uint8Array[],
  checksum: number,
): Buffer {
  const header = Buffer.alloc(HEADER_BYTES)
  MAGIC.copy(header)
  header.writeUInt32LE(FORMAT, 8)
  header.writeUInt32LE(checksum, 12)
  idBytes(journal).copy(header, 16)
  header.writeBigUInt64LE(sequence, 32)
  header.writeBigUInt64LE(durable, 40)
  header.writeBigUInt64LE(BigInt(versions?.length ?? 0), 48)
  header.writeBigUInt64LE(BigInt(state?.length ?? 0), 56)
  header.writeBigUInt64LE(milestone?.segment ?? 0n, 64)
  header.writeBigUInt64LE(BigInt(milestone?.position ?? 0), 72)
  header.writeUInt32LE(milestone?.checksum ?? 0, 80)
  header.writeUInt32LE(crc32(header.subarray(0, 92)), 92)
  return header
}

function decodeMilestone(header: Buffer, sequence: Sequence): StoredSnapshot['milestone'] {
  const segment = header.readBigUInt64LE(64)
  if (segment === 0n) return undefined
  return { segment, sequence, position: Number(header.readBigUInt64LE(72)), checksum: header.readUInt32LE(80) }
}

function encodeVersions(versions: Map<string, Sequence>): Buffer {
  const parts: Buffer[] = []
  for (const [stream, sequence] of versions) {
    const name = Buffer.from(stream)
    const fixed = Buffer.alloc(12)
    fixed.writeBigUInt64LE(sequence, 0)
    fixed.writeUInt32LE(name.length, 8)
    parts.push(fixed, name)
  }
  return Buffer.concat(parts)
}

function decodeVersions(bytes: Buffer): Map<string, Sequence> {
  const versions = new Map<string, Sequence>()
  let at = 0
  while (at < bytes.length) {
    const end = at + 12 + bytes.readUInt32LE(at + 8)
    versions.set(bytes.toString('utf8', at + 12, end), bytes.readBigUInt64LE(at))
    at = end
  }
  return versions
}

/** A piece at a time, so that a large state does not hold the event loop. */
async function checksum(parts: Uint8Array[]): Promise<number> {
  let sum = 0
  for (const part of parts)
    for (const chunk of chunks(part)) {
      sum = crc32(chunk, sum)
      if (chunk.length === CHUNK_BYTES) await turn()
    }
  return sum
}

function* chunks(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) yield bytes.subarray(at, at + CHUNK_BYTES)
}
