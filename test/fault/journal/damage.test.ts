// A journal whose files have changed: nothing that was acknowledged is ever lost in silence.
import { join } from 'node:path'
import type { Logger } from 'pino'
import t, { type Test } from 'tap'
import { openFileJournal } from '../../../services/supervisor/journal/fileLog.js'
import { type Journal, JournalUnavailable } from '../../../services/supervisor/journal/journal.js'
import { segmentName } from '../../../services/supervisor/journal/segment.js'
import {
  batch,
  directory,
  entry,
  readAll,
  recordingLogger,
  sequences,
  silent,
  streams,
} from '../../unit/journal/batches.js'
import { faultyDisk, MemoryDisk, systemError } from './disks.js'

const settings = { node: 'node-1', segmentBytes: 16_384, preallocateBytes: 4096, reserveBytes: 0 }
const NEVER = 1_000_000

/** Six short records in four flushes. */
const short = (stream: string, more = {}) => entry(stream, { type: 'T', payload: Buffer.from('{}'), ...more })
const batches = [
  [short('a'), short('b')],
  [short('c')],
  [short('d', { attachments: [Buffer.from('an OCI spec')] }), short('e')],
  [short('f')],
].map(entries => batch(entries, { causation: 'c', correlation: 'r' }))
const all = ['a', 'b', 'c', 'd', 'e', 'f']

/** How the journal was left: closed; or by a crash, when the mark knew all that was acknowledged, or nothing of it. */
type Left = 'closed' | 'crashed' | 'crashed at once'

interface World {
  dir: string
  disk: MemoryDisk
  log: string
  /** Where the records end in the log. */
  end: number
}

async function world(t: Test, left: Left): Promise<World> {
  const dir = directory(t)
  const disk = new MemoryDisk()
  let marked = () => {}
  const markWritten = new Promise<void>(resolve => {
    marked = resolve
  })
  const watched = faultyDisk(disk, operation => {
    const isMark = operation.kind === 'write' && operation.path.startsWith(join(dir, 'mark'))
    if (isMark && operation.bytes.readBigUInt64LE(40) === 6n) setImmediate(marked)
    return undefined
  })
  const markEveryMs = left === 'crashed' ? 0 : NEVER
  const journal = await openFileJournal({ dir, log: silent, disk: watched, ...settings, markEveryMs })
  let end = 64
  journal.onFlush(({ bytes }) => {
    end += bytes
  })
  for (const each of batches) await journal.append(each)
  const keepAlive = setInterval(() => {}, 1000) // the journal's own timers don't
  if (left === 'crashed') await markWritten
  clearInterval(keepAlive)
  const crashed = disk.copy(dir, dir)
  await journal.close()
  return { dir, disk: left === 'closed' ? disk : crashed, log: join(dir, segmentName(1n)), end }
}

function reopen({ dir, disk }: World, log: Logger = silent): Promise<Journal> {
  return openFileJournal({ dir, log, disk, ...settings, markEveryMs: NEVER })
}

/**
 * Opens the world and looks: `whole`, all records are there; `shortened`, some at the end are not and nothing says so;
 * `damaged`, some may be missing, it says so, refuses to write and has left the files alone. Throws at anything else.
 */
async function outcome(world: World): Promise<'whole' | 'shortened' | 'damaged'> {
  const before = world.disk.copy(world.dir, world.dir)
  const journal = await reopen(world)
  try {
    const got = streams(await readAll(journal))
    if (got.join() !== all.slice(0, got.length).join()) throw new Error(`read ${got.join()}`)
    const health = journal.health()
    if (health.writable) return got.length === all.length ? 'whole' : 'shortened'
    if (health.reason !== 'damaged') throw new Error(`the reason is ${health.reason}`)
    const appended = await journal.append(batch(['x'])).catch(error => error.reason)
    if (appended !== 'damaged') throw new Error('a damaged journal has taken a batch')
  } finally {
    await journal.close()
  }
  for (const path of before.paths())
    if (!before.bytes(path).equals(world.disk.bytes(path))) throw new Error(`${path} has been changed`)
  return 'damaged'
}

/** The outcomes of a change made in many ways, each with one that had it. */
async function outcomes<T>(world: World, changes: Iterable<T>, apply: (disk: MemoryDisk, change: T) => void) {
  const seen: Partial<Record<Awaited<ReturnType<typeof outcome>>, T>> = {}
  for (const change of changes) {
    const disk = world.disk.copy(world.dir, world.dir)
    apply(disk, change)
    seen[await outcome({ ...world, disk })] ??= change
  }
  return seen
}

