// Makes a damaged journal whole again: every record that is proven good is kept under its sequence, every one that is
// not is replaced by a record that says so, and every file that is replaced is kept aside.
//
// The new segments are made whole and durable under `repairing/`, with a file `done`. Only then are the old ones moved
// to `damaged/repair-<time>/`, and the new ones into their places. When that is interrupted, the next repair goes on
// where it ended; a supervisor that is started in between finds segments missing, and takes no writes.
import { basename, join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { failpoint } from '../../../../plugins/kit/failpoint.js'
import { type Disk, writeAll } from '../disk.js'
import type { Entry, JournalRecord, Sequence } from '../journal.js'
import { MarkFile } from '../mark.js'
import { type Before, NOTHING_BEFORE } from '../segment.js'
import { snapshotsDirectory } from '../snapshots.js'
import { Chain } from './chain.js'
import { type Finding, type Range, type Survey, type SurveyOptions, survey } from './survey.js'

export interface RepairOptions extends Omit<SurveyOptions, 'visit' | 'between' | 'inUse'> {
  /** What stands in the place of a lost record. */
  lost(sequence: Sequence): Entry
  node: string
  timeUnixNano: bigint
  segmentBytes?: number
}

export interface Repair {
  damage: Finding[]
  /** One was interrupted and is finished first; only then it shows what else is damaged. */
  unfinished: boolean
  /** Records that are gone for good. */
  lost: Range[]
  /** Records that are written anew, because they lie behind damage. */
  rewritten: number
  /** What is moved aside. */
  replaced: string[]
  /** Where to. */
  aside: string
  first: Sequence
  last: Sequence
}

/** What a repair would do. Changes nothing. */
export async function planRepair(options: RepairOptions): Promise<Repair> {
  const seen = await survey({ ...options, inUse: false })
  return { ...planOf(options, seen), unfinished: await isUnfinished(options) }
}

/** Does it. The caller holds the lock. Rejects, with the journal as it was, when there is no room for the new files. */
export async function repair(options: RepairOptions): Promise<Repair> {
  const { disk, dir } = options
  const unfinished = await isUnfinished(options)
  if (unfinished) await swap(options)
  const seen = await survey({ ...options, inUse: false })
  const plan = { ...planOf(options, seen), unfinished }
  if (seen.damage.length === 0) return plan
  await clear(disk, newDirectory(dir))
  await disk.makeDirectory(newDirectory(dir))
  const rewritten = firstChanged(seen, plan.first) !== undefined ? await rewrite(options, seen, plan) : 0
  await note(disk, join(newDirectory(dir), 'replaced'), plan.replaced.map(path => basename(path)).join('\n'))
  await note(disk, join(newDirectory(dir), 'mark-of'), JSON.stringify(markOf(seen, plan)))
  const made = (await disk.list(newDirectory(dir))).filter(isSegment)
  await note(disk, join(newDirectory(dir), 'done'), made.join('\n'))
  await disk.syncDirectory(newDirectory(dir))
  failpoint('journal.repair.drafted')
  await swap(options)
  return { ...plan, rewritten }
}

const isUnfinished = async ({ disk, dir }: RepairOptions) => (await disk.list(newDirectory(dir))).includes('done')

function planOf({ dir, timeUnixNano }: RepairOptions, seen: Survey): Omit<Repair, 'unfinished'> {
  const lost = seen.damage.flatMap(finding => (finding.lost ? [finding.lost] : []))
  const whole = seen.snapshots.find(({ problem }) => problem === undefined)?.sequence ?? 0n
  // What is missing at the very beginning need not be stood in for when a snapshot tells what it said.
  const leading = lost.find(({ from }) => from === seen.first)
  const first = leading && whole >= leading.to ? leading.to + 1n : seen.first
  const from = firstChanged(seen, first)
  const segments = from === undefined ? [] : seen.segments.filter(segment => segment.last >= from || !segment.intact)
  const affected = segments[0] ? seen.segments.slice(seen.segments.indexOf(segments[0])) : []
  const snapshots = seen.snapshots.flatMap(({ file, problem }) => (problem ? [file] : []))
  return {
    damage: seen.damage,
    lost,
    rewritten: affected.reduce((total, { first, last }) => total + Number(last - first) + 1, 0),
    replaced: [...affected.map(({ path }) => path), ...seen.strangers, ...snapshots],
    aside: join(dir, 'damaged', `repair-${timeUnixNano}`),
    first,
    last: seen.last,
  }
}

/** The first sequence whose segment can't stay as it is. */
function firstChanged(seen: Survey, first: Sequence): Sequence | undefined {
  const broken = seen.segments.filter(({ intact }) => !intact).map(segment => segment.first)
  const gaps = seen.damage.flatMap(({ lost }) => (lost && lost.to >= first ? [lost.from] : []))
  const [earliest] = [...broken, ...gaps].sort((a, b) => (a < b ? -1 : 1))
  return earliest
}

/** Writes everything from the first affected segment on, gaps filled, and answers how many records were good. */
async function rewrite(options: RepairOptions, seen: Survey, plan: Omit<Repair, 'unfinished'>): Promise<number> {
  const { disk, dir, segmentBytes } = options
  const untouched = seen.segments.filter(({ path }) => !plan.replaced.includes(path))
  const last = untouched.at(-1)
  const before: Before = last ? { first: last.first, size: last.size, checksum: last.checksum } : NOTHING_BEFORE
  let next = last ? last.last + 1n : plan.first
  const chain = await Chain.begin({
    ...{ disk, dir: newDirectory(dir), journal: seen.journal ?? '', first: next, before },
    ...(segmentBytes !== undefined && { segmentBytes }),
  })
  const fillUpTo = async (sequence: Sequence) => {
    for (; next < sequence; next += 1n) await chain.add(standIn(options, next))
  }
  let waiting: JournalRecord[] = []
  let count = 0
  const write = async () => {
    for (const record of waiting) {
      await fillUpTo(record.sequence)
      await chain.add(record)
      next = record.sequence + 1n
      if (++count % 1000 === 0) await turn()
    }
    waiting = []
  }
  const begin = next
  await survey({
    ...options,
    inUse: false,
    visit: ({ record }) => void (record.sequence >= begin && waiting.push(record)),
    between: write,
  })
  await write()
  await fillUpTo(plan.last + 1n)
  await chain.end()
  return count
}

function standIn({ lost, node, timeUnixNano }: RepairOptions, sequence: Sequence): JournalRecord {
  const actor = { uid: 0, gid: 0, pid: process.pid, name: 'repair' }
  return { ...lost(sequence), sequence, timeUnixNano, node, causation: 'repair', correlation: '', actor }
}

const newDirectory = (dir: string) => join(dir, 'repairing')
const isSegment = (path: string) => path.endsWith('.log')

function markOf(seen: Survey, plan: Omit<Repair, 'unfinished'>) {
  return { journal: seen.journal ?? '', acknowledged: String(plan.last), first: String(plan.first) }
}

/** Can be done again from wherever it was interrupted. */
async function swap({ disk, dir, timeUnixNano }: RepairOptions): Promise<void> {
  const draft = newDirectory(dir)
  const aside = join(dir, 'damaged', `repair-${timeUnixNano}`)
  await disk.makeDirectory(aside)
  const names = (await text(disk, join(draft, 'replaced'))).split('\n').filter(name => name !== '')
  const made = (await text(disk, join(draft, 'done'))).split('\n')
  const fresh = (await disk.list(draft)).filter(isSegment)
  const listed = await disk.list(dir)
  for (const name of names.filter(isSegment)) {
    // One that was made and is no longer in the draft stands in its place already.
    const isOld = !made.includes(name) || fresh.includes(name)
    if (!isOld || !listed.includes(name)) continue
    await disk.rename(join(dir, name), join(aside, name))
    failpoint('journal.repair.movedAside')
  }
  const snapshots = await disk.list(snapshotsDirectory(dir))
  for (const name of names.filter(name => !isSegment(name) && snapshots.includes(name))) {
    await disk.rename(join(snapshotsDirectory(dir), name), join(aside, name))
    failpoint('journal.repair.movedAside')
  }
  await disk.syncDirectory(aside)
  for (const name of fresh) {
    await disk.rename(join(draft, name), join(dir, name))
    failpoint('journal.repair.placed')
  }
  await disk.syncDirectory(dir)
  const { journal, acknowledged, first } = JSON.parse(await text(disk, join(draft, 'mark-of')))
  const mark = await MarkFile.open(disk, dir)
  await mark.write({ journal, acknowledged: BigInt(acknowledged), first: BigInt(first), exact: true })
  await mark.close()
  failpoint('journal.repair.marked')
  await clear(disk, draft)
}

async function clear(disk: Disk, directory: string): Promise<void> {
  const names = await disk.list(directory)
  const remove = async (name: string) => {
    await disk.remove(join(directory, name))
    failpoint('journal.repair.cleared')
  }
  // `done` goes first: without it the rest means nothing.
  if (names.includes('done')) await remove('done')
  await disk.syncDirectory(directory).catch(() => {})
  for (const name of names.filter(name => name !== 'done')) await remove(name)
}

async function note(disk: Disk, path: string, content: string): Promise<void> {
  const file = await disk.open(path, 'create')
  try {
    if (content !== '') await writeAll(file, [Buffer.from(content)], 0)
    await file.sync()
  } finally {
    await file.close()
  }
}

async function text(disk: Disk, path: string): Promise<string> {
  const file = await disk.open(path, 'read')
  try {
    const bytes = Buffer.alloc(await file.size())
    await file.read(bytes, 0)
    return bytes.toString()
  } finally {
    await file.close()
  }
}
