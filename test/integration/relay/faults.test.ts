// What brokers suffer in the field: full, slow, cut off, shared with others, clusters that lose servers. Each time everything
// arrives in the end, once and in order.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer, connect as dial } from 'node:net'
import { nanos } from 'nats'
import t from 'tap'
import { remoteBroker } from '../../../services/supervisor/relay/broker.js'
import { pause, type Scope, until } from '../../harness/wait.js'
import { authority } from './authority.js'
import {
  caughtUp,
  client,
  directory,
  forgetfulStream,
  freePort,
  Nats,
  nats,
  publication,
  range,
  relayTo,
  sequences,
  stored,
  TinyJournal,
} from './support.js'

/** How long the partition lasts; for minutes: `RELAY_PARTITION_SECONDS=300 npx tap test/integration/relay/faults.test.ts`. */
const partitionSeconds = Number(process.env.RELAY_PARTITION_SECONDS ?? 5)
const patient = { timeoutMs: 60_000 }

t.test('a full shared stream stops the relay without one event overtaking another', async t => {
  const server = await nats(t)
  const { connection, manager } = await forgetfulStream(t, server, { max_bytes: 200_000, discard: 'new' })
  const journal = new TinyJournal()
  for (let round = 0; round < 20; round++) {
    journal.add(5)
    journal.add(1, { payload: Buffer.alloc(40_000, 'x') })
  }
  const relay = await relayTo(t, journal, { url: server.url })
  const problem = await until('a problem', () => relay.status().problem, patient)
  t.match(problem, { message: /the stream is full/, advice: /raise its limits/ })
  const held = sequences(await stored(connection))
  t.same(held, range(1, held.length), 'small events do not pass the large one that is refused')
  t.ok((relay.status().failures.get('full') ?? 0) > 0)
  await manager.streams.update('PURSER', { max_bytes: -1 })
  await caughtUp(relay, journal)
  t.same(sequences(await stored(connection)), range(1, 120))
})

t.test('a stream that discards its oldest messages takes everything, and keeps the newest', async t => {
  const server = await nats(t)
  const { connection } = await forgetfulStream(t, server, { max_bytes: 100_000 })
  const journal = new TinyJournal()
  journal.add(2000)
  const relay = await relayTo(t, journal, { url: server.url })
  await caughtUp(relay, journal)
  journal.add(1)
  await caughtUp(relay, journal)
  const held = sequences(await stored(connection))
  t.ok(held.length < 2000)
  t.same(held, range(2002 - held.length, 2001))
  t.equal(relay.status().published, 2001, 'what the limit removed is not sent again')
})

t.test('others who publish into the stream all the time cost neither order nor completeness', async t => {
  const server = await nats(t)
  const { connection } = await forgetfulStream(t, server)
  const noise = await client(t, { servers: server.url })
  let noisy = true
  const stranger = (async () => {
    while (noisy) await noise.jetstream().publish('purser.stranger.x', 'x')
  })()
  t.teardown(() => {
    noisy = false
  })
  const journals = [new TinyJournal(), new TinyJournal()]
  for (const journal of journals) journal.add(1000)
  const relays = await Promise.all(
    journals.map((journal, index) => relayTo(t, journal, { url: server.url, node: `n${index}` })),
  )
  for (const [index, relay] of relays.entries()) await caughtUp(relay, journals[index] ?? new TinyJournal())
  noisy = false
  await stranger
  const messages = await stored(connection)
  for (const [index, journal] of journals.entries()) {
    t.same(sequences(messages.filter(({ id }) => id.startsWith(journal.id))), range(1, 1000))
    t.equal(relays[index]?.status().connections, 1, 'and no connection')
  }
})

t.test('a slow link is used, not given up, and little is held for it', async t => {
  const server = await nats(t)
  const { connection } = await forgetfulStream(t, server)
  const port = await throttle(t, server.port, 400_000)
  const journal = new TinyJournal()
  journal.add(500, { payload: Buffer.alloc(3_000, 'x') })
  let made = 0
  const settings = {
    url: `nats://127.0.0.1:${port}`,
    answerTimeoutMs: 1_500,
    publication: (of: Parameters<typeof publication>[0]) => {
      made += 1
      return publication(of)
    },
  }
  const relay = await relayTo(t, journal, settings)
  let most = 0
  await until(
    'everything',
    () => {
      const { cursor } = relay.status()
      most = Math.max(most, made - Number(cursor))
      return cursor === journal.last()
    },
    patient,
  )
  t.ok(most <= 257, `${most} events were held`)
  t.equal(relay.status().connections, 1)
  t.same(sequences(await stored(connection)), range(1, 500))
})

