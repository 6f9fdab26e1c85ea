// The bundled plugin host under our care, and plugins that serve without ever registering.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { Server } from '@grpc/grpc-js'
import { pino } from 'pino'
import t from 'tap'
import { Code } from '../../../plugins/kit/errors.js'
import { readIntroduction } from '../../../plugins/kit/introduction.js'
import { listen } from '../../../plugins/kit/listen.js'
import { unary } from '../../../plugins/kit/serve.js'
import { type DiffServer, DiffService } from '../../../proto/gen/containerd/services/diff/v1/diff.js'
import { pluginClient, pluginSource } from '../../../services/supervisor/plugins/clients.js'
import { PluginDirectory } from '../../../services/supervisor/plugins/directory.js'
import { type PluginHost, startPluginHost } from '../../../services/supervisor/plugins/host.js'
import { alive, gone, signal } from '../../harness/process.js'
import { Arrivals, type Scope, withDeadline } from '../../harness/wait.js'
import { bundleProgram, type House, house, log, temporaryDirectory, until } from './support.js'

const [obedient, hostParent] = await Promise.all([
  bundleProgram(t, 'test/integration/plugins/obedient.ts'),
  bundleProgram(t, 'test/integration/plugins/hostParent.ts'),
])

t.test('the host is started again when it dies, and its plugins leave when it is stopped', async t => {
  const at = await house(t)
  const host = startHost(t, at)
  t.equal(await at.order('version'), '1')
  await t.rejects(at.order('crash'), { code: Code.UNAVAILABLE })
  await at.ledger.fact(/^lost 1/)
  t.equal(await at.order('version'), '1', 'the next call waits for its successor')
  t.equal(host.restarts, 1)
  process.kill(host.pid ?? 0, 'SIGTERM')
  await at.ledger.fact(/^left 2/)
  t.equal(await at.order('version'), '1', 'also when somebody else stopped it')
  await host.stop()
  t.equal(host.state, 'stopped')
  await at.ledger.fact(/^left 3: stopped/)
})

t.test('a host whose plugins were all replaced is not started again', async t => {
  const at = await house(t)
  const host = startHost(t, at)
  await at.order('version')
  const newer = startHost(t, at, { OBEDIENT_VERSION: '2' })
  await until('the older host to end', () => host.state === 'stopped')
  t.equal(await at.order('version'), '2')
  t.equal(newer.state, 'running')
})

t.test('a host waits until the registry serves, and can be stopped before that', async t => {
  const at = await house(t)
  const host = startPluginHost({ script: obedient, args: flags(at), log: collecting(new Arrivals<string>()) })
  await host.stop()
  t.equal(host.state, 'stopped')
  t.same(at.ledger.facts.items, [], 'nothing was opened')
})

t.test('a host that cannot run is tried again, ever more slowly, until it is stopped', async t => {
  const at = await house(t)
  const lines = new Arrivals<string>()
  const host = startPluginHost({ script: '/nowhere/plugin-host.js', args: [], log: collecting(lines) })
  t.teardown(() => host.stop())
  await lines.first('the second failure', line => line.includes('"retryMs":200'))
  await host.stop()
  t.equal(host.state, 'stopped')
  t.same(at.ledger.facts.items, [])
})

t.test('a host whose supervisor is gone waits for the next one only so long', async t => {
  for (const seconds of [0, 1]) {
    const at = await house(t)
    const { parent, host } = await crashable(t, at, seconds)
    await at.closeRegistry()
    parent.kill('SIGKILL')
    await gone(host)
    t.pass(`gone after ${seconds} seconds`)
  }
})

t.test('a host outlives a supervisor that crashes, and the next one takes it up as it is', async t => {
  const at = await house(t)
  const { parent, host, said } = await crashable(t, at, 60)
  t.ok(
    said.items.some(line => line.includes('"msg":"open for calls"') && line.includes('"plugin":"obedient"')),
    'its log goes where that of the supervisor goes',
  )
  const abandoned = at.order('sleep:1000').catch(() => {})
  await until('the call to be under way', () => at.directory.list()[0]?.state === 'ready')
  await at.closeRegistry()
  parent.kill('SIGKILL')
  await at.openRegistry()
  const next = startHost(t, at, {}, 60)
  t.equal(next.pid, host.pid)
  await at.ledger.fact(/^ready 2/)
  t.equal(await at.order('version'), '1')
  await abandoned
  await next.stop()
  t.equal(alive(host.pid), undefined)
  await at.ledger.fact(/^left 2: stopped/)
  t.equal(next.restarts, 0)
})

