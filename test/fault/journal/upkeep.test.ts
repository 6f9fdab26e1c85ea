// What drops segments or swaps them is killed behind each step: no record is lost that is to be kept, and the next
// start, or the next repair, finishes it.
import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import t, { type Test } from 'tap'
import { realDisk } from '../../../services/supervisor/journal/disk.js'
import { openFileJournal } from '../../../services/supervisor/journal/fileLog.js'
import { planRepair, repair } from '../../../services/supervisor/journal/offline/repair.js'
import { survey } from '../../../services/supervisor/journal/offline/survey.js'
import { batch, directory, entry, readAll, sequences, silent } from '../../unit/journal/batches.js'
import { Failpoints, type Moment } from '../crashpoints/failpoints.js'
import { repairing, writtenBy } from './repairing.js'

/** Below the project, so that the packages are found. Bundled because a TypeScript loader takes seconds to start. */
const upkeep = join(t.testdir(), 'upkeep.mjs')
await build({
  entryPoints: [fileURLToPath(new URL('./upkeep.ts', import.meta.url))],
  outfile: upkeep,
  bundle: true,
  packages: 'external',
  platform: 'node',
  format: 'esm',
})

const small = { node: 'n', log: silent, segmentBytes: 8192, preallocateBytes: 4096, reserveBytes: 0 }
const look = (dir: string) => survey({ disk: realDisk, dir, inUse: false, writtenBy })
const plain = (records: Awaited<ReturnType<typeof readAll>>) =>
  records.map(({ sequence, type }) => `${sequence} ${type}`)

async function recordsOf(dir: string) {
  const journal = await openFileJournal({ dir, ...small })
  try {
    t.same(journal.health(), { writable: true })
    return await readAll(journal, 0n)
  } finally {
    await journal.close()
  }
}

/** Runs the task on copies of a journal, and ends it at each pass of each point. Answers the points. */
async function killed(
  t: Test,
  task: 'drop' | 'repair',
  template: string,
  prefix: RegExp,
  check: (dir: string, moment: Moment) => Promise<void>,
): Promise<string[]> {
  const scratch = directory(t)
  const failpoints = new Failpoints(join(scratch, 'failpoints'))
  const run = (dir: string) =>
    spawnSync(process.execPath, [upkeep, task, dir], {
      env: { PATH: process.env.PATH, PURSER_FAILPOINTS: failpoints.directory },
      encoding: 'utf8',
    })
  const copy = () => {
    const dir = join(mkdtempSync(join(scratch, 'copy-')), 'journal')
    cpSync(template, dir, { recursive: true })
    return dir
  }
  const passes = await failpoints.record(async () => {
    const { status, stderr } = run(copy())
    t.equal(status, 0, stderr)
  }, 0)
  const moments: Moment[] = []
  for (const { point } of passes.filter(({ point }) => prefix.test(point)))
    moments.push({ point, pass: 1 + moments.filter(moment => moment.point === point).length })
  for (const moment of moments) {
    const dir = copy()
    failpoints.arm(moment)
    t.equal(run(dir).signal, 'SIGKILL', `${moment.point} ${moment.pass}`)
    failpoints.disarm()
    await check(dir, moment)
  }
  return [...new Set(moments.map(({ point }) => point))]
}

t.test('retention that is killed behind any of its steps leaves all that is to be kept', async t => {
  const template = join(directory(t), 'journal')
  const journal = await openFileJournal({ dir: template, ...small })
  for (let index = 0; index < 80; index += 1) {
    await journal.append(batch([entry('s', { payload: Buffer.alloc(500) })]))
    if ([10, 20, 78, 79].includes(index))
      await journal.saveSnapshot({ sequence: journal.last(), state: Buffer.from('{}') })
  }
  const boundary = journal.segments().at(-1)?.first ?? 0n
  const last = Number(journal.last())
  await journal.close()

  const points = await killed(t, 'drop', template, /journal\.(drop|snapshot)/, async (dir, { point }) => {
    const seen = await look(dir)
    t.same(seen.damage, [], point)
    const kept = sequences(await recordsOf(dir))
    t.equal(kept.at(-1), last)
    t.equal(kept.length, last - Number(boundary) + 1, 'from the boundary on, without a gap')
    t.same(
      readdirSync(dir).filter(name => name.endsWith('.log')),
      [`${boundary}.log`.padStart(24, '0')],
      'what was left to be removed is',
    )
  })
  t.same(points, ['journal.drop.marked', 'journal.drop.removed', 'journal.drop.synced', 'journal.snapshot.removed'])
})

t.test('a repair that is killed behind any of its steps is finished by the next', async t => {
  const template = join(directory(t), 'journal')
  cpSync(fileURLToPath(new URL('../../fixtures/journal/a615be5/whole', import.meta.url)), template, { recursive: true })
  for (const [name, type] of [
    ['00000000000000000030.log', 'NetworkAttachFailed'],
    ['00000000000000000060.log', 'TaskExited'],
  ] as const) {
    const bytes = readFileSync(join(template, name))
    const at = bytes.indexOf(type)
    writeFileSync(join(template, name), bytes.fill((bytes[at] ?? 0) ^ 4, at, at + 1))
  }
  const expected = join(directory(t), 'journal')
  cpSync(template, expected, { recursive: true })
  await repair(repairing(expected, realDisk))
  const wanted = plain(await recordsOf(expected))

  const points = await killed(t, 'repair', template, /journal\.repair/, async (dir, { point, pass }) => {
    const journal = await openFileJournal({ dir, ...small })
    const health = journal.health()
    if (!health.writable) t.equal(health.reason, 'damaged', 'a start in between takes no writes')
    await journal.close()
    const { unfinished } = await planRepair(repairing(dir, realDisk))
    t.equal(unfinished, point !== 'journal.repair.cleared', `${point}: looking tells that it is unfinished`)
    await repair(repairing(dir, realDisk))
    t.same(plain(await recordsOf(dir)), wanted, `${point} ${pass}`)
    const aside = readdirSync(join(dir, 'damaged'), { recursive: true, encoding: 'utf8' })
    t.equal(aside.filter(name => name.endsWith('.log')).length, 2, 'the damaged files are kept')
    t.same((await look(dir)).damage, [])
  })
  t.same(points, [
    'journal.repair.drafted',
    'journal.repair.movedAside',
    'journal.repair.placed',
    'journal.repair.marked',
    'journal.repair.cleared',
  ])
})
