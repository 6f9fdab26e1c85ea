// The relay against a real nats-server: everything arrives once and in order, whatever happens to the broker.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { headers, nanos } from 'nats'
import t from 'tap'
import { type Broker, remoteBroker } from '../../../services/supervisor/relay/broker.js'
import type { RelayOptions } from '../../../services/supervisor/relay/relay.js'
import { pause, until } from '../../harness/wait.js'
import { LossyProxy } from './proxy.js'
import {
  caughtUp,
  client,
  directory,
  forgetfulStream,
  modulePath,
  nats,
  program,
  publication,
  range,
  relayTo,
  sequences,
  stored,
  TinyJournal,
} from './support.js'

const forgotten = () => pause(200)

t.test('every durable event is published once, in order, as a CloudEvent', async t => {
  const server = await nats(t)
  const journal = new TinyJournal()
  journal.add(1000)
  const relay = await relayTo(t, journal, { url: server.url })
  await caughtUp(relay, journal)
  for (let count = 1; count <= 20; count++) journal.add(count)
  await caughtUp(relay, journal)

  const messages = await stored(await client(t, { servers: server.url }))
  t.same(sequences(messages), range(1, 1210))
  const [first] = messages
  t.equal(first?.subject, 'purser.n1.default.tasks.start.c1')
  t.equal(first?.id, `${journal.id}/1`)
  t.equal(first?.text, '{"pid":1}')
  const expected = {
    'ce-specversion': '1.0',
    'ce-id': `${journal.id}/1`,
    'ce-source': '/purser/n1',
    'ce-type': 'io.purser.tasks.start',
    'ce-time': '2026-05-28T20:26:40.12345679Z',
    'ce-subject': 'c1',
    'content-type': 'application/json',
    'purser-sequence': '1',
    'purser-stream': 'task/default/c1',
    'purser-correlation': 'request',
  }
  for (const [name, value] of Object.entries(expected)) t.equal(first?.header(name), value, name)
  t.match(relay.status(), {
    state: 'publishing',
    stream: 'PURSER',
    cursor: 1210n,
    lag: 0n,
    published: 1210,
    duplicates: 0,
  })
})

t.test('the stream is made with the promised settings', async t => {
  const server = await nats(t)
  const relay = await relayTo(t, new TinyJournal(), { url: server.url, stream: { bytesMax: 1 << 20 } })
  await until('the stream', () => relay.status().state === 'publishing')
  const manager = await (await client(t, { servers: server.url })).jetstreamManager()
  const { config } = await manager.streams.info('PURSER')
  const wanted = { subjects: ['purser.>'], storage: 'file', duplicate_window: nanos(120_000), max_bytes: 1 << 20 }
  t.match(config, wanted)
})

t.test('a broker that comes later gets everything', async t => {
  const server = await nats(t)
  await server.kill()
  const journal = new TinyJournal()
  journal.add(10)
  const relay = await relayTo(t, journal, { url: server.url })
  await until('a problem', () => relay.status().problem)
  t.match(relay.status(), { state: 'connecting', lag: 10n, problem: { message: 'nobody listens there' } })
  journal.add(10)
  await server.start()
  await caughtUp(relay, journal)
  t.same(sequences(await stored(await client(t, { servers: server.url }))), range(1, 20))
  t.equal(relay.status().problem, undefined)
})

t.test('a broker that is killed again and again in the middle loses and repeats nothing', async t => {
  const server = await nats(t)
  const { connection } = await forgetfulStream(t, server)
  await connection.close()
  const journal = new TinyJournal()
  const relay = await relayTo(t, journal, { url: server.url })
  for (let round = 1; round <= 3; round++) {
    journal.add(4000)
    const half = BigInt(round * 4000 - 3000)
    await until('the relay to be in the middle', () => relay.status().cursor > half, { intervalMs: 1 })
    await server.kill()
    await server.start()
  }
  await caughtUp(relay, journal)
  t.same(sequences(await stored(await client(t, { servers: server.url }))), range(1, 12_000))
})

