// What a journal was written with: the formats of its files and the versions of its events, so that a program that is
// too old for it refuses before it touches anything, and can say which one is not.
//
// `<dir>/format` has two lines: JSON, and the CRC-32 of the first line as eight hex digits. It is replaced, never
// changed, and only when it says something else than before.
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { type Disk, errorCode, readExactly, reading, writeAll } from './disk.js'
import { MARK_FORMAT, newerMark } from './mark.js'
import { newerSegment, SEGMENT_FORMAT, SEGMENT_HEADER_BYTES, segmentFirst } from './segment.js'

/** The program that writes, and the version in which it writes each type of event. */
export interface WrittenBy {
  /** "purserd 0.1.0 (0123456789ab)" */
  program: string
  events: Readonly<Record<string, number>>
}

interface Format extends WrittenBy {
  segments: number
  mark: number
}

/** The journal needs a later program. Nothing was touched. */
export class JournalNewer extends Error {
  constructor(dir: string, what: string, program: string | undefined) {
    const writer = program ?? 'a later version of purserd'
    super(
      `the journal in ${dir} was written by ${writer}, and this version cannot read all of it (${what}): nothing was changed. Start ${program ?? 'that version'} again, or give this one a directory of its own with --root`,
    )
    this.name = 'JournalNewer'
  }
}

/** Rejects with JournalNewer. Without `own`, only the formats of the files are looked at. */
export async function refuseNewer(disk: Disk, dir: string, own: WrittenBy | undefined): Promise<void> {
  const found = await readFormat(disk, dir)
  const what = found && newerThan(found, own)
  if (what) throw new JournalNewer(dir, what, found.program)
  const mark = await newerMark(disk, dir)
  if (mark !== undefined) throw new JournalNewer(dir, newerFormat('mark', mark, MARK_FORMAT), found?.program)
  for (const name of await disk.list(dir)) {
    if (segmentFirst(name) === undefined) continue
    const format = newerSegment(await head(disk, join(dir, name)))
    if (format !== undefined) throw new JournalNewer(dir, newerFormat(name, format, SEGMENT_FORMAT), found?.program)
  }
}

/** Says what this program writes, if the file does not say so yet. */
export async function keepFormat(disk: Disk, dir: string, own: WrittenBy): Promise<void> {
  const line = JSON.stringify({ ...own, segments: SEGMENT_FORMAT, mark: MARK_FORMAT } satisfies Format)
  const text = Buffer.from(`${line}\n${checkOf(line)}\n`)
  if ((await contents(disk, formatPath(dir)))?.equals(text)) return
  const draft = `${formatPath(dir)}.new`
  const file = await disk.open(draft, 'create')
  try {
    await writeAll(file, [text], 0)
  } finally {
    await file.close()
  }
  await disk.rename(draft, formatPath(dir))
  await disk.syncDirectory(dir)
}

/** undefined when it is missing or damaged: then the files' own headers and the events themselves tell. */
export async function readFormat(disk: Disk, dir: string): Promise<Format | undefined> {
  const [line = '', check] = ((await contents(disk, formatPath(dir))) ?? '').toString().split('\n')
  return line !== '' && check === checkOf(line) ? JSON.parse(line) : undefined
}

function newerThan(found: Format, own: WrittenBy | undefined): string | undefined {
  if (found.segments > SEGMENT_FORMAT) return newerFormat('segments', found.segments, SEGMENT_FORMAT)
  if (found.mark > MARK_FORMAT) return newerFormat('mark', found.mark, MARK_FORMAT)
  if (!own) return undefined
  for (const [type, version] of Object.entries(found.events)) {
    const known = Object.hasOwn(own.events, type) ? own.events[type] : undefined
    if (known === undefined) return `it does not know events of type ${type}`
    if (version > known) return `it knows ${type} up to version ${known}, the journal may hold version ${version}`
  }
  return undefined
}

const newerFormat = (file: string, found: number, known: number) =>
  `the format of its ${file} is version ${found}, this program knows version ${known}`

const formatPath = (dir: string) => join(dir, 'format')
const checkOf = (line: string) => crc32(line).toString(16).padStart(8, '0')

async function contents(disk: Disk, path: string): Promise<Buffer | undefined> {
  try {
    return await reading(disk, path, async file => readExactly(file, await file.size(), 0))
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined
    if (errorCode(error) === undefined) throw error
    return undefined // a bad place on the disk: as good as a wrong checksum
  }
}

async function head(disk: Disk, path: string): Promise<Buffer> {
  const bytes = Buffer.alloc(SEGMENT_HEADER_BYTES)
  try {
    await reading(disk, path, file => file.read(bytes, 0))
  } catch (error) {
    if (errorCode(error) === undefined) throw error
  }
  return bytes
}
