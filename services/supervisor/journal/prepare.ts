// Makes a journal that was read ready for writing: the only place that changes what a crash left behind.
import { basename, join } from 'node:path'
import { type Disk, errorCode, readExactly, reading, writeAll } from './disk.js'
import { keepFormat } from './format.js'
import { JournalUnavailable } from './journal.js'
import { MarkFile } from './mark.js'
import type { Recovered } from './recover.js'
import { Reserve } from './reserve.js'
import { ActiveSegment, NOTHING_BEFORE, type Segment } from './segment.js'
import type { FileJournalSettings } from './settings.js'
import { damaged, failed, full, isFull, type Trouble } from './trouble.js'

/** The files that a writable journal writes to. */
export interface Writing {
  active: ActiveSegment
  mark: MarkFile
  reserve: Reserve
}

export interface Prepared {
  /** Undefined: nothing may be written until the journal is opened anew. */
  writing: Writing | undefined
  trouble: Trouble | undefined
}

/**
 * Damage is left as it is. Of a torn end the bytes go to `damaged/`. Rejects only when a new journal can't be made.
 * A new journal's segment is added to `recovered`.
 */
export async function prepare(settings: FileJournalSettings, recovered: Recovered, journal: string): Promise<Prepared> {
  if (recovered.damage) return { writing: undefined, trouble: damaged(recovered.damage) }
  const opened: { close(): Promise<void> }[] = []
  try {
    return await makeReady(settings, recovered, journal, opened)
  } catch (error) {
    for (const file of opened) await file.close()
    return { writing: undefined, trouble: unready(settings.dir, recovered, error) }
  }
}

async function makeReady(
  settings: FileJournalSettings,
  recovered: Recovered,
  journal: string,
  opened: { close(): Promise<void> }[],
): Promise<Prepared> {
  const { disk, dir, log, reserveBytes } = settings
  for (const path of recovered.leftovers) await disk.remove(path)
  const mark = await MarkFile.open(disk, dir)
  opened.push(mark)
  if (settings.writtenBy) await keepFormat(disk, dir, settings.writtenBy)
  const active = await openActive(settings, recovered, journal)
  opened.push(active)
  if (recovered.torn) await cut(settings, active, recovered.torn)
  // What the mark does not cover may be in the page cache only: a write that was under way, or one that failed.
  await active.rewrite(recovered.unmarked)
  await disk.syncDirectory(dir)
  await mark.write({ journal, acknowledged: recovered.last, first: recovered.first, exact: false })
  const reserve = await Reserve.open(disk, dir, reserveBytes)
  const writing = { active, mark, reserve }
  try {
    await reserve.rebuild()
    return { writing, trouble: undefined }
  } catch (error) {
    if (!isFull(error)) throw error
    log.warn({ dir }, 'there is no room for the reserve of the journal')
    return { writing, trouble: full(dir) }
  }
}

async function openActive(
  settings: FileJournalSettings,
  recovered: Recovered,
  journal: string,
): Promise<ActiveSegment> {
  const { disk, dir, preallocateBytes } = settings
  const last = recovered.segments.at(-1)
  if (last) return ActiveSegment.open(disk, last, recovered.checksum)
  const first = recovered.last + 1n
  const active = await ActiveSegment.create(disk, dir, { journal, first, before: NOTHING_BEFORE }, preallocateBytes)
  recovered.segments.push(active.segment)
  return active
}

/** Takes the torn end away and keeps its bytes for whoever wants to look. */
async function cut({ disk, dir, log }: FileJournalSettings, active: ActiveSegment, because: string): Promise<void> {
  const { segment } = active
  const kept = join(dir, 'damaged', `${basename(segment.path)}-${segment.end}-${Date.now()}.cut`)
  try {
    await keep(disk, kept, await tailOf(disk, segment))
  } catch (error) {
    if (!isFull(error)) throw error
    log.warn({ file: kept }, 'there is no room to keep the bytes that are cut')
  }
  log.warn(
    { file: segment.path, offset: segment.end, sequence: String(segment.last), kept },
    `the end of the journal is cut behind record ${segment.last}, nothing of it was acknowledged: ${because}`,
  )
  await active.cutBack()
}

/** What lies behind the records, without the zeros at its end. */
async function tailOf(disk: Disk, { path, end, size }: Segment): Promise<Buffer> {
  const tail = await reading(disk, path, file => readExactly(file, size - end, end))
  let length = tail.length
  while (length > 0 && tail[length - 1] === 0) length -= 1
  return tail.subarray(0, length)
}

async function keep(disk: Disk, path: string, bytes: Buffer): Promise<void> {
  await disk.makeDirectory(join(path, '..'))
  const file = await disk.open(path, 'draft')
  try {
    await writeAll(file, [bytes], 0)
    await file.sync()
  } catch (error) {
    await disk.remove(path)
    throw error
  } finally {
    await file.close()
  }
  await disk.syncDirectory(join(path, '..'))
}

function unready(dir: string, recovered: Recovered, error: unknown): Trouble {
  const isNew = recovered.last === 0n && recovered.segments.length === 0
  if (isNew && isFull(error))
    throw new JournalUnavailable('full', `there is no room to make a journal in ${dir}`, 'free space on that disk')
  if (isNew || errorCode(error) === undefined) throw error
  if (!isFull(error)) return failed(dir, error)
  return { ...full(dir), advice: 'free space on it and restart purserd' }
}