t.test('a relay that starts anew goes on where the stream ends, long after message ids are forgotten', async t => {
  const server = await nats(t)
  const { connection } = await forgetfulStream(t, server)
  const journal = new TinyJournal()
  journal.add(300)
  const first = await relayTo(t, journal, { url: server.url })
  await caughtUp(first, journal)
  await first.stop()
  t.equal(first.status().state, 'stopped')
  journal.add(300)
  await forgotten()
  const second = await relayTo(t, journal, { url: server.url })
  await caughtUp(second, journal)
  t.same(sequences(await stored(connection)), range(1, 600))
})

t.test('messages whose acknowledgement was never seen are not published again', async t => {
  const server = await nats(t)
  const { connection } = await forgetfulStream(t, server)
  const proxy = new LossyProxy()
  await proxy.start(t, server.port)
  const journal = new TinyJournal()
  // Two events of each of many, some others between them.
  const add = (events: number) => {
    for (let index = 0; index < events; index++) {
      const last = journal.last()
      journal.add(1, { stream: `task/default/c${last >> 3n}-${last % 4n}` })
    }
  }
  add(3003)
  const first = await relayTo(t, journal, { url: `127.0.0.1:${proxy.port}` })
  await caughtUp(first, journal)

  proxy.answers = 'lose'
  add(100)
  await until('the stream to hold them', async () => (await stored(connection)).length === 3103)
  t.equal(first.status().cursor, 3003n)
  proxy.cut()
  proxy.close()
  await first.stop()
  for (let round = 0; round < 4; round++) {
    await server.kill()
    await forgotten()
    await server.start()
    const next = await relayTo(t, journal, { url: server.url })
    await caughtUp(next, journal)
    t.equal(next.status().published, 0)
    // How much is left of such a stream, nats-server 2.9 only guesses: who believed it would wait in vain, or not long enough.
    t.equal(next.status().failures.size, 0)
    await next.stop()
  }
  t.same(sequences(await stored(await client(t, { servers: server.url }))), range(1, 3103))
})

t.test('a supervisor that is killed at any moment leaves neither gap nor repeat', async t => {
  const server = await nats(t)
  const { connection, manager } = await forgetfulStream(t, server)
  const memoryPath = join(await directory(t), 'relay.json')
  const file = await program(
    t,
    `
    import pino from 'pino'
    import { remoteBroker } from ${modulePath('../../../services/supervisor/relay/broker.ts')}
    import { startRelay } from ${modulePath('../../../services/supervisor/relay/relay.ts')}
    import { publication, TinyJournal } from ${modulePath('./support.ts')}
    const [, , url, memoryPath] = process.argv
    const journal = new TinyJournal('the-journal')
    journal.add(30_000)
    const [broker, log] = [remoteBroker({ url }), pino({ level: 'silent' })]
    startRelay({ journal, publication, node: 'n1', broker, log, memoryPath })`,
  )
  const count = async () => (await manager.streams.info('PURSER')).state.messages
  for (let round = 0; round < 6; round++) {
    const supervisor = spawn(process.execPath, [file, server.url, memoryPath], {
      stdio: ['ignore', 'ignore', 'inherit'],
    })
    const exit = once(supervisor, 'exit')
    const before = await count()
    await until('it to publish', async () => (await count()) > before + round * 37, { intervalMs: 1 })
    supervisor.kill('SIGKILL')
    await exit
  }
  const kept = await count()
  t.ok(kept < 30_000, `${kept} arrived before the last kill`)
  const journal = new TinyJournal('the-journal')
  journal.add(kept + 100)
  const relay = await relayTo(t, journal, { url: server.url, memoryPath })
  await caughtUp(relay, journal)
  t.same(sequences(await stored(connection)), range(1, kept + 100))
})

t.test('a gap that a broker left among messages in flight is filled, and the rest is not repeated', async t => {
  const server = await nats(t)
  const { connection } = await forgetfulStream(t, server)
  const journal = new TinyJournal()
  journal.add(8)
  for (const sequence of [1, 2, 4, 5, 7]) {
    const present = headers()
    present.set('purser-sequence', String(sequence))
    present.set('purser-settled', sequence === 1 ? '0/0' : '1/1')
    await connection
      .jetstream()
      .publish('purser.n1.default.x.y', '', { msgID: `${journal.id}/${sequence}`, headers: present })
  }
  await forgotten()
  const relay = await relayTo(t, journal, { url: server.url })
  await caughtUp(relay, journal)
  t.same(sequences(await stored(connection)), [1, 2, 4, 5, 7, 3, 6, 8])
  await relay.stop()
  journal.add(1)
  await forgotten()
  const next = await relayTo(t, journal, { url: server.url })
  await caughtUp(next, journal)
  t.same(sequences(await stored(connection)), [1, 2, 4, 5, 7, 3, 6, 8, 9])
})

