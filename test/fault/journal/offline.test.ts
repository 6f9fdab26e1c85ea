// The tools for a journal's directory: they see every damage, lose nothing that is whole, and change nothing unasked.
import { createHash } from 'node:crypto'
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { crc32 } from 'node:zlib'
import t, { type Test } from 'tap'
import { type Disk, realDisk } from '../../../services/supervisor/journal/disk.js'
import { openFileJournal } from '../../../services/supervisor/journal/fileLog.js'
import type { JournalRecord } from '../../../services/supervisor/journal/journal.js'
import { exportLines } from '../../../services/supervisor/journal/offline/export.js'
import { importLines } from '../../../services/supervisor/journal/offline/import.js'
import { planRepair, repair } from '../../../services/supervisor/journal/offline/repair.js'
import { stats } from '../../../services/supervisor/journal/offline/stats.js'
import { survey } from '../../../services/supervisor/journal/offline/survey.js'
import { encodeWorld } from '../../../services/supervisor/state/snapshot.js'
import { Store } from '../../../services/supervisor/state/store.js'
import { batch, directory, entry, readAll, silent } from '../../unit/journal/batches.js'
import { faultyDisk, systemError } from './disks.js'
import { repairing, writtenBy } from './repairing.js'

const fixtures = fileURLToPath(new URL('../../fixtures/journal/a615be5', import.meta.url))
const small = { node: 'n', log: silent, segmentBytes: 8192, preallocateBytes: 4096, reserveBytes: 0 }

/** One event of every kind, in three segments: records 1 to 29, 30 to 59 and 60 to 87. Or its last segment alone. */
function stored(t: Test, kind: 'whole' | 'shortened' = 'whole'): string {
  const dir = join(directory(t), 'journal')
  cpSync(join(fixtures, kind), dir, { recursive: true })
  return dir
}

const [first, second, third] = ['1', '30', '60'].map(sequence => `${sequence.padStart(20, '0')}.log`)
const look = (dir: string, disk: Disk = realDisk) => survey({ disk, dir, inUse: false, writtenBy })

const options = (dir: string, disk: Disk = realDisk) => repairing(dir, disk)

function print(dir: string): string {
  const hash = createHash('sha256')
  for (const name of readdirSync(dir, { recursive: true, encoding: 'utf8' }).sort()) {
    const { mtimeMs, size } = statSync(join(dir, name))
    hash.update(`${name} ${mtimeMs} ${size}\n`)
    if (statSync(join(dir, name)).isFile()) hash.update(readFileSync(join(dir, name)))
  }
  return hash.digest('hex')
}

function change(path: string, edit: (bytes: Buffer) => Buffer | undefined): void {
  const bytes = readFileSync(path)
  writeFileSync(path, edit(bytes) ?? bytes)
}

const flip = (at: number) => (bytes: Buffer) => void bytes.writeUInt8((bytes[at] ?? 0) ^ 4, at)

async function recordsOf(dir: string): Promise<JournalRecord[]> {
  const journal = await openFileJournal({ dir, ...small })
  try {
    return await readAll(journal, 0n)
  } finally {
    await journal.close()
  }
}

const path = (dir: string, name: string | undefined) => join(dir, name ?? '')

t.test('whole journals are found whole, and counted', async t => {
  for (const kind of ['whole', 'shortened'] as const) {
    const dir = stored(t, kind)
    const before = print(dir)
    const seen = await look(dir)
    t.same([seen.damage, seen.notes], [[], []])
    t.match(seen, { last: 87n, records: kind === 'whole' ? 87 : 28, first: kind === 'whole' ? 1n : 60n })
    const counted = await stats({ disk: realDisk, dir, inUse: false, writtenBy })
    t.equal(
      [...counted.byType.values()].reduce((sum, { events }) => sum + events, 0),
      seen.records,
    )
    t.equal(print(dir), before, 'nothing is touched')
  }
})

interface Damage {
  title: string
  kind?: 'shortened'
  harm(dir: string): void
  /** What is found of it. */
  what: RegExp
  /** Sequences that are gone. */
  lost: number[]
}

const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index)
const middle = (bytes: Buffer) => bytes.indexOf('NetworkAttachFailed')