function* range(from: number, to: number, step = 1): Generator<number> {
  for (let at = from; at < to; at += step) yield at
}

function flipBit(path: string) {
  return (disk: MemoryDisk, bit: number) => {
    const bytes = disk.bytes(path)
    bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7))
  }
}

for (const left of ['closed', 'crashed', 'crashed at once'] as const)
  t.test(`any flipped bit in a journal that was ${left}`, async t => {
    const here = await world(t, left)
    t.same(
      Object.keys(await outcomes(here, range(0, here.end * 8, left === 'crashed' ? 7 : 1), flipBit(here.log))),
      ['damaged'],
      'in the header and the records it is noticed',
    )
    const behind = await outcomes(here, range(here.end * 8, 4096 * 8, 61), flipBit(here.log))
    t.notOk('shortened' in behind, 'in the zeros behind the records it costs no record')
    t.ok('whole' in behind)
    t.equal('damaged' in behind, left !== 'closed', 'after a clean close it is not even suspicious')
    const mark = await outcomes(here, range(0, 8 * 4160, 509), flipBit(join(here.dir, 'mark')))
    t.same(Object.keys(mark), ['whole'], 'in the mark it costs nothing')
  })

for (const left of ['closed', 'crashed', 'crashed at once'] as const)
  t.test(`a file cut off at any byte, of a journal that was ${left}`, async t => {
    const here = await world(t, left)
    const cut = (disk: MemoryDisk, size: number) => disk.put(here.log, disk.bytes(here.log).subarray(0, size))
    const inRecords = await outcomes(here, range(0, here.end), cut)
    // Without the mark, a file that ends exactly behind a batch can't be told from one that never had another.
    t.same(Object.keys(inRecords).sort(), left === 'crashed at once' ? ['damaged', 'shortened'] : ['damaged'])
    t.same(Object.keys(await outcomes(here, range(here.end, 4096, 13), cut)), ['whole'], 'the zeros are no loss')
  })

t.test('a power cut tears a flush: what was acknowledged stays, of the rest whole batches at most', async t => {
  const random = generator(42)
  const inFlight = Array.from({ length: 4 }, (_, index) =>
    batch([
      entry(`torn-${index}`, { attachments: [Buffer.alloc(700 * index, index % 2)] }),
      entry(`torn-${index}`, { payload: Buffer.alloc(400, 'x') }),
    ]),
  )
  const dir = directory(t)
  const disk = new MemoryDisk()
  let torn: { bytes: Buffer; position: number } | undefined
  let cutPower = false
  const tearing = faultyDisk(disk, operation => {
    if (!cutPower || operation.kind !== 'write' || !operation.path.includes('.log')) return undefined
    torn = operation
    return 'hangs'
  })
  const journal = await openFileJournal({ dir, log: silent, disk: tearing, ...settings, markEveryMs: NEVER })
  for (const each of batches) await journal.append(each)
  cutPower = true
  for (const each of inFlight) void journal.append(each)
  while (!torn) await new Promise(resolve => setImmediate(resolve))
  const { bytes, position } = torn
  const seen = new Map<number, number>()
  for (let trial = 0; trial < 300; trial += 1) {
    const there = directory(t)
    const after = disk.copy(dir, there)
    const log = join(there, segmentName(1n))
    const bias = random()
    for (let at = 0; at < bytes.length; ) {
      const end = Math.min(at + 512 - ((position + at) % 512), bytes.length)
      if (random() < bias) bytes.copy(after.bytes(log), position + at, at, end)
      at = end
    }
    const opened = await reopen({ dir: there, disk: after, log, end: 0 })
    if (!opened.health().writable) t.fail(`trial ${trial} is called damaged`)
    const last = Number(opened.last())
    if (last < 6 || last % 2 !== 0) t.fail(`trial ${trial} ends at record ${last}`)
    seen.set(last, (seen.get(last) ?? 0) + 1)
    await opened.append(batch(['next']))
    await opened.close()
    const again = await reopen({ dir: there, disk: after, log, end: 0 })
    t.equal(streams(await readAll(again)).at(-1), 'next')
    t.equal(again.last(), BigInt(last + 1))
    await again.close()
  }
  t.ok(seen.size > 2, 'tears of several kinds were tried')
})

