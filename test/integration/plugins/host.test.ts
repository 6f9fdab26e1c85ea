// The bundled plugin host under our care, and plugins that serve without ever registering.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { Server } from '@grpc/grpc-js'
import { pino } from 'pino'
import t from 'tap'
import { Code } from '../../../plugins/kit/errors.js'
import { listen } from '../../../plugins/kit/listen.js'
import { unary } from '../../../plugins/kit/serve.js'
import { type DiffServer, DiffService } from '../../../proto/gen/containerd/services/diff/v1/diff.js'
import { pluginClient, pluginSource } from '../../../services/supervisor/plugins/clients.js'
import { PluginDirectory } from '../../../services/supervisor/plugins/directory.js'
import { type PluginHost, startPluginHost } from '../../../services/supervisor/plugins/host.js'
import { alive, gone } from '../../harness/process.js'
import { Arrivals, type Scope, withDeadline } from '../../harness/wait.js'
import { bundleProgram, house, log, temporaryDirectory, until } from './support.js'

const [obedient, hostParent] = await Promise.all([
  bundleProgram(t, 'test/integration/plugins/obedient.ts'),
  bundleProgram(t, 'test/integration/plugins/hostParent.ts'),
])

t.test('the host is started again when it dies, and its plugins leave when it is stopped', async t => {
  const at = await house(t)
  const lines = new Arrivals<string>()
  const host = startHost(t, at, lines)
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
  t.ok(
    lines.items.some(line => line.includes('"msg":"open for calls"') && line.includes('"plugin":"obedient"')),
    'its log is ours',
  )
})

t.test('a host whose plugins were all replaced is not started again', async t => {
  const at = await house(t)
  const host = startHost(t, at)
  await at.order('version')
  const newer = startHost(t, at, undefined, { OBEDIENT_VERSION: '2' })
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
  t.ok(
    lines.items.some(line => line.includes('Cannot find module')),
    'what node itself says is in the log',
  )
  await host.stop()
  t.equal(host.state, 'stopped')
  t.same(at.ledger.facts.items, [])
})

t.test('the host dies with its supervisor, however that ends', async t => {
  const at = await house(t)
  const parent = spawn(process.execPath, [hostParent, obedient, ...flags(at)], { stdio: ['ignore', 'ignore', 'pipe'] })
  t.teardown(() => parent.kill('SIGKILL'))
  const said = new Arrivals<string>()
  createInterface({ input: parent.stderr }).on('line', line => said.push(line))
  await at.order('version')
  const host = alive(Number((await said.first('the pid', line => line.startsWith('host '))).slice(5)))
  if (!host) return t.fail('the host is not running')
  parent.kill('SIGKILL')
  await gone(host)
  await at.ledger.fact(/^lost 1/)
})

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

function startHost(scope: Scope, at: { state: string }, lines = new Arrivals<string>(), env = {}): PluginHost {
  const host = startPluginHost({
    script: obedient,
    args: flags(at),
    log: collecting(lines),
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
