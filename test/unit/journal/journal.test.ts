// The contract bound by both journals, and what only the one on disk has.
import fs from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { realDisk } from '../../../services/supervisor/journal/disk.js'
import { openFileJournal } from '../../../services/supervisor/journal/fileLog.js'
import { memoryStorage, openMemoryJournal } from '../../../services/supervisor/journal/memoryLog.js'
import { faultyDisk } from '../../fault/journal/disks.js'
import { batch, directory, entry, expecting, readAll, sequences, silent } from './batches.js'
import { journalContract } from './contract.js'

const small = { node: 'node-1', log: silent, segmentBytes: 16_384, preallocateBytes: 4096, reserveBytes: 8192 }

journalContract('memory', () => {
  const storage = memoryStorage()
  return async () => openMemoryJournal({ node: 'node-1', log: silent, storage })
})

journalContract('file', t => {
  const dir = join(directory(t), 'made', 'as-needed')
  return () => openFileJournal({ dir, node: 'node-1', log: silent })
})

journalContract('file, in many small segments,', t => {
  const dir = directory(t)
  return () => openFileJournal({ dir, ...small })
})

t.test('segments stay within their size, batches stay together, and all of it can be read back', async t => {
  const dir = directory(t)
  const journal = await openFileJournal({ dir, ...small })
  t.teardown(() => journal.close())
  const spec = (index: number) => Buffer.alloc(100 + ((index * 37) % 900), index)
  for (let index = 1; index <= 300; index += 2)
    await journal.append(batch([index, index + 1].map(n => entry(`s${n % 9}`, { attachments: [spec(n)] }))))
  const large = Buffer.alloc(50_000, 'large')
  await journal.append(batch([entry('larger than a segment', { attachments: [large] }), 'and its neighbour']))
  await journal.append(batch(['behind it']))

  const logs = fs.readdirSync(dir).filter(name => name.endsWith('.log'))
  t.equal(logs.length, journal.stats().segments)
  t.ok(logs.length > 10)
  const sizes = logs.map(name => fs.statSync(join(dir, name)).size)
  t.equal(
    journal.stats().size,
    sizes.reduce((total, size) => total + size),
  )
  t.equal(sizes.filter(size => size > 16_384).length, 1, 'only the batch that is larger has a larger one')

  for (const reader of [journal, 'reopened'] as const) {
    if (reader === 'reopened') await journal.close()
    const opened = reader === 'reopened' ? await openFileJournal({ dir, ...small }) : reader
    t.same(
      sequences(await readAll(opened)),
      Array.from({ length: 303 }, (_, index) => index + 1),
    )
    for (const sequence of [300, 1, 299, 2, 150, 64, 65, 128])
      t.same(await opened.attachment(BigInt(sequence), 0), spec(sequence), `attachment of ${sequence}`)
    t.same(await opened.attachment(301n, 0), large)
    if (reader === 'reopened') await opened.close()
  }
})

t.test('reopening reads only what the newest snapshot does not cover', async t => {
  const dir = directory(t)
  const options = { dir, node: 'node-1', log: silent, reserveBytes: 0 }
  const journal = await openFileJournal(options)
  const many = Array.from({ length: 1000 }, (_, index) =>
    entry(`s${index}`, { attachments: [Buffer.alloc(1000, index)] }),
  )
  for (let round = 0; round < 3; round += 1) await journal.append(batch(many))
  await journal.saveSnapshot({ sequence: 3000n, state: Buffer.from('the state at 3000') })
  await journal.append(batch(['s1', 's2']))
  await journal.close()
  let readBytes = 0
  const counting = faultyDisk(realDisk, operation => {
    if (operation.kind === 'read' && operation.path.endsWith('.log')) readBytes += operation.length
    return undefined
  })
  const again = await openFileJournal({ ...options, disk: counting })
  t.teardown(() => again.close())
  t.ok(readBytes < 1_200_000, `${readBytes} of ${again.stats().size} bytes were read`)
  t.equal(again.last(), 3002n)
  t.same(sequences(await readAll(again, 2999n)), [2999, 3000, 3001, 3002])
  t.same(await again.attachment(7n, 0), Buffer.alloc(1000, 6), 'what was not read before is found all the same')
  t.equal(await again.append(batch(['s1', 's3'], expecting({ s1: 3001n, s3: 2004n }))), 3004n)
  t.same(sequences(await readAll(again)).length, 3004)
})

t.test('old segments are dropped behind the older snapshot, never before it', async t => {
  const dir = directory(t)
  const journal = await openFileJournal({ dir, ...small })
  const append = async (count: number) => {
    for (let index = 0; index < count; index += 1)
      await journal.append(batch([entry(`s${index % 5}`, { payload: Buffer.alloc(500, 'x') })]))
  }
  await append(200)
  await journal.dropBefore(150n)
  t.equal(journal.first(), 1n, 'without a snapshot everything is needed')
  await journal.saveSnapshot({ sequence: 100n, state: Buffer.from('the state at 100') })
  await journal.saveSnapshot({ sequence: 200n, state: Buffer.from('the state at 200') })
  await journal.dropBefore(200n)
  const first = journal.first()
  t.ok(first > 1n && first <= 101n, `the journal begins with ${first}`)
  t.equal(fs.readdirSync(dir).filter(name => name.endsWith('.log')).length, journal.stats().segments)
  await t.rejects(readAll(journal, 1n), { name: 'RangeError', message: /no longer kept/ })
  t.equal(Number((await readAll(journal, 0n))[0]?.sequence), Number(first))
  await journal.close()
  const again = await openFileJournal({ dir, ...small })
  t.teardown(() => again.close())
  t.same(again.health(), { writable: true })
  t.equal(again.first(), first)
  t.equal(await again.append(batch(['s4'], expecting({ s4: 200n, s0: 196n }))), 201n)
})

t.test('a long read lets others have their turn', async t => {
  const dir = directory(t)
  const journal = await openFileJournal({ dir, node: 'node-1', log: silent, reserveBytes: 0 })
  t.teardown(() => journal.close())
  await journal.append(batch(Array.from({ length: 5000 }, () => 's')))
  let turns = 0
  const timer = setInterval(() => {
    turns += 1
  }, 0)
  t.teardown(() => clearInterval(timer))
  t.equal((await readAll(journal, 4000n)).length, 1001, 'from memory')
  t.ok(turns > 0, `${turns} turns`)
  const before = turns
  t.equal((await readAll(journal)).length, 5000, 'from the file')
  t.ok(turns > before)
})

t.test('two readers and a writer at once do not disturb each other', async t => {
  const dir = directory(t)
  const journal = await openFileJournal({ dir, ...small })
  t.teardown(() => journal.close())
  const expected = Array.from({ length: 600 }, (_, index) => index + 1)
  const write = async () => {
    for (let index = 0; index < 600; index += 1) await journal.append(batch([`s${index % 3}`]))
  }
  const follow = async () => {
    const seen: number[] = []
    while (seen.length < 600) {
      for await (const { sequence } of journal.read(BigInt(seen.length + 1))) seen.push(Number(sequence))
      await new Promise(resolve => setImmediate(resolve))
    }
    return seen
  }
  const [, one, other] = await Promise.all([write(), follow(), follow()])
  t.same(one, expected)
  t.same(other, expected)
})
