// Retention: what it drops, what it leaves because somebody needs it, and that nobody waits for it.
import t, { type Test } from 'tap'
import { systemClock } from '../../services/supervisor/clock.js'
import { createContainer, deleteContainer } from '../../services/supervisor/domain/container/decide.js'
import type { Fact } from '../../services/supervisor/domain/decision.js'
import { realDisk } from '../../services/supervisor/journal/disk.js'
import { openFileJournal } from '../../services/supervisor/journal/fileLog.js'
import type { Sequence } from '../../services/supervisor/journal/journal.js'
import { Retention, type RetentionPolicy, surplus } from '../../services/supervisor/retention.js'
import { Runner } from '../../services/supervisor/runner.js'
import { HeavyParts } from '../../services/supervisor/state/heavy.js'
import { encodeWorld } from '../../services/supervisor/state/snapshot.js'
import { Store } from '../../services/supervisor/state/store.js'
import { faultyDisk, type Operation, type Outcome } from '../fault/journal/disks.js'
import { record } from './domain/facts.js'
import { directory, silent } from './journal/batches.js'

const ns = 'default'
const cause = { actor: { uid: 0, gid: 0, pid: 1, name: '' }, causation: '', correlation: '' }
const unbounded: RetentionPolicy = { ageMs: undefined, bytes: undefined, events: undefined }

interface Bench {
  dir: string
  policy?: Partial<RetentionPolicy>
  relayed?: () => Sequence | undefined
  outcome?: (operation: Operation) => Outcome
}

/** A supervisor's rooms from the journal to the runner, on segments of some ten records. */
async function open(t: Test, { dir, policy = {}, relayed = () => undefined, outcome = () => undefined }: Bench) {
  const disk = faultyDisk(realDisk, outcome)
  const segments = { segmentBytes: 4096, preallocateBytes: 4096, reserveBytes: 0 }
  const journal = await openFileJournal({ dir, node: 'n', log: silent, disk, ...segments })
  const store = await Store.open(journal, silent)
  const clock = systemClock()
  const runner = new Runner(store, journal, clock)
  const heavy = new HeavyParts(journal, 0)
  const retention = new Retention({
    ...{ journal, store, runner, heavy, clock, relayed, log: silent },
    policy: { ...unbounded, ...policy },
  })
  let leases = 0
  const fill = async (count: number) => {
    for (let index = 0; index < count; index += 1) {
      const id = `lease-${leases++}`
      const stream = `lease/${ns}/${id}`
      const facts: Fact[] = [
        { namespace: ns, stream, event: { type: 'LeaseCreated', id, labels: {} } },
        { namespace: ns, stream, event: { type: 'LeaseDeleted', id }, ends: true },
      ]
      await runner.run(cause, id, () => ({ facts }))
    }
  }
  const create = (id: string, spec: string) =>
    runner.run(cause, id, world =>
      createContainer(ns, world.namespace(ns).container(id), { ...record, id }, [Buffer.from(spec)]),
    )
  const remove = (id: string) =>
    runner.run(cause, id, world => deleteContainer(ns, world.namespace(ns).container(id), id))
  const specOf = (id: string) => {
    const spec = store.world.namespace(ns).container(id).facts.record?.spec
    if (!spec) throw new Error(`${id} has no spec`)
    return spec
  }
  const read = async (id: string) => String((await heavy.read(specOf(id))).value)
  /** With something new in between, so that the state is written out twice. */
  const compact = async () => {
    await retention.run()
    await fill(1)
    return retention.run()
  }
  const close = async () => {
    await retention.close()
    await store.close()
    await journal.close()
  }
  t.teardown(close)
  return { journal, store, heavy, retention, fill, create, remove, specOf, read, compact, close }
}

t.test('what a policy wants to go is whole segments, by size, number and age', async t => {
  const hour = 3_600_000
  const segments = [1n, 11n, 21n, 31n].map(first => ({ first, last: first + 9n, bytes: 1000 }))
  /** A record an hour, the newest of them now. */
  const now = 1_000_000n * BigInt(hour) * 1_000_000n
  const timeOf = async (sequence: Sequence) => now - (40n - sequence) * BigInt(hour) * 1_000_000n
  const cases: [Partial<RetentionPolicy>, Sequence][] = [
    [{}, 1n],
    [{ bytes: 4000 }, 1n],
    [{ bytes: 3999 }, 11n],
    [{ bytes: 1 }, 31n],
    [{ events: 40 }, 1n],
    [{ events: 39 }, 11n],
    [{ events: 10 }, 31n],
    [{ ageMs: 30 * hour }, 1n],
    [{ ageMs: 30 * hour - 1 }, 11n],
    [{ ageMs: 1 }, 31n],
    [{ ageMs: 15 * hour, bytes: 3999 }, 21n],
  ]
  for (const [policy, cut] of cases)
    t.equal(await surplus(segments, { ...unbounded, ...policy }, now, timeOf), cut, JSON.stringify(policy))
})