const damages: Damage[] = [
  {
    title: 'a bit of a record',
    harm: dir => change(path(dir, second), bytes => flip(middle(bytes))(bytes)),
    what: /no record/,
    lost: [33],
  },
  {
    title: 'a bit of the last record',
    harm: dir => change(path(dir, third), bytes => flip(bytes.lastIndexOf('ContainerDeleted'))(bytes)),
    what: /no record/,
    lost: [87],
  },
  {
    title: "a bit of a segment's header",
    harm: dir => change(path(dir, second), flip(33)),
    what: /header/,
    lost: [],
  },
  {
    title: "the checksum of a segment's header, which its records count on",
    harm: dir => change(path(dir, second), flip(61)),
    what: /header/,
    lost: range(30, 59),
  },
  { title: 'the first segment is missing', harm: dir => rmSync(path(dir, first)), what: /missing/, lost: range(1, 29) },
  { title: 'the middle one is missing', harm: dir => rmSync(path(dir, second)), what: /missing/, lost: range(30, 59) },
  { title: 'the last one is missing', harm: dir => rmSync(path(dir, third)), what: /ends at 59/, lost: range(60, 87) },
  {
    title: 'one is there twice, under a name between others',
    harm: dir => cpSync(path(dir, second), join(dir, '00000000000000000045.log')),
    what: /written as the segment that begins with record 30/,
    lost: [],
  },
  {
    title: 'one is of another journal',
    harm: dir =>
      change(path(dir, second), bytes => {
        for (let at = 16; at < 32; at += 1) flip(at)(bytes)
        bytes.writeUInt32LE(crc32(bytes.subarray(0, 60)), 60)
        return bytes
      }),
    what: /belongs to journal/,
    lost: range(30, 59),
  },
  {
    title: 'one is shorter',
    harm: dir => change(path(dir, second), bytes => bytes.subarray(0, bytes.length - 100)),
    what: /no record|not what/,
    lost: [59],
  },
  { title: 'the mark is missing', harm: dir => rmSync(join(dir, 'mark')), what: /mark is missing/, lost: [] },
  {
    title: 'a snapshot has changed',
    kind: 'shortened',
    harm: dir => change(join(dir, 'snapshots', '00000000000000000082.snap'), flip(200)),
    what: /checksum is wrong/,
    lost: [],
  },
  {
    title: 'what a snapshot tells as well',
    kind: 'shortened',
    harm: dir => change(path(dir, third), bytes => flip(bytes.indexOf('TaskExited'))(bytes)),
    what: /no record/,
    lost: [82],
  },
]

for (const { title, kind, harm, what, lost } of damages)
  t.test(`${title}: found, told, and repaired but for what is gone`, async t => {
    const dir = stored(t, kind)
    const whole = await recordsOf(dir)
    harm(dir)
    const damaged = print(dir)
    const seen = await look(dir)
    t.ok(
      seen.damage.some(finding => what.test(finding.what)),
      JSON.stringify(seen.damage.map(finding => finding.what)),
    )
    const plan = await planRepair(options(dir))
    t.equal(print(dir), damaged, 'looking and planning change nothing')

    const done = await repair(options(dir))
    const gone = done.lost.flatMap(({ from, to }) => range(Number(from), Number(to)))
    t.same(gone, lost)
    t.same({ ...plan, rewritten: 0 }, { ...done, rewritten: 0 }, 'what was planned is what was done')
    t.same((await look(dir)).damage, [])
    const kept = readdirSync(done.aside)
    t.same(kept.sort(), done.replaced.map(file => basename(file)).sort(), 'what is replaced is kept')
    const records = await recordsOf(dir)
    t.equal(records.at(-1)?.sequence, whole.at(-1)?.sequence, 'no sequence is used twice')
    for (const before of whole) {
      const after = records.find(({ sequence }) => sequence === before.sequence)
      if (!after) t.ok(before.sequence < done.first, `${before.sequence} is told by a snapshot`)
      else if (gone.includes(Number(before.sequence))) t.equal(after.type, 'RecordLost')
      else if (JSON.stringify(plain(after)) !== JSON.stringify(plain(before)))
        t.fail(`record ${before.sequence} differs`)
    }
    const journal = await openFileJournal({ dir, ...small })
    t.same(journal.health(), { writable: true })
    const store = await Store.open(journal, silent)
    t.equal(store.world.sequence, journal.last(), 'a supervisor can start from it')
    t.equal(store.world.lost.length > 0, lost.length > 0 && kind === undefined, 'and knows whether it knows all')
    await journal.append(batch(['next']))
    await journal.close()
  })

const plain = ({ payload, attachments, sequence, timeUnixNano, ...rest }: JournalRecord) => [
  ...[rest, String(sequence), String(timeUnixNano), Buffer.from(payload).toString()],
  attachments.map(bytes => Buffer.from(bytes).toString('hex')),
]

t.test('any flipped bit is found', async t => {
  const dir = stored(t)
  const file = path(dir, second)
  const bytes = readFileSync(file)
  const missed: number[] = []
  for (let at = 0; at < bytes.length; at += 23) {
    const harmed = Buffer.from(bytes)
    harmed.writeUInt8((harmed[at] ?? 0) ^ (1 << (at & 7)), at)
    writeFileSync(file, harmed)
    if ((await look(dir)).damage.length === 0) missed.push(at)
  }
  t.same(missed, [])
})

