// Logging in to a broker: certificates of a throw-away authority, users, tokens, nkeys; wrong first, then corrected.
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { type RemoteSettings, remoteBroker } from '../../../services/supervisor/relay/broker.js'
import type { Relay } from '../../../services/supervisor/relay/relay.js'
import { type Scope, until } from '../../harness/wait.js'
import { authority } from './authority.js'
import { nkeyUser, Operator } from './credentials.js'
import { LossyProxy } from './proxy.js'
import { caughtUp, directory, nats, relayTo, TinyJournal } from './support.js'

const patient = { timeoutMs: 60_000 }
const relayWith = (scope: Scope, journal: TinyJournal, settings: RemoteSettings) =>
  relayTo(scope, journal, { broker: remoteBroker(settings) })

t.test('TLS: another authority and a missing client certificate are refused, the right ones serve', async t => {
  const at = await authority(await directory(t))
  const server = await nats(
    t,
    ...['--tlsverify', '--tlscacert', at('ca.pem'), '--tlscert', at('server.pem'), '--tlskey', at('server.key')],
  )
  const url = `tls://127.0.0.1:${server.port}`
  const journal = new TinyJournal()
  journal.add(20)
  const own = { certFile: at('client.pem'), keyFile: at('client.key') }
  const wrong: [RemoteSettings['tls'], RegExp][] = [
    [{ caFile: at('other.pem'), ...own }, /certificate is not of the authority/],
    [{ caFile: at('missing.pem'), ...own }, /missing\.pem cannot be read \(ENOENT\)/],
    [{ caFile: at('ca.pem') }, /client's certificate|connection to the broker was lost|closed/i],
  ]
  for (const [tls, message] of wrong) {
    const relay = await relayWith(t, journal, { url, ...(tls && { tls }) })
    const problem = await until('a problem', () => relay.status().problem, patient)
    t.match(problem.message, message)
    t.equal(relay.status().cursor, 0n)
    await relay.stop()
  }
  const tls = { caFile: at('ca.pem'), ...own }
  // The certificate is for the address alone.
  const elsewhere = await relayWith(t, journal, { url: `tls://localhost:${server.port}`, tls })
  t.match(await until('a problem', () => elsewhere.status().problem, patient), {
    message: "the broker's certificate is for another host name",
  })
  await elsewhere.stop()
  const relay = await relayWith(t, journal, { url, tls })
  await caughtUp(relay, journal)
  t.equal(relay.status().published, 20)
})

t.test('a connection over TLS that is silent is noticed by who has nothing to say, and left', async t => {
  const at = await authority(await directory(t))
  const server = await nats(t, '--tls', '--tlscert', at('server.pem'), '--tlskey', at('server.key'))
  const proxy = new LossyProxy()
  await proxy.start(t, server.port)
  const broker = remoteBroker({ url: `tls://127.0.0.1:${proxy.port}`, tls: { caFile: at('ca.pem') } })
  const journal = new TinyJournal()
  journal.add(20)
  // By its pings, not by asking for the stream.
  const relay = await relayTo(t, journal, { broker, answerTimeoutMs: 500, idleCheckMs: 3_600_000 })
  await caughtUp(relay, journal)
  proxy.answers = 'lose'
  await until('it to be noticed', () => relay.status().state === 'connecting', patient)
  proxy.cut()
  proxy.answers = 'pass'
  journal.add(20)
  await caughtUp(relay, journal)
})

t.test('a password that was wrong is read anew, and nothing is lost meanwhile', async t => {
  const server = await nats(t, '--user', 'worker', '--pass', 'right')
  const passwordFile = join(await directory(t), 'password')
  await writeFile(passwordFile, 'wrong\n')
  const journal = new TinyJournal()
  journal.add(20)
  const relay = await relayWith(t, journal, { url: server.url, user: 'worker', passwordFile })
  t.match(await until('a problem', () => relay.status().problem, patient), { message: 'the broker refuses the login' })
  t.ok((relay.status().failures.get('login') ?? 0) > 0)
  await writeFile(passwordFile, 'right\n')
  await caughtUp(relay, journal)
  t.equal(relay.status().problem, undefined)
})

t.test('a token from a file', async t => {
  const server = await nats(t, '--auth', 's3cret')
  const tokenFile = join(await directory(t), 'token')
  await writeFile(tokenFile, 's3cret\n')
  const journal = new TinyJournal()
  journal.add(3)
  await caughtUp(await relayWith(t, journal, { url: server.url, tokenFile }), journal)
})

t.test('an nkey: garbage and a stranger’s are told apart, the right one serves without a restart', async t => {
  const [ours, strange] = [nkeyUser(), nkeyUser()]
  const folder = await directory(t)
  const config = join(folder, 'nats.conf')
  await writeFile(config, `authorization: { users: [ { nkey: ${ours.publicKey} } ] }`)
  const server = await nats(t, '-c', config)
  const nkeyFile = join(folder, 'seed')
  const journal = new TinyJournal()
  journal.add(20)
  await writeFile(nkeyFile, 'SUnonsense\n')
  const relay = await relayWith(t, journal, { url: server.url, nkeyFile })
  const told = (message: RegExp) => until(String(message), () => message.test(problemOf(relay)), patient)
  await told(/seed holds no credentials for NATS/)
  await writeFile(nkeyFile, strange.seed)
  await told(/the broker refuses the login/)
  journal.add(20)
  await writeFile(nkeyFile, ours.seed)
  await caughtUp(relay, journal)
  t.equal(relay.status().published, 40)
})

t.test('a .creds file: another operator’s and one that has expired are refused, a new one serves', async t => {
  const [operator, stranger] = [new Operator(), new Operator()]
  const folder = await directory(t)
  const config = join(folder, 'nats.conf')
  await writeFile(config, operator.configuration)
  const server = await nats(t, '-c', config)
  const credentialsFile = join(folder, 'user.creds')
  const journal = new TinyJournal()
  journal.add(20)
  await writeFile(credentialsFile, stranger.credentials())
  const relay = await relayWith(t, journal, { url: server.url, credentialsFile })
  const told = (message: RegExp) => until(String(message), () => message.test(problemOf(relay)), patient)
  await told(/the broker refuses the login/)
  await writeFile(credentialsFile, 'nonsense')
  await told(/user\.creds holds no credentials for NATS/)

  await writeFile(credentialsFile, operator.credentials(Math.floor(Date.now() / 1000) + 4))
  await caughtUp(relay, journal)
  await told(/the broker refuses the login/) // its time has come while it was in use
  journal.add(20)
  await writeFile(credentialsFile, operator.credentials())
  await caughtUp(relay, journal)
  t.equal(relay.status().published, 40)
})

const problemOf = (relay: Relay): string => relay.status().problem?.message ?? ''
