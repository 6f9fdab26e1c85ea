// Events.Subscribe for clients that remember where they were: history first, numbered, and an end that says how to go on.
import { once } from 'node:events'
import type { Metadata } from '@grpc/grpc-js'
import t from 'tap'
import { Code } from '../../../plugins/kit/errors.js'
import { EventsService as Events } from '../../../proto/gen/containerd/services/events/v1/events.js'
import type { Envelope } from '../../../proto/gen/containerd/types/event.js'
import type { Rpc } from '../../harness/rpc.js'
import { Arrivals, type Scope, until, withDeadline } from '../../harness/wait.js'
import { served } from './served.js'

const patienceMs = 60_000
const timeoutMs = 2 * patienceMs

interface Ending {
  code: Code
  details: string
  metadata: Metadata
}

/** A subscription whose headers have come. */
async function subscribe(t: Scope, rpc: Rpc, metadata: Record<string, string> = {}, ...filters: string[]) {
  const stream = rpc.stream(Events.subscribe, { filters }, { metadata, timeoutMs })
  const arrived = new Arrivals<Envelope>()
  const ended = new Promise<Ending>(resolve => stream.on('error', (error: Error & Ending) => resolve(error)))
  stream.on('data', (envelope: Envelope) => arrived.push(envelope))
  t.teardown(() => stream.cancel())
  const [headers]: Metadata[] = await withDeadline(once(stream, 'metadata'), patienceMs, 'the headers')
  const first = (topic: string) => arrived.first(topic, envelope => envelope.topic === topic, { timeoutMs: patienceMs })
  const told = () => arrived.items.map(({ sequence, topic }) => `${sequence} ${topic}`)
  return { stream, arrived, ended, headers, first, told }
}

const publish = (rpc: Rpc, topic: string, bytes = 0) =>
  rpc.call(Events.publish, { topic, event: { typeUrl: 'x.example/T', value: Buffer.alloc(bytes) } })

const refused = (rpc: Rpc, metadata: Record<string, string>) =>
  rpc.collect(Events.subscribe, { filters: [] }, { metadata, timeoutMs })

t.test('who says since when gets history first, then what comes, each with its sequence', async t => {
  const { rpc, journal } = await served(t)
  for (const topic of ['/a/1', '/b/2', '/a/3']) await publish(rpc, topic)
  const all = await subscribe(t, rpc, { 'purser-since': '0' })
  t.same(all.headers?.get('purser-journal'), [journal.id])
  const some = await subscribe(t, rpc, { 'purser-since': '1', 'purser-journal': journal.id }, 'topic~=|^/a/|')
  const plain = await subscribe(t, rpc)
  for (const topic of ['/b/4', '/a/5']) await publish(rpc, topic)
  for (const { first } of [all, some, plain]) await first('/a/5')
  t.same(all.told(), ['1 /a/1', '2 /b/2', '3 /a/3', '4 /b/4', '5 /a/5'])
  t.same(some.told(), ['3 /a/3', '5 /a/5'], 'filters hold for both')
  t.same(plain.told(), ['0 /b/4', '0 /a/5'], 'others get what containerd has, and nothing else')
})

t.test('who says a time gets what happened from then on', async t => {
  const { rpc } = await served(t)
  await publish(rpc, '/before')
  await until('the clock to move on', () => new Promise<boolean>(resolve => setTimeout(() => resolve(true), 5)))
  const now = new Date().toISOString()
  await publish(rpc, '/after')
  const { first, told } = await subscribe(t, rpc, { 'purser-since': now })
  await first('/after')
  t.same(told(), ['2 /after'])
  const ahead = await subscribe(t, rpc, { 'purser-since': '2100-01-01T00:00:00Z' })
  await publish(rpc, '/next')
  await ahead.first('/next')
  t.same(ahead.told(), ['3 /next'], 'a time to come means from now on')
})

t.test('a place that cannot be begun at is refused with what to do', async t => {
  const { rpc, journal } = await served(t)
  await publish(rpc, '/a')
  await t.rejects(refused(rpc, { 'purser-since': 'yesterday' }), {
    code: Code.INVALID_ARGUMENT,
    details: /^purser-since "yesterday": give the sequence .* or a time like 20/,
  })
  await t.rejects(refused(rpc, { 'purser-since': '2' }), { code: Code.OUT_OF_RANGE, details: /begin anew/ })
  await t.rejects(refused(rpc, { 'purser-since': '1', 'purser-journal': 'another' }), {
    code: Code.FAILED_PRECONDITION,
    details: new RegExp(`^the journal here is ${journal.id}, not another.*begin anew without purser-since`),
  })
})

t.test(
  'a subscriber that stopped reading is told where to go on, and misses nothing; others hear all at once',
  async t => {
    const { rpc, feed } = await served(t, { feed: { stallMs: 1000, queue: { events: 10, bytes: 1 << 20 } } })
    const slow = await subscribe(t, rpc, { 'purser-since': '0' })
    const quick = await subscribe(t, rpc, { 'purser-since': '0' })
    await until('both to hear what comes', () => feed.status().live === 2, { timeoutMs: patienceMs })
    slow.stream.pause()
    const count = 70
    const states: string[] = []
    for (let index = 0; index < count; index++) {
      await publish(rpc, '/bulk', 100_000)
      const { live, history } = feed.status()
      if (live + history === 2) states.push(history === 0 ? 'live' : 'history')
    }
    t.equal(states[0], 'live', 'one that reads nothing counts as live for as long as its queue has room')
    t.ok(states.includes('history'), 'then as reading history')
    await until('all events at the one that reads', () => quick.arrived.items.length === count, {
      timeoutMs: patienceMs,
    })
    await until('the other to be given up', () => feed.status().endedSlow === 1, { timeoutMs: patienceMs })
    t.match(feed.status(), { live: 1, history: 0 })
    slow.stream.resume()
    const { code, details, metadata } = await withDeadline(slow.ended, patienceMs, 'the end')
    t.equal(code, Code.RESOURCE_EXHAUSTED)
    const [last = ''] = metadata.get('purser-sequence').map(String)
    t.match(details, `purser-since ${last} to go on`)
    t.equal(last, String(slow.arrived.items.at(-1)?.sequence), 'everything up to there did arrive')
    t.ok(Number(last) < count)
    const again = await subscribe(t, rpc, { 'purser-since': last })
    await until('the rest', () => again.arrived.items.at(-1)?.sequence === BigInt(count), { timeoutMs: patienceMs })
    const seen = [...slow.arrived.items, ...again.arrived.items].map(({ sequence }) => Number(sequence))
    t.same(
      seen,
      Array.from({ length: count }, (_, index) => index + 1),
    )
  },
)

t.test('when the supervisor stops, each subscriber is told how far it was told', async t => {
  const { rpc, stopping } = await served(t)
  const { first, ended } = await subscribe(t, rpc, { 'purser-since': '0' })
  await publish(rpc, '/a')
  await first('/a')
  stopping.abort()
  const { code, metadata } = await withDeadline(ended, patienceMs, 'the end')
  t.equal(code, Code.UNAVAILABLE)
  t.same(metadata.get('purser-sequence'), ['1'])
})
