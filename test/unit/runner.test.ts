// The order of a command's steps, and what happens when two commands meet on one stream.
import pino from 'pino'
import t, { type Test } from 'tap'
import { Code } from '../../plugins/kit/errors.js'
import { systemClock } from '../../services/supervisor/clock.js'
import { createImage } from '../../services/supervisor/domain/image/decide.js'
import { createLease, withLease } from '../../services/supervisor/domain/lease/decide.js'
import { createNamespace, deleteNamespace } from '../../services/supervisor/domain/namespace/decide.js'
import { imageStream, leaseStream, namespaceStream } from '../../services/supervisor/domain/streams.js'
import { openMemoryJournal } from '../../services/supervisor/journal/memoryLog.js'
import { Runner } from '../../services/supervisor/runner.js'
import { Store } from '../../services/supervisor/state/store.js'
import type { World } from '../../services/supervisor/state/world.js'

const cause = { actor: { pid: 1, uid: 0, gid: 0, name: '' }, causation: 'test', correlation: 'request' }
const target = { mediaType: 'm', digest: `sha256:${'a'.repeat(64)}`, size: '1', annotations: {} }

async function opened(t: Test) {
  const log = pino({ level: 'silent' })
  const journal = openMemoryJournal({ node: 'test', log })
  const store = await Store.open(journal, log)
  t.teardown(async () => {
    await store.close()
    await journal.close()
  })
  return { journal, store, runner: new Runner(store, journal, systemClock()) }
}

const image = (name: string, world: World) =>
  createImage('ns', world.namespace('ns').images.get(name)?.record, { name, labels: {}, target }, null)

t.test('a fact is durable, then told, then acted upon, then the caller hears of it', async t => {
  const { runner, store, journal } = await opened(t)
  const steps: string[] = []
  store.subscribe(({ event }) => void steps.push(`told ${event.type} at ${journal.last()}`))
  runner.performWith(async ({ event, sequence }) => {
    steps.push(`begun ${event.type} ${sequence}`)
    await new Promise(resolve => setImmediate(resolve))
    steps.push('done')
  })
  t.equal(await runner.complete(cause, 'lane', world => image('a', world)), 1n)
  t.same(steps, ['told ImageCreated at 1', 'begun ImageCreated 1', 'done'])
})

t.test('a failed effect reaches the one who waits; a refusal leaves no trace', async t => {
  const { runner, journal } = await opened(t)
  runner.performWith(() => Promise.reject(new Error('the plugin said no')))
  const { settled } = await runner.run(cause, 'lane', world => image('a', world))
  await t.rejects(settled, { message: 'the plugin said no' })
  await t.rejects(
    runner.run(cause, 'lane', world => image('a', world)),
    { code: Code.ALREADY_EXISTS, message: 'image "a": already exists' },
  )
  t.equal(journal.last(), 1n)
})

t.test('decisions on one lane see each other; of two that wish the same, one is refused', async t => {
  const { runner, journal } = await opened(t)
  const wishes = Array.from({ length: 5 }, () => runner.run(cause, imageStream('ns', 'a'), world => image('a', world)))
  const outcomes = await Promise.allSettled(wishes)
  t.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 1)
  t.equal(journal.last(), 1n)
})

t.test('commands of different lanes that share a lease all succeed: the later ones are decided again', async t => {
  const { runner, store, journal } = await opened(t)
  await runner.run(cause, leaseStream('ns', 'pull'), () => createLease('ns', undefined, 'pull', {}))
  const names = Array.from({ length: 20 }, (_, index) => `image${index}`)
  await Promise.all(
    names.map(name =>
      runner.run(cause, imageStream('ns', name), world => {
        const lease = { id: 'pull', view: world.namespace('ns').lease('pull') }
        return withLease(image(name, world), 'ns', lease, { type: 'images', id: name })
      }),
    ),
  )
  t.equal(journal.last(), 41n)
  t.same(store.world.namespace('ns').leases.get('pull')?.resources.get('images'), new Set(names))
})

t.test('a namespace ends only when it is empty, also against what is on its way to the disk', async t => {
  const { runner, store } = await opened(t)
  const end = () =>
    runner.run(cause, namespaceStream('ns'), world =>
      deleteNamespace(world.namespaces.get('ns'), 'ns', world.namespace('ns').contents()),
    )
  await runner.run(cause, namespaceStream('ns'), world => createNamespace(world.namespaces.get('ns'), 'ns', {}))
  const [made, ended] = await Promise.allSettled([runner.run(cause, 'a', world => image('a', world)), end()])
  t.equal(made.status, 'fulfilled')
  t.match(ended, { status: 'rejected', reason: { code: Code.FAILED_PRECONDITION } })
  t.ok(store.world.namespace('ns').images.has('a'), 'what was acknowledged is there')
})

t.test('what comes while a namespace ends is decided after its end', async t => {
  const { runner, store, journal } = await opened(t)
  const create = () =>
    runner.run(cause, namespaceStream('ns'), world => createNamespace(world.namespaces.get('ns'), 'ns', { old: 'yes' }))
  await create()
  const ended = runner.run(cause, namespaceStream('ns'), world =>
    deleteNamespace(world.namespaces.get('ns'), 'ns', world.namespace('ns').contents()),
  )
  const made = runner.run(cause, 'a', world => image('a', world))
  await Promise.all([ended, made])
  t.same(store.world.namespace('ns').labels, {}, 'its first use makes it anew')
  t.ok(store.world.namespace('ns').images.has('a'))
  t.equal(journal.last(), 3n)
})