t.test(
  'a stream that is deleted underneath is made again and filled from the journal, even if nothing new happens',
  async t => {
    const server = await nats(t)
    const connection = await client(t, { servers: server.url })
    const manager = await connection.jetstreamManager()
    const journal = new TinyJournal()
    journal.add(50)
    const relay = await relayTo(t, journal, { url: server.url, idleCheckMs: 50 })
    await caughtUp(relay, journal)
    await manager.streams.delete('PURSER')
    const full = async () => (await stored(connection).catch(() => [])).length === 50
    await until('the stream to be filled again', full)
    await manager.streams.delete('PURSER')
    journal.add(50)
    await until('the stream to be filled again', async () => (await stored(connection).catch(() => [])).length === 100)
    t.same(sequences(await stored(connection)), range(1, 100))
  },
)

t.test('a broker that comes back with less than it acknowledged gets the rest again', async t => {
  const server = await nats(t)
  const { connection } = await forgetfulStream(t, server)
  await connection.close()
  const journal = new TinyJournal()
  journal.add(300)
  const relay = await relayTo(t, journal, { url: server.url })
  await caughtUp(relay, journal)
  await server.kill()
  // What a power cut does: the disk holds an older state than the one that was acknowledged.
  const earlier = join(await directory(t), 'earlier')
  await cp(server.store, earlier, { recursive: true })
  await server.start()
  journal.add(300)
  await caughtUp(relay, journal)
  await server.kill()
  await rm(server.store, { recursive: true })
  await cp(earlier, server.store, { recursive: true })
  await server.start()
  const messages = await client(t, { servers: server.url })
  await until('the rest', async () => (await stored(messages)).length >= 600)
  t.same(sequences(await stored(messages)), range(1, 600))
})

t.test('what an operator purged is not sent a second time', async t => {
  const server = await nats(t)
  const { connection, manager } = await forgetfulStream(t, server)
  const journal = new TinyJournal()
  journal.add(20)
  const memoryPath = join(await directory(t), 'relay.json')
  const relay = await relayTo(t, journal, { url: server.url, memoryPath })
  await caughtUp(relay, journal)
  await relay.stop()
  await manager.streams.purge('PURSER')
  await forgotten()
  journal.add(5)
  const next = await relayTo(t, journal, { url: server.url, memoryPath })
  await caughtUp(next, journal)
  t.same(sequences(await stored(connection)), range(21, 25))
})

t.test('a node that gets another name does not publish its past again', async t => {
  const server = await nats(t)
  const { connection } = await forgetfulStream(t, server)
  const journal = new TinyJournal()
  journal.add(20)
  const memoryPath = join(await directory(t), 'relay.json')
  const relay = await relayTo(t, journal, { url: server.url, memoryPath })
  await caughtUp(relay, journal)
  await relay.stop()
  await forgotten()
  journal.add(5)
  const next = await relayTo(t, journal, { url: server.url, memoryPath, node: 'n2' })
  await caughtUp(next, journal)
  t.same(sequences(await stored(connection)), range(1, 25))
})

t.test('a fleet shares a stream, and two journals under one node name keep apart', async t => {
  const server = await nats(t)
  const { connection } = await forgetfulStream(t, server)
  const journals = [new TinyJournal(), new TinyJournal(), new TinyJournal()]
  const names = ['n1', 'n2', 'n1']
  const start = () =>
    Promise.all(journals.map((journal, index) => relayTo(t, journal, { url: server.url, node: names[index] ?? '' })))
  for (let round = 0; round < 2; round++) {
    for (const journal of journals) journal.add(400)
    const relays = await start()
    for (const [index, relay] of relays.entries()) await caughtUp(relay, journals[index] ?? new TinyJournal())
    await Promise.all(relays.map(relay => relay.stop()))
    await forgotten()
  }
  const messages = await stored(connection)
  for (const journal of journals)
    t.same(sequences(messages.filter(message => message.id.startsWith(journal.id))), range(1, 800))
})

