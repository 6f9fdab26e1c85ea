// The supervisor's own nats-server: private, found again after a crash, gone when the supervisor is.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile, realpath, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { type ClientAccess, type EmbeddedBroker, embeddedBroker } from '../../../services/supervisor/relay/embedded.js'
import { type Relay, startRelay } from '../../../services/supervisor/relay/relay.js'
import { Disk } from '../../harness/disk.js'
import { alive, gone, processes } from '../../harness/process.js'
import { type Scope, until } from '../../harness/wait.js'
import { client, directory, modulePath, program, publication, quiet, range, stored, TinyJournal } from './support.js'

interface Place {
  root: string
  state: string
}

async function place(scope: Scope): Promise<Place> {
  const parent = await directory(scope)
  const made = { root: join(parent, 'root'), state: join(parent, 'state') }
  await mkdir(made.root)
  await mkdir(made.state)
  return made
}

function open(scope: Scope, { root, state }: Place, binary?: string): EmbeddedBroker {
  const broker = embeddedBroker({ root, state, log: quiet, ...(binary && { program: binary }) })
  const asking = new AbortController()
  broker.endpoint(asking.signal).catch(() => {}) // it starts when it is asked for
  scope.teardown(() => {
    asking.abort()
    return broker.close()
  })
  return broker
}

function relayTo(
  scope: Scope,
  broker: EmbeddedBroker,
  journal: TinyJournal,
  { root }: Place,
  answerTimeoutMs = 10_000,
): Relay {
  const memoryPath = join(root, 'relay.json')
  const relay = startRelay({ journal, publication, node: 'n1', broker, log: quiet, memoryPath, answerTimeoutMs })
  scope.teardown(() => relay.stop())
  return relay
}

const running = (broker: EmbeddedBroker) => until('the server to run', () => broker.pid())
const caughtUp = (relay: Relay, journal: TinyJournal) =>
  until(
    'the relay to catch up',
    () => relay.status().state === 'publishing' && relay.status().cursor === journal.last(),
  )

async function access(broker: EmbeddedBroker): Promise<ClientAccess> {
  return JSON.parse(await readFile(broker.accessPath, 'utf8'))
}

async function reader(scope: Scope, broker: EmbeddedBroker) {
  const { url, user, password } = await access(broker)
  return client(scope, { servers: url, user, pass: password })
}

/** Servers on this store, by the process table. */
async function servers({ root }: Place) {
  const store = await realpath(join(root, 'nats'))
  return processes().filter(({ command }) => command.includes('-sd') && command.includes(store))
}

t.test('events reach readers, who need the password and can publish nothing', async t => {
  const here = await place(t)
  const broker = open(t, here)
  const journal = new TinyJournal()
  journal.add(100)
  const relay = relayTo(t, broker, journal, here)
  await caughtUp(relay, journal)

  const connection = await reader(t, broker)
  t.same(
    (await stored(connection)).map(message => message.sequence),
    range(1, 100),
  )
  const consumed = await connection.jetstream().consumers.get('PURSER', {})
  t.equal((await consumed.next())?.headers?.get('purser-sequence'), '1')

  const errors: string[] = []
  void (async () => {
    for await (const { type, data } of connection.status()) errors.push(`${type} ${data}`)
  })()
  connection.publish('purser.n1.default.tasks.exit.forged', 'x')
  await until('the refusal', () => errors.some(error => error.includes('PERMISSIONS_VIOLATION')))
  const manager = await connection.jetstreamManager()
  await t.rejects(manager.streams.purge('PURSER'), 'and cannot remove anything')
  t.equal((await stored(connection)).length, 100)

  const { url } = await access(broker)
  await t.rejects(client(t, { servers: url }), { code: 'AUTHORIZATION_VIOLATION' }, 'no password, no entry')
  for (const path of [broker.accessPath, join(here.state, 'nats', 'nats.conf')])
    t.equal((await stat(path)).mode & 0o777, 0o600, path)
  t.equal((await stat(join(here.root, 'nats'))).mode & 0o777, 0o700)
  t.match(url, /^nats:\/\/127\.0\.0\.1:\d+$/)
})

t.test('a server that is killed comes back at the same address, and nothing is lost or repeated', async t => {
  const here = await place(t)
  const broker = open(t, here)
  const journal = new TinyJournal()
  const relay = relayTo(t, broker, journal, here)
  const first = await running(broker)
  const { url } = await access(broker)
  for (let round = 0; round < 2; round++) {
    journal.add(3000)
    await until('some to be out', () => relay.status().cursor > BigInt(round * 3000 + 500), { intervalMs: 1 })
    const pid = await running(broker)
    process.kill(pid, 'SIGKILL')
    await until('another server', () => broker.pid() !== undefined && broker.pid() !== pid)
  }
  await caughtUp(relay, journal)
  t.not(await running(broker), first)
  t.equal((await access(broker)).url, url)
  t.same(
    (await stored(await reader(t, broker))).map(message => message.sequence),
    range(1, 6000),
  )
})

