// The relay's reading side: the journal as an endless stream, and the place that is kept beside it.
import { readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { follow, RecordsDropped } from '../../../services/supervisor/relay/follow.js'
import { MemoryFile } from '../../../services/supervisor/relay/memory.js'
import { directory, quiet, range, TinyJournal } from '../../integration/relay/support.js'

t.test('history comes first, then what becomes durable, without gap or repeat', { timeout: 10_000 }, async t => {
  const journal = new TinyJournal()
  journal.add(500)
  const stop = new AbortController()
  const seen: number[] = []
  for await (const records of follow(journal, 11n, stop.signal)) {
    seen.push(...records.map(({ sequence }) => Number(sequence)))
    // Some become durable while the reader is at work, some while it waits.
    if (seen.length < 300) journal.add(7)
    if (seen.at(-1) === Number(journal.last())) {
      if (seen.length > 2000) stop.abort()
      setTimeout(() => journal.add(100), 1)
    }
  }
  t.same(seen, range(11, 10 + seen.length))
})

t.test('a reader that waits stops when it is told to', { timeout: 5_000 }, async t => {
  const stop = new AbortController()
  const reading = follow(new TinyJournal(), 1n, stop.signal).next()
  setTimeout(() => stop.abort(), 5)
  t.same(await reading, { done: true, value: undefined })
})

t.test('records that retention dropped are told, with where it goes on', async t => {
  const journal = new TinyJournal()
  journal.add(10)
  journal.dropBefore(6n)
  const reading = follow(journal, 2n, new AbortController().signal)
  const dropped = await reading.next().then(
    () => undefined,
    (error: unknown) => error,
  )
  t.type(dropped, RecordsDropped)
  t.match(dropped, { wanted: 2n, first: 6n })
})

t.test('a kept place is found again by the same journal, and by no other', async t => {
  const path = join(await directory(t), 'relay.json')
  const place = { sequence: 9_007_199_254_740_993n, position: 42, stream: 'PURSER', created: '2026-01-01T00:00:00Z' }
  const file = new MemoryFile(path, 'j', quiet)
  await file.load()
  t.equal(file.memory, undefined)
  file.keep(place)
  await file.save()
  t.equal((await stat(path)).mode & 0o777, 0o600)
  for (const [journal, expected] of [
    ['j', place],
    ['k', undefined],
  ] as const) {
    const again = new MemoryFile(path, journal, quiet)
    await again.load()
    t.same(again.memory, expected)
  }
  const good = await readFile(path, 'utf8')
  for (const damaged of [good.slice(0, 20), '[]', 'null', '{"journal":"j"}', good.replace('42', '"42"'), '\0\0\0']) {
    await writeFile(path, damaged)
    const again = new MemoryFile(path, 'j', quiet)
    await again.load()
    t.equal(again.memory, undefined, JSON.stringify(damaged))
  }
})

t.test('a place that cannot be written is no failure', async t => {
  const file = new MemoryFile('/proc/no/such/place', 'j', quiet)
  file.keep({ sequence: 1n, position: 1, stream: 'S', created: 'c' })
  await t.resolves(file.save())
})