t.test('a stream that cannot serve is reported, and used once it is put right', async t => {
  const server = await nats(t)
  const connection = await client(t, { servers: server.url })
  const manager = await connection.jetstreamManager()
  await manager.streams.add({ name: 'PURSER', subjects: ['other.>'] })
  const journal = new TinyJournal()
  journal.add(3)
  const relay = await relayTo(t, journal, { url: server.url })
  await until('a problem', () => relay.status().problem)
  t.match(relay.status().problem, {
    message: /PURSER does not take purser\.n1\.>, only other\.>/,
    advice: /nats stream edit/,
  })
  await manager.streams.update('PURSER', { subjects: ['other.>', 'purser.*.>'] })
  await caughtUp(relay, journal)
  t.same(sequences(await stored(connection)), [1, 2, 3])
})

t.test('a stream of another name that takes our subjects is used', async t => {
  const server = await nats(t)
  const connection = await client(t, { servers: server.url })
  const manager = await connection.jetstreamManager()
  await manager.streams.add({ name: 'FLEET', subjects: ['purser.n1.>'] })
  const journal = new TinyJournal()
  journal.add(3)
  const relay = await relayTo(t, journal, { url: server.url })
  await caughtUp(relay, journal)
  t.equal(relay.status().stream, 'FLEET')
  t.same(sequences(await stored(connection, 'FLEET')), [1, 2, 3])
})

t.test('an event that the stream has no room for is not overtaken by smaller ones', async t => {
  const server = await nats(t)
  const { connection, manager } = await forgetfulStream(t, server, { max_bytes: 200_000, discard: 'new' })
  const journal = new TinyJournal()
  journal.add(10)
  journal.add(1, { payload: Buffer.alloc(300_000, 'x') })
  journal.add(10)
  const broker: Broker = { ...remoteBroker({ url: server.url }), exclusive: true }
  const relay = await relayTo(t, journal, { broker })
  await until('a problem', () => relay.status().problem)
  t.match(relay.status(), { cursor: 10n, lag: 11n, problem: { message: /the stream is full/ } })
  t.same(sequences(await stored(connection)), range(1, 10))
  await manager.streams.update('PURSER', { max_bytes: -1 })
  await caughtUp(relay, journal)
  t.same(sequences(await stored(connection)), range(1, 21))
})

t.test('a stranger who publishes into a private stream does not stop the relay', async t => {
  const server = await nats(t)
  const connection = await client(t, { servers: server.url })
  const journal = new TinyJournal()
  journal.add(10)
  const broker: Broker = { ...remoteBroker({ url: server.url }), exclusive: true }
  const relay = await relayTo(t, journal, { broker })
  await caughtUp(relay, journal)
  await connection.jetstream().publish('purser.stranger', 'x')
  journal.add(10)
  await caughtUp(relay, journal)
  const messages = await stored(connection)
  t.same(sequences(messages.filter(message => message.id !== '')), range(1, 20))
})

t.test('a broker that stands still costs bounded memory, and everything arrives when it goes on', async t => {
  const server = await nats(t)
  const { connection } = await forgetfulStream(t, server)
  const journal = new TinyJournal()
  journal.add(10)
  let asked = 0
  const counted: RelayOptions['publication'] = of => {
    asked += 1
    return publication(of)
  }
  const relay = await relayTo(t, journal, { url: server.url, answerTimeoutMs: 400, publication: counted })
  await caughtUp(relay, journal)
  server.signal('SIGSTOP')
  journal.add(5000)
  await until('a problem', () => relay.status().problem)
  t.ok(asked <= 10 + 257, `${asked} messages were made`)
  server.signal('SIGCONT')
  await caughtUp(relay, journal)
  t.same(sequences(await stored(connection)), range(1, 5010))
})

t.test('an event that is larger than the broker takes goes out with a note instead of its data', async t => {
  const server = await nats(t)
  const journal = new TinyJournal()
  journal.add(1)
  journal.add(1, { payload: Buffer.alloc(3 << 20, 'x') })
  journal.add(1)
  const relay = await relayTo(t, journal, { url: server.url })
  await caughtUp(relay, journal)
  const messages = await stored(await client(t, { servers: server.url }))
  t.same(sequences(messages), [1, 2, 3])
  t.equal(messages[1]?.header('purser-omitted-bytes'), String(3 << 20))
  t.same(JSON.parse(messages[1]?.text ?? ''), { omitted: { bytes: 3 << 20, sequence: '2' } })
})