t.test('a disk that was full holds everything once there is room', async t => {
  const here = await place(t)
  const disk = new Disk(t, here.root)
  const broker = open(t, here)
  const journal = new TinyJournal()
  const relay = relayTo(t, broker, journal, here, 1_000)
  journal.add(100)
  await caughtUp(relay, journal)
  await disk.fill()
  journal.add(1000)
  await until('a problem', () => relay.status().problem)
  disk.makeRoom()
  journal.add(100)
  await caughtUp(relay, journal)
  t.same(
    (await stored(await reader(t, broker))).map(message => message.sequence),
    range(1, 1200),
  )
})

t.test('closing ends the server, and the next one has the same stream and address', async t => {
  const here = await place(t)
  const journal = new TinyJournal()
  journal.add(10)
  const urls = []
  for (const round of [1, 2]) {
    const broker = open(t, here)
    const relay = relayTo(t, broker, journal, here)
    await caughtUp(relay, journal)
    urls.push((await access(broker)).url)
    await relay.stop()
    await broker.close()
    t.same(await servers(here), [], `none runs after round ${round}`)
    journal.add(10)
  }
  t.equal(urls[0], urls[1])
  const broker = open(t, here)
  const relay = relayTo(t, broker, journal, here)
  await caughtUp(relay, journal)
  t.same(
    (await stored(await reader(t, broker))).map(message => message.sequence),
    range(1, 30),
  )
})

t.test('a port that somebody took meanwhile is exchanged for another', async t => {
  const here = await place(t)
  const first = open(t, here)
  await running(first)
  const { url } = await access(first)
  await first.close()
  const squatter = createServer().listen(Number(new URL(url).port), '127.0.0.1')
  t.teardown(() => squatter.close())
  await once(squatter, 'listening')
  const second = open(t, here)
  await running(second)
  t.not((await access(second)).url, url)
})

t.test('a server that an earlier supervisor left on the same store is ended first', async t => {
  const here = await place(t)
  await mkdir(join(here.root, 'nats'))
  const store = await realpath(join(here.root, 'nats'))
  const leftover = spawn('nats-server', ['-js', '-sd', store, '-a', '127.0.0.1', '-p', '-1'], { stdio: 'ignore' })
  const bystander = spawn('nats-server', ['-js', '-sd', `${store}-other`, '-a', '127.0.0.1', '-p', '-1'], {
    stdio: 'ignore',
  })
  const exit = once(leftover, 'exit')
  t.teardown(() => void bystander.kill('SIGKILL'))
  t.teardown(() => void leftover.kill('SIGKILL'))
  await until('the leftover to run', async () => (await servers(here)).length === 1)
  const broker = open(t, here)
  const pid = await running(broker)
  await exit
  t.same(
    (await servers(here)).map(entry => entry.pid),
    [pid],
  )
  t.equal(bystander.exitCode ?? bystander.signalCode, null, "somebody else's server lives on")
})

t.test('the server dies with a supervisor that is killed', async t => {
  const here = await place(t)
  const file = await supervisorProgram(t)
  const supervisor = spawn(process.execPath, [file, here.root, here.state], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => void supervisor.kill('SIGKILL'))
  const pid = await firstNumber(supervisor)
  const server = alive(pid)
  t.ok(server, 'it runs')
  supervisor.kill('SIGKILL')
  if (server) await gone(server)
})

t.test('a missing nats-server is reported with advice, and closing is quick', async t => {
  const here = await place(t)
  const broker = open(t, here, 'nats-server-that-is-not-there')
  const journal = new TinyJournal()
  const relay = relayTo(t, broker, journal, here)
  await until('a problem', () => relay.status().problem)
  t.match(relay.status().problem, { message: 'nats-server-that-is-not-there is not installed', advice: /apt install/ })
  const before = performance.now()
  await relay.stop()
  await broker.close()
  t.ok(performance.now() - before < 1000)
})

t.test('a server that cannot start is reported with its own words', async t => {
  const here = await place(t)
  await mkdir(join(here.root, 'nats'))
  await writeFile(join(here.root, 'nats', 'jetstream'), 'no directory')
  const broker = open(t, here)
  const problem = await until('a problem', () => broker.problem())
  t.match(problem.message, /the embedded nats-server ended: .*jetstream/i)
})

/** A process that does nothing but keep the server. */
const supervisorProgram = (scope: Scope) =>
  program(
    scope,
    `
    import pino from 'pino'
    import { embeddedBroker } from ${modulePath('../../../services/supervisor/relay/embedded.ts')}
    const [, , root, state] = process.argv
    const broker = embeddedBroker({ root, state, log: pino({ level: 'silent' }) })
    await broker.endpoint(new AbortController().signal)
    process.stdout.write(broker.pid() + '\\n')
    setInterval(() => {}, 1000)`,
  )

async function firstNumber(child: ChildProcess): Promise<number> {
  if (!child.stdout) throw new Error('no output')
  const [data] = await once(child.stdout, 'data')
  return Number(String(data).trim())
}