t.test('an old container does not keep old events: its spec moves, and nothing of it changes', async t => {
  const dir = directory(t)
  const here = await open(t, { dir, policy: { events: 100 } })
  await here.create('old', 'its OCI spec')
  await here.create('gone', 'another')
  await here.remove('gone')
  const before = here.store.world.namespace(ns).containers.get('old')
  const place = here.specOf('old')
  await here.fill(200)
  t.match(await here.compact(), { moved: 0, heldBy: '' })
  t.ok(here.journal.first() > 100n, `the journal begins with ${here.journal.first()}`)
  t.equal(await here.read('old'), 'its OCI spec')
  t.ok(BigInt(here.specOf('old').sequence) >= here.journal.first())
  const after = here.store.world.namespace(ns).containers.get('old')
  t.same(after?.updatedAt, before?.updatedAt, 'a client sees no change')
  t.equal(place.sequence, '1')
  t.match(here.store.world.summaries.of(ns, 'gone'), [{ id: 'gone', image: 'redis:7', firstSequence: '2' }])

  const state = Buffer.from(encodeWorld(here.store.world)).toString()
  await here.close()
  const again = await open(t, { dir })
  t.equal(Buffer.from(encodeWorld(again.store.world)).toString(), state, 'a restart finds the same state')
  t.equal(await again.read('old'), 'its OCI spec')
})

t.test('who took the place of a part from the fold a moment before finds it all the same', async t => {
  const dir = directory(t)
  const before = await open(t, { dir })
  await before.create('old', 'its OCI spec')
  await before.fill(200)
  await before.store.save()
  await before.fill(1)
  await before.close()
  const here = await open(t, { dir, policy: { events: 100 } })
  const place = here.specOf('old')
  t.match(await here.retention.run(), { moved: 1 })
  t.ok(here.journal.first() > 1n)
  t.equal(String((await here.heavy.read(place)).value), 'its OCI spec')
})

t.test('nothing goes that NATS does not have yet, nor what a reader is to read', async t => {
  let cursor: Sequence = 0n
  const here = await open(t, { dir: directory(t), policy: { events: 50 }, relayed: () => cursor })
  await here.fill(200)
  t.match(await here.compact(), { first: 1n, droppedSegments: 0, heldBy: /relay/ })
  cursor = 150n
  t.match(await here.compact(), { heldBy: /relay/ })
  t.ok(here.journal.first() > 100n && here.journal.first() <= 151n, `the journal begins with ${here.journal.first()}`)
  const from = here.journal.first()
  cursor = here.journal.last()
  const reading = here.journal.read(from)[Symbol.asyncIterator]()
  await reading.next()
  await here.compact()
  t.equal(here.journal.first(), from, 'the reader keeps it')
  const seen = [from]
  for (let next = await reading.next(); !next.done; next = await reading.next()) seen.push(next.value.sequence)
  t.equal(seen.length, Number(here.journal.last() - from) + 1, 'and misses nothing')
  await here.compact()
  t.ok(here.journal.first() > from)
})

t.test('a part that cannot be read keeps what it lies in, and says so', async t => {
  let isBroken = false
  const unreadable = ({ kind, path }: Operation) =>
    isBroken && kind === 'read' && path.endsWith('1.log') ? new Error('a bad sector') : undefined
  const dir = directory(t)
  const before = await open(t, { dir })
  await before.create('old', 'its OCI spec')
  await before.fill(100)
  await before.close()
  const here = await open(t, { dir, policy: { events: 50 }, outcome: unreadable })
  isBroken = true
  t.match(await here.retention.run(), { first: 1n, droppedSegments: 0, heldBy: /record 1, which a container needs/ })
  isBroken = false
  await here.compact()
  t.ok(here.journal.first() > 1n)
})

t.test('appends go on while the disk takes its time to remove files', async t => {
  let release = () => {}
  let removing = () => {}
  const isRemoving = new Promise<void>(resolve => {
    removing = resolve
  })
  const released = new Promise<void>(resolve => {
    release = resolve
  })
  const slow = {
    ...realDisk,
    async remove(path: string) {
      if (path.endsWith('.log')) {
        removing()
        await released
      }
      await realDisk.remove(path)
    },
  }
  const journal = await openFileJournal({
    ...{ dir: directory(t), node: 'n', log: silent, disk: slow },
    ...{ segmentBytes: 4096, preallocateBytes: 4096, reserveBytes: 0 },
  })
  const store = await Store.open(journal, silent)
  const runner = new Runner(store, journal, systemClock())
  const append = (id: string) =>
    runner.run(cause, id, () => ({
      facts: [{ namespace: ns, stream: `lease/${id}`, event: { type: 'LeaseCreated', id, labels: {} } }],
    }))
  for (let index = 0; index < 100; index += 1) await append(`before-${index}`)
  await store.save()
  await append('between')
  await store.save()
  const dropping = journal.dropBefore(90n)
  await isRemoving
  t.ok(journal.first() > 1n, 'it has been decided')
  const appended = Array.from({ length: 200 }, (_, index) => append(`during-${index}`))
  await Promise.all(appended)
  t.equal(journal.last(), 301n, 'all of them are on disk before the first file is gone')
  release()
  t.ok((await dropping) <= 90n)
  await store.close()
  await journal.close()
})