t.test('a torn end is cut with one line, and its bytes are kept', async t => {
  const here = await world(t, 'crashed')
  const tail = Buffer.from('half a flush')
  tail.copy(here.disk.bytes(here.log), here.end + 512)
  const { log, lines } = recordingLogger()
  const journal = await reopen(here, log)
  t.same(journal.health(), { writable: true })
  t.equal(journal.last(), 6n)
  await journal.close()
  t.match(lines, [{ msg: /^the end of the journal is cut behind record 6, nothing of it was acknowledged/ }])
  t.equal(lines.length, 1)
  const kept = here.disk.paths().filter(path => path.startsWith(join(here.dir, 'damaged/')))
  t.equal(kept.length, 1)
  t.ok(here.disk.bytes(kept[0] ?? '').includes(tail))
})

/** Some ten segments of some twenty records each. */
async function manySegments(t: Test): Promise<{ dir: string; disk: MemoryDisk; logs: string[]; firsts: bigint[] }> {
  const dir = directory(t)
  const disk = new MemoryDisk()
  const journal = await openFileJournal({ dir, log: silent, disk, ...settings, segmentBytes: 4096 })
  for (let index = 0; index < 200; index += 1) await journal.append(batch([`s${index % 7}`]))
  await journal.close()
  const logs = disk.paths().filter(path => path.endsWith('.log'))
  return { dir, disk, logs, firsts: logs.map(path => BigInt(path.slice(-24, -4))) }
}

t.test('a segment that is not what it should be', async t => {
  const { dir, disk, logs, firsts } = await manySegments(t)
  const foreign = await manySegments(t)
  t.ok(logs.length > 5)
  const [one, two, three, last] = [logs[0], logs[1], logs[2], logs.at(-1)]
  if (!one || !two || !three || !last) throw new Error('there are too few segments')
  const cases: { title: string; change: (disk: MemoryDisk) => unknown; readable: bigint; names: string }[] = [
    { title: 'the first is missing', change: disk => disk.remove(one), readable: 0n, names: two },
    {
      title: 'one in the middle is missing',
      change: disk => disk.remove(two),
      readable: (firsts[1] ?? 0n) - 1n,
      names: three,
    },
    {
      title: 'the last is missing',
      change: disk => disk.remove(last),
      readable: (firsts.at(-1) ?? 0n) - 1n,
      names: logs.at(-2) ?? '',
    },
    {
      title: 'all are missing',
      change: disk => Promise.all(logs.map(path => disk.remove(path))),
      readable: 0n,
      names: dir,
    },
    {
      title: 'one is that of another journal',
      change: disk => disk.put(two, foreign.disk.bytes(foreign.logs[1] ?? '')),
      readable: (firsts[1] ?? 0n) - 1n,
      names: two,
    },
    {
      title: 'one is there twice, in the place of another',
      change: disk => disk.put(three, Buffer.from(disk.bytes(two))),
      readable: (firsts[2] ?? 0n) - 1n,
      names: three,
    },
    {
      title: 'one is there twice, under a name between others',
      change: disk => disk.put(join(dir, segmentName((firsts[1] ?? 0n) + 3n)), Buffer.from(disk.bytes(two))),
      readable: 200n,
      names: segmentName((firsts[1] ?? 0n) + 3n),
    },
    {
      title: 'one in the middle is shorter by its last record',
      change: disk => disk.put(two, disk.bytes(two).subarray(0, -1)),
      readable: (firsts[2] ?? 0n) - 2n,
      names: two,
    },
    {
      title: 'one in the middle was cut to nothing',
      change: disk => disk.put(two, Buffer.alloc(0)),
      readable: (firsts[1] ?? 0n) - 1n,
      names: two,
    },
  ]
  for (const { title, change, readable, names } of cases)
    await t.test(title, async t => {
      const changed = disk.copy(dir, dir)
      await change(changed)
      const before = changed.copy(dir, dir)
      const journal = await openFileJournal({ dir, log: silent, disk: changed, ...settings })
      t.teardown(() => journal.close())
      const health = journal.health()
      t.match(health, { writable: false, reason: 'damaged', advice: /backup/ })
      t.match(health, { message: names })
      t.equal(journal.last(), readable)
      t.same(
        sequences(await readAll(journal)),
        Array.from({ length: Number(readable) }, (_, index) => index + 1),
      )
      await t.rejects(journal.append(batch(['x'])), { name: 'JournalUnavailable', message: /damaged/ })
      await t.rejects(journal.saveSnapshot({ sequence: 0n, state: Buffer.alloc(0) }), JournalUnavailable)
      await journal.close()
      t.same(changed.paths(), before.paths(), 'nothing is made or deleted')
    })
})