t.test('events that the journal dropped are counted, and the rest goes out', async t => {
  const server = await nats(t)
  const journal = new TinyJournal()
  journal.add(100)
  journal.dropBefore(61n)
  const relay = await relayTo(t, journal, { url: server.url })
  await caughtUp(relay, journal)
  t.equal(relay.status().dropped, 60n)
  t.same(sequences(await stored(await client(t, { servers: server.url }))), range(61, 100))
})

t.test('hostile names stay within the subtree of their node', async t => {
  const server = await nats(t)
  const connection = await client(t, { servers: server.url })
  const seen: string[] = []
  connection.subscribe('>', { callback: (_, message) => void seen.push(message.subject) })
  await connection.flush()
  const journal = new TinyJournal()
  const names = [
    '',
    '.',
    '>',
    '*',
    'a b',
    'a.b',
    '../$JS.API.STREAM.DELETE.PURSER',
    'x\r\nPUB evil 0\r\n\r\n',
    'é😀',
    '%',
    '\0',
    'n'.repeat(9000),
  ]
  for (const name of names) {
    const of = { namespace: name, stream: `task/default/${name.replaceAll('/', '')}`, correlation: `${name} "%` }
    journal.add(1, of)
  }
  const hostile: RelayOptions['publication'] = of => ({
    ...publication(of),
    topic: `/${of.namespace}/${of.namespace}/${'deep/'.repeat(40)}`,
    id: of.namespace,
    type: `io.${of.namespace}`,
  })
  const relay = await relayTo(t, journal, { url: server.url, node: 'n1.>', publication: hostile })
  await caughtUp(relay, journal)
  const ours = seen.filter(subject => !/^(_INBOX|\$JS)\./.test(subject))
  t.equal(ours.length, names.length)
  for (const subject of ours) t.match(subject, /^purser\.n1%2E%3E(\.[A-Za-z0-9_%~-]+)+$/)
  const messages = await stored(connection)
  t.same(sequences(messages), range(1, names.length))
  const subjectOf = (index: number) => decodeURIComponent(messages[index]?.header('ce-subject') ?? '')
  t.same(
    names.slice(1, -1).map((_, index) => subjectOf(index + 1)),
    names.slice(1, -1),
  )
})

t.test('a wrong login is reported with advice', async t => {
  const server = await nats(t, '--user', 'u', '--pass', 'p')
  const journal = new TinyJournal()
  journal.add(1)
  const refused = await relayTo(t, journal, { url: server.url })
  await until('a problem', () => refused.status().problem)
  t.match(refused.status().problem, { message: 'the broker refuses the login' })
  const welcome = await relayTo(t, journal, { url: `nats://u:p@127.0.0.1:${server.port}` })
  await caughtUp(welcome, journal)
})

t.test('a login that may not publish is reported as such', async t => {
  const config = join(await directory(t), 'nats.conf')
  const allowed = '["$JS.API.>", "purser.n1.default.allowed.>"]'
  const permissions = `{ publish: { allow: ${allowed} }, subscribe: { allow: ["_INBOX.>"] } }`
  await writeFile(config, `authorization { users: [{ user: u, password: p, permissions: ${permissions} }] }`)
  const server = await nats(t, '-c', config)
  const journal = new TinyJournal()
  journal.add(1)
  const relay = await relayTo(t, journal, { url: `nats://u:p@127.0.0.1:${server.port}` })
  const problem = await until('a problem', () => relay.status().problem, { timeoutMs: 5000 })
  t.match(problem, { message: /may not/, advice: /purser\.<node>/ })
})

t.test('a relay stops at once, wherever it is', async t => {
  const server = await nats(t)
  const journal = new TinyJournal()
  journal.add(20_000)
  const busy = await relayTo(t, journal, { url: server.url })
  await until('the relay to be in the middle', () => busy.status().cursor > 1000n, { intervalMs: 1 })
  const before = performance.now()
  await busy.stop()
  const absent = await relayTo(t, journal, { url: '127.0.0.1:1' })
  await absent.stop()
  const blackHole = await relayTo(t, journal, { url: '192.0.2.1:4222' })
  await blackHole.stop()
  t.ok(performance.now() - before < 3000, 'within three seconds')
})
