// Journals of earlier versions: each still amounts to what it did, and what a later one wrote is refused.
import { cpSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { openFileJournal } from '../../../services/supervisor/journal/fileLog.js'
import type { Journal } from '../../../services/supervisor/journal/journal.js'
import { decodeEvent } from '../../../services/supervisor/state/codec.js'
import { encodeWorld } from '../../../services/supervisor/state/snapshot.js'
import { StateUnknown, Store } from '../../../services/supervisor/state/store.js'
import { inTodaysShape, shapes } from '../../../services/supervisor/state/upcast.js'
import { batch, directory, entry, readAll, recordingLogger, silent } from '../journal/batches.js'

const stored = fileURLToPath(new URL('../../fixtures/journal', import.meta.url))
const commits = readdirSync(stored, { withFileTypes: true }).filter(entry => entry.isDirectory())

for (const { name: commit } of commits)
  for (const kind of ['whole', 'shortened'])
    t.test(`the ${kind} journal of ${commit} amounts to what it did`, async t => {
      const dir = join(directory(t), 'journal')
      cpSync(join(stored, commit, kind), dir, { recursive: true })
      const journal = await openFileJournal({ dir, node: 'n', log: silent, reserveBytes: 0 })
      t.teardown(() => journal.close())
      t.same(journal.health(), { writable: true })
      t.equal(journal.first() > 1n, kind === 'shortened')
      const store = await Store.open(journal, silent)
      t.teardown(() => store.close())
      const expected = JSON.parse(readFileSync(join(stored, commit, 'state.json'), 'utf8'))
      const { shape: _shape, ...known } = expected
      t.match(JSON.parse(Buffer.from(encodeWorld(store.world)).toString()), known)
      t.equal(store.world.namespace('default').containers.size, 1)
      const spec = store.world.namespace('default').container('web').facts.record?.spec
      if (kind === 'whole' && spec)
        t.equal(String(await journal.attachment(BigInt(spec.sequence), spec.index)), '{"spec of":"web again"}')
      const told = kind === 'whole' ? { exitStatus: 7, starts: 1 } : {}
      const job = { ...told, id: 'job', deletedAt: /^2026/ }
      t.match(store.world.summaries.of('default', 'job'), [job], 'what was deleted since is remembered')
      const web = kind === 'whole' ? { starts: 1, image: 'r' } : { starts: 0, image: 'r' }
      t.match(store.world.summaries.of('default', 'web'), [{ ...web, deletedAt: '' }])
    })

t.test('every event that a615be5 knew is in its journal', async t => {
  const dir = join(directory(t), 'journal')
  cpSync(join(stored, 'a615be5/whole'), dir, { recursive: true })
  const journal = await openFileJournal({ dir, node: 'n', log: silent, reserveBytes: 0 })
  t.teardown(() => journal.close())
  const seen = new Set((await readAll(journal)).map(record => decodeEvent(record).type))
  t.equal(seen.size, 64)
})

t.test('a payload goes from version to version, each by its own step', async t => {
  const known = {
    versions: { Said: 3 },
    upcasters: {
      Said: {
        1: ({ word, ...rest }: Readonly<Record<string, unknown>>) => ({ ...rest, words: [word] }),
        2: (payload: Readonly<Record<string, unknown>>) => ({ ...payload, loud: false }),
      },
    },
  }
  const read = (version: number, payload: object) => inTodaysShape('Said', version, JSON.stringify(payload), known)
  t.equal(read(1, { by: 'me', word: 'hello' }), '{"by":"me","words":["hello"],"loud":false}')
  t.equal(read(2, { words: [] }), '{"words":[],"loud":false}')
  t.equal(read(3, { words: [], loud: true }), '{"words":[],"loud":true}')
  t.equal(read(4, {}), undefined, 'a later version is not guessed at')
  t.equal(inTodaysShape('Unheard', 1, '{}', known), undefined)
  t.equal(inTodaysShape('toString', 1, '{}', known), undefined)
  t.throws(() => inTodaysShape('Said', 1, '{}', { versions: { Said: 2 }, upcasters: {} }), /no way from version 1/)
})

t.test('for each earlier version of an event there is a way to the next', async t => {
  const gaps = Object.entries(shapes.versions).flatMap(([type, today]) =>
    Array.from({ length: today - 1 }, (_, index) => index + 1)
      .filter(version => !shapes.upcasters[type]?.[version])
      .map(version => `${type} ${version}`),
  )
  t.same(gaps, [])
})

t.test('an event of a later version is refused by name', async t => {
  const dir = directory(t)
  const journal = await openFileJournal({ dir, node: 'n', log: silent, reserveBytes: 0 })
  t.teardown(() => journal.close())
  await journal.append(batch([entry('lease/default/x', { type: 'LeaseCreated', schema: 99 })]))
  await t.rejects(Store.open(journal, silent), {
    name: 'NewerEvent',
    message: /record 1 \(LeaseCreated, version 99\).*start that version again/,
  })
})

t.test('a snapshot of another shape is passed over, and only then is the whole journal needed', async t => {
  const dir = directory(t)
  const small = { segmentBytes: 4096, preallocateBytes: 4096, reserveBytes: 0 }
  const journal = await openFileJournal({ dir, node: 'n', log: silent, ...small })
  t.teardown(() => journal.close())
  const lease = async (id: string) => {
    const payload = Buffer.from(JSON.stringify({ id, labels: {} }))
    await journal.append(batch([entry(`lease/default/${id}`, { type: 'LeaseCreated', payload })]))
  }
  for (let index = 0; index < 60; index += 1) await lease(`l${index}`)
  const save = (journal: Journal, shape: number) =>
    journal.saveSnapshot({ sequence: journal.last(), state: Buffer.from(JSON.stringify({ shape })) })
  await save(journal, 0)
  await lease('between')
  await save(journal, 1000)
  const { log, lines } = recordingLogger()
  const store = await Store.open(journal, log)
  t.equal(store.world.namespace('default').leases.size, 61)
  t.match(lines, [{ msg: /passed over/ }, { msg: /passed over/ }])
  await journal.dropBefore(50n)
  await t.rejects(Store.open(journal, silent), StateUnknown)
  await t.rejects(Store.open(journal, silent), { message: /start the version of purserd that wrote it, or put/ })
})
