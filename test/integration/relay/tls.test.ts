// Logging in to a broker: certificates of a throw-away authority, users, tokens, nkeys; wrong first, then corrected.
import { execFileSync } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { type RemoteSettings, remoteBroker } from '../../../services/supervisor/relay/broker.js'
import { type Scope, until } from '../../harness/wait.js'
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
  const relay = await relayWith(t, journal, { url, tls: { caFile: at('ca.pem'), ...own } })
  await caughtUp(relay, journal)
  t.equal(relay.status().published, 20)
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

/** Certificates for 127.0.0.1 and a client by one authority, and the certificate of another authority. */
async function authority(folder: string): Promise<(name: string) => string> {
  const at = (name: string) => join(folder, name)
  const openssl = (...args: string[]) => execFileSync('openssl', args, { stdio: 'pipe', timeout: 60_000 })
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  for (const name of ['ca', 'other'])
    openssl('req', '-x509', ...key, '-keyout', at(`${name}.key`), '-out', at(`${name}.pem`), '-subj', `/CN=${name}`)
  for (const name of ['server', 'client']) {
    openssl('req', ...key, '-keyout', at(`${name}.key`), '-out', at(`${name}.csr`), '-subj', `/CN=${name}`)
    // The client library does not check an IP address by itself: it asks for localhost.
    await writeFile(at(`${name}.ext`), 'subjectAltName=IP:127.0.0.1,DNS:localhost\n')
    const by = ['-CA', at('ca.pem'), '-CAkey', at('ca.key'), '-CAcreateserial', '-extfile', at(`${name}.ext`)]
    openssl('x509', '-req', '-in', at(`${name}.csr`), ...by, '-out', at(`${name}.pem`), '-days', '2')
  }
  return at
}