t.test('a repair that is interrupted at any point is finished by the next', async t => {
  const template = stored(t)
  change(path(template, second), bytes => flip(middle(bytes))(bytes))
  change(path(template, third), bytes => flip(bytes.indexOf('TaskExited'))(bytes))
  const expected = join(directory(t), 'journal')
  cpSync(template, expected, { recursive: true })
  await repair(options(expected))
  const wanted = (await recordsOf(expected)).map(plain)
  let interrupted = 0
  for (let at = 0; ; at += 1) {
    const dir = join(directory(t), 'journal')
    cpSync(template, dir, { recursive: true })
    let operations = 0
    const dying = faultyDisk(realDisk, ({ kind }) => {
      if (kind === 'read') return undefined
      return operations++ >= at ? systemError('EIO') : undefined
    })
    const failed = await repair(options(dir, dying)).then(
      () => false,
      () => true,
    )
    if (!failed) break
    interrupted += 1
    await repair(options(dir))
    const records = await recordsOf(dir)
    if (JSON.stringify(records.map(plain)) !== JSON.stringify(wanted)) t.fail(`interrupted at operation ${at}`)
    const aside = readdirSync(join(dir, 'damaged'), { recursive: true, encoding: 'utf8' })
    if (aside.filter(name => name.endsWith('.log')).length !== 2) t.fail(`${at}: kept ${aside.join()}`)
  }
  t.ok(interrupted > 10, `${interrupted} points`)
})

for (const kind of ['whole', 'shortened'] as const)
  t.test(`the ${kind} journal goes out as lines and comes back the same`, async t => {
    const dir = stored(t, kind)
    const lines: string[] = []
    for await (const line of exportLines({ disk: realDisk, dir, inUse: false, writtenBy }, {})) lines.push(line)
    t.match(JSON.parse(lines.at(-1) ?? ''), { sequence: '87', type: 'ContainerDeleted', payload: { id: 'job' } })
    const into = join(directory(t), 'new', 'journal')
    const settings = { disk: realDisk, lines: from(lines), keepId: false, writtenBy, segmentBytes: 8192 }
    const imported = await importLines({ ...settings, dir: into })
    t.match(imported, { first: kind === 'whole' ? 1n : 60n, last: 87n })
    t.same((await look(into)).damage, [])
    const [before, after] = [await open(t, dir), await open(t, into)]
    t.not(before.journal.id, after.journal.id, 'a copy is another journal')
    t.same((await readAll(after.journal, 0n)).map(plain), (await readAll(before.journal, 0n)).map(plain))
    t.equal(after.state, before.state)
    await t.rejects(importLines({ ...settings, lines: from(lines), dir: into }), { message: /not empty/ })
  })

t.test('bounds and filters make an export for reading, which is refused as a journal', async t => {
  const dir = stored(t)
  const lines: string[] = []
  const selection = { from: 40n, type: 'TaskStarted' }
  for await (const line of exportLines({ disk: realDisk, dir, inUse: false, writtenBy }, selection)) lines.push(line)
  t.same(
    lines.slice(1).map(line => JSON.parse(line).payload),
    [
      { containerId: 'web', pid: 42 },
      { containerId: 'job', pid: 50 },
    ],
  )
  const settings = { disk: realDisk, dir: join(directory(t), 'x'), keepId: false, writtenBy }
  await t.rejects(importLines({ ...settings, lines: from(lines) }), { message: /only a part of a journal/ })
  const whole: string[] = []
  for await (const line of exportLines({ disk: realDisk, dir, inUse: false, writtenBy }, {})) whole.push(line)
  const cut = { ...settings, dir: join(directory(t), 'y'), lines: from(whole.slice(0, -1)) }
  await t.rejects(importLines(cut), { message: /not whole/ })
  t.notOk(existsSync(join(cut.dir, 'mark')), 'nothing came into being')
})

t.test('looking beside a supervisor that writes and drops is looking at a whole journal', async t => {
  const dir = join(directory(t), 'journal')
  const journal = await openFileJournal({ dir, ...small, segmentBytes: 4096, markEveryMs: 0 })
  t.teardown(() => journal.close())
  let isOver = false
  const write = async () => {
    for (let index = 0; !isOver; index += 1) {
      await journal.append(batch([`s${index % 5}`, entry('t', { attachments: [Buffer.alloc(index % 700)] })]))
      if (index % 40 === 0) await journal.saveSnapshot({ sequence: journal.last(), state: Buffer.from('{}') })
      if (index % 40 === 20) await journal.dropBefore(journal.last() - 100n)
    }
  }
  const writing = write()
  /** Drops, in the middle of looking, what is about to be opened. */
  let looks = 0
  const hindered: Disk = {
    ...realDisk,
    async open(file, mode) {
      if (file.endsWith('.log') && looks++ % 3 === 0) await journal.dropBefore(journal.last() - 50n)
      return realDisk.open(file, mode)
    },
  }
  for (let round = 0; round < 15 || journal.stats().compactions < 5; round += 1) {
    const seen = await survey({ disk: hindered, dir, inUse: true })
    t.same(seen.damage, [], `round ${round}: ${seen.records} records`)
  }
  isOver = true
  await writing
  t.ok(journal.first() > 1n, 'segments were dropped meanwhile')
})

async function* from(lines: readonly string[]) {
  yield* lines
}

async function open(t: Test, dir: string) {
  const journal = await openFileJournal({ dir, ...small })
  t.teardown(() => journal.close())
  const store = await Store.open(journal, silent)
  return { journal, state: Buffer.from(encodeWorld(store.world)).toString() }
}