t.test('a place of the disk that cannot be read is damage, not the end of the supervisor', async t => {
  const { dir, disk, logs, firsts } = await manySegments(t)
  const bad = faultyDisk(disk, ({ kind, path }) =>
    kind === 'read' && path === logs[2] ? systemError('EIO') : undefined,
  )
  const journal = await openFileJournal({ dir, log: silent, disk: bad, ...settings })
  t.teardown(() => journal.close())
  t.match(journal.health(), { reason: 'damaged', message: /can't be read \(EIO\)/ })
  t.equal(journal.last(), (firsts[2] ?? 0n) - 1n)
})

t.test('what a snapshot covers is not needed: the state is complete in spite of damage before it', async t => {
  const { dir, disk, logs } = await manySegments(t)
  const journal = await openFileJournal({ dir, log: silent, disk, ...settings, segmentBytes: 4096 })
  await journal.saveSnapshot({ sequence: 150n, state: Buffer.from('the state at 150') })
  await journal.close()
  await disk.remove(logs[1] ?? '')
  const opened = await openFileJournal({ dir, log: silent, disk, ...settings })
  t.teardown(() => opened.close())
  t.match(opened.health(), { reason: 'damaged', message: /are missing before it/ })
  t.match(await opened.loadSnapshot(), { sequence: 150n })
  t.equal(opened.last(), 200n)
  t.equal((await readAll(opened, 151n)).length, 50)
  await t.rejects(readAll(opened, 1n), { name: 'JournalDamaged' })
})

t.test('damage in the segment where a snapshot ends is stepped over up to the snapshot', async t => {
  const here = await world(t, 'closed')
  const journal = await reopen(here)
  await journal.append(batch(['g', 'h']))
  await journal.saveSnapshot({ sequence: 6n, state: Buffer.from('the state at 6') })
  await journal.close()
  flipBit(here.log)(here.disk, 8 * 100)
  const opened = await reopen(here)
  t.teardown(() => opened.close())
  t.match(opened.health(), { reason: 'damaged' })
  t.equal(opened.last(), 8n)
  t.same(streams(await readAll(opened, 7n)), ['g', 'h'])
  await t.rejects(readAll(opened, 1n), { name: 'JournalDamaged', file: here.log })
})

t.test('damage behind the newest snapshot ends what can be read', async t => {
  const here = await world(t, 'closed')
  const journal = await reopen(here)
  await journal.saveSnapshot({ sequence: 1n, state: Buffer.from('the state at 1') })
  await journal.close()
  flipBit(here.log)(here.disk, 8 * (here.end - 20))
  const opened = await reopen(here)
  t.teardown(() => opened.close())
  t.match(opened.health(), { reason: 'damaged' })
  t.equal(opened.last(), 5n)
})

t.test('a damaged snapshot is passed over with one line for the older one', async t => {
  const here = await world(t, 'closed')
  const journal = await reopen(here)
  for (const sequence of [4n, 6n]) await journal.saveSnapshot({ sequence, state: Buffer.from(`at ${sequence}`) })
  await journal.close()
  const [older, newer, ...others] = here.disk.paths().filter(path => path.endsWith('.snap'))
  t.same(others, [])
  for (const path of [newer, older]) {
    if (!path) throw new Error('a snapshot is missing')
    flipBit(path)(here.disk, 8 * 96)
    const { log, lines } = recordingLogger()
    const opened = await reopen(here, log)
    t.same(opened.health(), { writable: true })
    t.match(
      lines.map(({ msg }) => msg),
      path === newer ? [/passed over/] : [/passed over/, /passed over/],
    )
    t.match(await opened.loadSnapshot(), path === newer ? { sequence: 4n } : undefined)
    t.equal(
      await opened.append(batch(['a'], { expected: new Map([['a', opened.last() === 6n ? 1n : 7n]]) })),
      opened.last(),
    )
    await opened.close()
  }
})

t.test('without its mark a journal opens, tells, and makes a new one', async t => {
  const here = await world(t, 'closed')
  await here.disk.remove(join(here.dir, 'mark'))
  const { log, lines } = recordingLogger()
  const journal = await reopen(here, log)
  t.same(journal.health(), { writable: true })
  t.equal(journal.last(), 6n)
  await journal.close()
  t.match(lines, [{ msg: /the journal's mark is missing/ }])
  t.ok(here.disk.paths().includes(join(here.dir, 'mark')))
})

/** A small reproducible source of numbers between 0 and 1 (a linear congruential generator). */
function generator(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}