t.test('a partition without a word of farewell is noticed, and nothing of before arrives late', async t => {
  const link = await namespace(t)
  const at = await authority(await directory(t), link.there)
  const tls = { caFile: at('ca.pem') }
  const plain = { url: `nats://${link.there}:4222` }
  const secret = { url: `tls://${link.there}:4223`, tls }
  await link.nats('-p', '4222')
  await link.nats('-p', '4223', '--tls', '--tlscert', at('server.pem'), '--tlskey', at('server.key'))
  // Left to itself, the client asks for a certificate of localhost.
  const credulous = { ...tls, checkServerIdentity: () => undefined }
  const connect = async ({ url }: { url: string }) =>
    client(t, { servers: url.replace(/.*:\/\//, ''), ...(url.startsWith('tls') && { tls: credulous }) })
  const sides = await Promise.all(
    [plain, secret].map(async settings => {
      const connection = await until('nats-server', () => connect(settings).catch(() => undefined), patient)
      const manager = await connection.jetstreamManager()
      await manager.streams.add({ name: 'PURSER', subjects: ['purser.>'], duplicate_window: nanos(100) })
      const journal = new TinyJournal()
      journal.add(100)
      const made = new Set<bigint>()
      const publish = (of: Parameters<typeof publication>[0]) => {
        made.add(of.sequence)
        return publication(of)
      }
      const broker = remoteBroker(settings)
      const relay = await relayTo(t, journal, { broker, answerTimeoutMs: 1_000, publication: publish })
      await caughtUp(relay, journal)
      return { settings, journal, relay, made }
    }),
  )

  link.drop()
  for (const { journal } of sides) journal.add(1000)
  for (const { relay } of sides) await until('it to be noticed', () => relay.status().problem, patient)
  await pause(partitionSeconds * 1000)
  for (const { relay, made } of sides) {
    t.match(relay.status(), { cursor: 100n, released: 0n, lag: 1000n })
    t.ok(made.size <= 100 + 256, `${made.size - 100} events were taken from the journal`)
  }
  t.same(orphans(link.there), [], 'the kernel keeps nothing to deliver later')
  link.pass()
  for (const { settings, journal, relay } of sides) {
    await caughtUp(relay, journal)
    t.same(sequences(await stored(await connect(settings))), range(1, 1100), settings.url)
  }
})

t.test('a cluster that loses a server, then the leader, and gets them back', async t => {
  const servers = await cluster(t)
  const urls = servers.map(({ url }) => url).join(',')
  const journal = new TinyJournal()
  journal.add(200)
  const settings = { url: urls, stream: { replicas: 3 }, answerTimeoutMs: 3_000 }
  const relay = await relayTo(t, journal, settings)
  await caughtUp(relay, journal)
  const leader = async () => {
    const connection = await client(t, { servers: servers.map(({ url }) => url), timeout: 2_000 })
    try {
      const { cluster } = await (await connection.jetstreamManager()).streams.info('PURSER')
      return servers.find(({ args }) => args.includes(cluster?.leader ?? ''))
    } finally {
      await connection.close()
    }
  }
  const first = await until('a leader', () => leader().catch(() => undefined), patient)
  const follower = servers.find(server => server !== first)
  journal.add(1000)
  await follower?.kill()
  await caughtUp(relay, journal)
  await follower?.start()
  await until('all copies to be current', () => current(t, urls), patient)

  const second = await until('a leader', () => leader().catch(() => undefined), patient)
  journal.add(3000)
  await until('the relay to be in the middle', () => relay.status().cursor > 1500n, { ...patient, intervalMs: 1 })
  await second.kill()
  journal.add(100)
  await caughtUp(relay, journal)
  await second.start()
  const messages = await until('everything to be readable', () => everything(t, urls, 4300), patient)
  t.same(sequences(messages), range(1, 4300))
})

async function everything(scope: Scope, urls: string, count: number) {
  try {
    const connection = await client(scope, { servers: urls.split(','), timeout: 2_000 })
    const messages = await stored(connection)
    return messages.length >= count ? messages : undefined
  } catch {
    return undefined // the cluster is still electing
  }
}

async function current(scope: Scope, urls: string): Promise<boolean> {
  try {
    const connection = await client(scope, { servers: urls.split(','), timeout: 2_000 })
    const { cluster } = await (await connection.jetstreamManager()).streams.info('PURSER')
    await connection.close()
    return cluster?.replicas?.length === 2 && cluster.replicas.every(({ current, offline }) => current && !offline)
  } catch {
    return false
  }
}

async function cluster(scope: Scope): Promise<Nats[]> {
  const routes = await Promise.all([0, 1, 2].map(freePort))
  const known = routes.map(port => `nats://127.0.0.1:${port}`).join(',')
  const servers = await Promise.all(
    routes.map(async (route, index) => {
      const own = ['-n', `s${index}`, '-cluster_name', 'c', '-cluster', `nats://127.0.0.1:${route}`, '-routes', known]
      const server = new Nats(await freePort(), await directory(scope), own)
      scope.teardown(() => server.kill())
      return server
    }),
  )
  await Promise.all(servers.map(server => server.start()))
  return servers
}

/** A proxy that lets through so many bytes a second towards the server. */
async function throttle(scope: Scope, target: number, bytesPerSecond: number): Promise<number> {
  const server = createServer(near => {
    const far = dial(target, '127.0.0.1')
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      socket.on('error', () => socket.destroy())
      socket.on('close', () => other.destroy())
    }
    far.pipe(near)
    near.on('data', data => {
      far.write(data)
      near.pause()
      setTimeout(() => near.resume(), (data.length / bytesPerSecond) * 1000)
    })
    scope.teardown(() => void near.destroy())
  }).listen(0, '127.0.0.1')
  scope.teardown(() => void server.close())
  await once(server, 'listening')
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}

/** A network namespace behind a link on which packets can be dropped, so that neither end hears of it. */
async function namespace(scope: Scope) {
  const name = `purser-nats-${process.pid}`
  const link = `pn${process.pid}`
  const octet = 1 + (process.pid % 250)
  const [here, there] = [`198.18.${octet}.1`, `198.18.${octet}.2`]
  const ip = (...args: string[]) => execFileSync('ip', args, { stdio: 'pipe' })
  const inside = (...args: string[]) => execFileSync('ip', ['netns', 'exec', name, ...args], { stdio: 'pipe' })
  ip('netns', 'add', name)
  scope.teardown(() => void ip('netns', 'delete', name))
  ip('link', 'add', link, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name)
  ip('address', 'add', `${here}/30`, 'dev', link)
  ip('link', 'set', link, 'up')
  inside('ip', 'address', 'add', `${there}/30`, 'dev', 'eth0')
  inside('ip', 'link', 'set', 'eth0', 'up')
  const rule = (action: string) => {
    inside('iptables', action, 'INPUT', '-i', 'eth0', '-j', 'DROP')
    inside('iptables', action, 'OUTPUT', '-o', 'eth0', '-j', 'DROP')
  }
  /** A nats-server in there. */
  const nats = async (...args: string[]) => {
    const own = ['nats-server', '-js', '-sd', await directory(scope), '-a', there, ...args]
    const server = spawn('ip', ['netns', 'exec', name, ...own], { stdio: 'ignore' })
    scope.teardown(async () => {
      const exit = once(server, 'exit')
      server.kill('SIGKILL')
      await exit
    })
  }
  return { there, nats, drop: () => rule('-A'), pass: () => rule('-D') }
}

/** Connections to an address that nobody holds any more, though the kernel still has data for them. Source: proc(5). */
function orphans(address: string): string[] {
  const hex = Buffer.from(address.split('.').map(Number)).reverse().toString('hex').toUpperCase()
  const finWait1 = '04'
  const lines = readFileSync('/proc/net/tcp', 'utf8').split('\n')
  return lines.filter(line => {
    const [, , remote = '', state] = line.trim().split(/\s+/)
    return remote.startsWith(hex) && state === finWait1
  })
}