t.test('a host that was taken up and dies is followed by another', async t => {
  const at = await house(t)
  const { parent, host } = await crashable(t, at, 60)
  parent.kill('SIGKILL')
  const next = startHost(t, at, {}, 60)
  t.equal(next.pid, host.pid)
  process.kill(host.pid, 'SIGKILL')
  await at.ledger.fact(/^ready 2/)
  t.equal(await at.order('version'), '1')
  t.equal(next.restarts, 1)
})

t.test('a host that outlived its supervisor ends when another has its place', async t => {
  const at = await house(t)
  const { parent, host } = await crashable(t, at, 60)
  await at.closeRegistry()
  const successor = startHost(t, at, {}, 60, false)
  await until('it to introduce itself', () => readIntroduction(identityFile(at))?.process.pid === successor.pid)
  parent.kill('SIGKILL')
  await gone(host)
  await at.openRegistry()
  await at.ledger.fact(/^ready 2/)
  t.equal(await at.order('version'), '1')
})

t.test('a host that was started in another way leaves before another begins', async t => {
  const at = await house(t)
  const { parent, host } = await crashable(t, at, 60, '--log-level', 'debug')
  parent.kill('SIGKILL')
  const next = startHost(t, at, {}, 60)
  await at.ledger.fact(/^left 1: stopped/)
  await at.ledger.fact(/^ready 2/)
  t.equal(alive(host.pid), undefined)
  t.not(next.pid, host.pid)
  t.equal(await at.order('version'), '1')
})

/** A host of a supervisor that a test can kill; it registers and serves. */
async function crashable(scope: Scope, at: House, seconds: number, ...more: string[]) {
  const args = [hostParent, obedient, String(seconds), identityFile(at), ...flags(at), ...more]
  const parent = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  scope.teardown(() => void parent.kill('SIGKILL'))
  const said = new Arrivals<string>()
  createInterface({ input: parent.stderr }).on('line', line => said.push(line))
  await at.order('version')
  const host = alive(Number((await said.first('the pid', line => line.startsWith('host '))).slice(5)))
  if (!host) throw new Error('the host is not running')
  scope.teardown(() => signal(host, 'SIGKILL'))
  return { parent, host, said }
}

const identityFile = ({ state }: { state: string }) => `${state}/host.json`

t.test('a proxy plugin is ready while its socket answers', async t => {
  const state = temporaryDirectory(t)
  const directory = new PluginDirectory({ log, expected: [] })
  t.teardown(() => directory.close())
  const path = `${state}/proxy.sock`
  directory.addProxy({ name: 'elsewhere', type: 'diff', address: path })
  await t.rejects(directory.find('differ', 'elsewhere', { waitMs: 50 }), {
    code: Code.UNAVAILABLE,
    details: /nobody answers on/,
  })

  const client = pluginClient(pluginSource(directory, 'differ', 'elsewhere'), DiffService)
  const request = { left: [], right: [], mediaType: '', ref: '', labels: {}, sourceDateEpoch: undefined }
  const waiting = client.diff(request)
  const first = await serveDiff(path)
  t.match(await waiting, { diff: undefined })
  t.match(directory.list(), [{ kind: 'differ', id: 'elsewhere', state: 'ready', epoch: 0n }])

  await first.close(100)
  await until('the loss to be noticed', () => directory.list()[0]?.state === 'opening')
  const again = client.diff(request)
  const second = await serveDiff(path)
  await again
  await second.close(100)
})

async function serveDiff(path: string) {
  const server = new Server()
  const implementation: DiffServer = {
    apply: unary(() => ({ applied: undefined })),
    diff: unary(() => ({ diff: undefined })),
  }
  server.addService(DiffService, implementation)
  return listen(server, path)
}

const flags = ({ state }: { state: string }) => ['--registry', `unix://${state}/registry.sock`, '--endpoint-dir', state]

function startHost(scope: Scope, at: House, env = {}, seconds = 0, takeUp = true): PluginHost {
  const host = startPluginHost({
    script: obedient,
    args: flags(at),
    ...(seconds > 0 && { survival: { identityFile: identityFile(at), seconds, takeUp } }),
    log,
    env: { ...process.env, ...env },
  })
  scope.teardown(() => withDeadline(host.stop(2000), 10_000, 'the host to stop'))
  host.begin()
  return host
}

/** pino's lines, kept. */
function collecting(lines: Arrivals<string>) {
  return pino({ level: 'debug' }, { write: line => lines.push(line) })
}
