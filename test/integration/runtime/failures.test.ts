// What goes wrong around a shim: refused creations, hanging ones, shims that are killed. Nothing may be left.
import { once } from 'node:events'
import { chmodSync, existsSync, renameSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { status } from '@grpc/grpc-js'
import t from 'tap'
import { Status } from '../../../proto/gen/containerd/v1/types/task.js'
import { Liveness } from '../../../proto/gen/purser/runtime/v1/runtime.js'
import { alive, gone, type ProcessEntry, processesOf, signal } from '../../harness/process.js'
import { until } from '../../harness/wait.js'
import { FifoReader, makeFifo } from './fifo.js'
import { hangingIn, json, RuntimeHost, wrappedRuntime } from './host.js'

const shimsOf = (host: RuntimeHost) =>
  processesOf(host.directory).filter(
    ({ command }) => command[0]?.includes('containerd-shim') && !command.includes('start'),
  )

async function killShim(host: RuntimeHost): Promise<void> {
  const [shim] = shimsOf(host)
  if (!shim) throw new Error('there is no shim to kill')
  signal(shim, 'SIGKILL')
  await gone(shim)
}

t.test('a creation that the OCI runtime refuses has its words, and leaves nothing', async t => {
  const host = await RuntimeHost.open(t)
  const change = (spec: { process: Record<string, unknown> }) => (spec.process.args = ['/nope'])
  await t.rejects(host.create('nope', { change }), {
    code: status.UNKNOWN,
    details:
      /^failed to create shim task: OCI runtime create failed: .*"\/nope": stat \/nope: no such file or directory/,
  })
  t.same(await host.list(), [])
  await host.nothingLeft()
  await host.run('nope', { command: 'exit 0' })
  await host.exit('nope')
  await host.delete('nope')

  const mounted = {
    change: (spec: { root: { path: string } }) => (spec.root.path = 'rootfs'),
    request: { rootfs: [{ type: 'no-such-fs', source: 'none', target: '', options: [] }] },
  }
  await t.rejects(host.create('unmountable', mounted), { message: /failed to create shim task: / })
  await host.nothingLeft()
  t.same(
    host.exits.map(({ containerId }) => containerId),
    ['nope'],
  )
})

t.test('a request that cannot work is refused before anything is touched', async t => {
  const host = await RuntimeHost.open(t)
  const out = makeFifo(host.directory, 'out')
  const invalid = { code: status.INVALID_ARGUMENT }
  const refuse = async (request: Parameters<RuntimeHost['create']>[1], error: { code: number; details?: RegExp }) => {
    await t.rejects(host.create('never', request), error)
    t.same(host.bundles(), [])
  }
  await refuse({ request: { stdout: out } }, { ...invalid, details: /stdout and stderr belong together/ })
  await refuse({ request: { terminal: true } }, { ...invalid, details: /a terminal needs stdout/ })
  await refuse(
    { request: { stdout: 'out', stderr: 'out' } },
    { ...invalid, details: /neither an absolute path nor a URI/ },
  )
  const missing = join(host.directory, 'missing')
  await refuse({ request: { stdin: missing } }, { code: status.NOT_FOUND, details: /stdin .*missing/ })
  await refuse(
    { request: { spec: { typeUrl: '', value: Buffer.from('{"root":') } } },
    { ...invalid, details: /is not JSON/ },
  )
  await refuse({ request: { spec: { typeUrl: '', value: json([]) } } }, { ...invalid, details: /not a JSON object/ })
  await refuse({ request: { spec: undefined } }, invalid)
  await refuse({ request: { runtime: 'runc' } }, { ...invalid, details: /names no runtime/ })
  await refuse(
    { request: { runtime: 'io.containerd.nope.v9' } },
    { code: status.NOT_FOUND, details: /containerd-shim-nope-v9/ },
  )
  await refuse({ request: { runtime: '/no/such/shim' } }, { code: status.NOT_FOUND, details: /install it/ })
  for (const id of ['', '.', '..', 'a/b', '../../etc', '.hidden', 'x'.repeat(300)])
    await refuse({ request: { id } }, invalid)
  await refuse({ namespace: '../up' }, invalid)
})

t.test('outputs that nobody reads are a clear error instead of a hang', async t => {
  const host = await RuntimeHost.open(t, { readerMs: 300 })
  const unread = makeFifo(host.directory, 'unread')
  const request = { stdout: unread, stderr: unread }
  await t.rejects(host.create('mute', { request }), {
    code: status.FAILED_PRECONDITION,
    details: new RegExp(`nobody reads from ${unread}`),
  })
  await host.nothingLeft()

  await host.run('base', { command: 'exec sleep 100' })
  await t.rejects(host.exec('base', 'mute', 'true', request), { code: status.FAILED_PRECONDITION })
  const late = host.exec('base', 'late', 'echo hello', request).catch((error: unknown) => error)
  const reader = new FifoReader(t, unread)
  t.equal(typeof (await late), 'number', 'a reader that comes a little later is waited for')
  t.equal(await reader.end(), 'hello\n')
  await host.destroy('base')
  await host.nothingLeft()
})

t.test('a creation that hangs is given up, with everything that it started', async t => {
  const host = await RuntimeHost.open(t, { createMs: 500 })
  const hanging = hangingIn(host, 'create')
  await t.rejects(host.create('slow', { request: hanging }), {
    code: status.DEADLINE_EXCEEDED,
    details: /^failed to create shim task: .*within 500 ms/,
  })
  await host.nothingLeft()
  await host.run('slow', { command: 'exit 0' })
  await host.exit('slow')
  await host.delete('slow')
})

t.test('a creation is ended by destroying its task', async t => {
  const host = await RuntimeHost.open(t)
  const hanging = hangingIn(host, 'create')
  const created = host.create('slow', { request: hanging }).catch((error: unknown) => error)
  await until('runc to be called', () => processesOf(host.directory).some(({ command }) => command.includes('create')))
  await t.rejects(host.start('slow'), { code: status.FAILED_PRECONDITION, details: /still being created/ })
  await host.destroy('slow')
  t.match(await created, { code: status.CANCELLED })
  await host.nothingLeft()
})

t.test('a start that hangs does not keep anyone from killing', async t => {
  const host = await RuntimeHost.open(t, { startMs: 60_000 })
  const hanging = hangingIn(host, 'start')
  const { pid } = await host.create('stuck', { command: 'exec sleep 100', request: hanging })
  const started = host.start('stuck').catch((error: unknown) => error)
  await until('runc to be called', () => processesOf(host.directory).some(({ command }) => command.includes('start')))
  await host.kill('stuck')
  await until('the process to end', () => !alive(pid))
  await host.destroy('stuck')
  t.match(await started, { code: status.FAILED_PRECONDITION })
  t.match(await host.exit('stuck'), { pid, exitStatus: 137 })
  await host.nothingLeft()
})

t.test('a start that takes too long ends the task, of an added process only that', async t => {
  const host = await RuntimeHost.open(t, { startMs: 500 })
  const hanging = hangingIn(host, 'start')
  const { pid } = await host.create('stuck', { request: hanging })
  await t.rejects(host.start('stuck'), { code: status.DEADLINE_EXCEEDED })
  t.match(await host.exit('stuck'), { pid, exitStatus: 137 })
  t.match(await host.delete('stuck'), { pid, exitStatus: 137 })
  await host.nothingLeft()

  const slowExec = wrappedRuntime(host, 'case "$*" in *" exec "*slow.pid*) sleep 100;; esac')
  await host.run('fine', { command: 'exec sleep 100', request: slowExec })
  await t.rejects(host.exec('fine', 'slow', 'true'), { code: status.DEADLINE_EXCEEDED })
  await host.exec('fine', 'quick', 'exit 9')
  t.match(await host.exit('fine', 'quick'), { exitStatus: 9 })
  t.match(await host.taskState('fine'), { status: Status.RUNNING })
  await host.destroy('fine')
  await host.nothingLeft()
})

t.test('a shim that is no shim fails the creation and leaves nothing', async t => {
  const host = await RuntimeHost.open(t)
  const shim = (script: string) => {
    const path = join(host.directory, `containerd-shim-odd-v${script.length}`)
    writeFileSync(path, `#!/bin/sh\n${script}\n`)
    chmodSync(path, 0o755)
    return { request: { runtime: path } }
  }
  const failing = host.create('a', shim('echo broken >&2; exit 1'))
  await t.rejects(failing, { code: status.UNKNOWN, details: /^failed to start shim: .*: broken/ })
  await t.rejects(host.create('b', shim('echo')), { message: /failed to start shim: the shim printed no address/ })
  const nowhere = join(host.directory, 'nobody.sock')
  await t.rejects(host.create('c', shim(`printf unix://${nowhere}`)), { message: /failed to start shim: .*ENOENT/ })
  const stale = await staleSocket(host.directory)
  await t.rejects(host.create('f', shim(`printf unix://${stale}`)), { message: /failed to start shim: .*ECONNREFUSED/ })
  t.notOk(existsSync(stale), 'what a shim leaves that died as soon as it had started')
  const file = join(host.directory, 'a file')
  writeFileSync(file, '')
  await t.rejects(host.create('g', shim(`printf 'unix://${file}'`)), { message: /failed to start shim: / })
  t.ok(existsSync(file), 'and nothing else')
  await t.rejects(host.create('d', shim('printf unix://@abstract')), { code: status.UNIMPLEMENTED })
  await t.rejects(host.create('e', shim('printf \'{"version":9,"address":"unix:///x","protocol":"ttrpc"}\'')), {
    code: status.UNIMPLEMENTED,
    details: /version 9/,
  })
  await host.nothingLeft()
})

/** Closing removes the name that was listened at, and no other. */
async function staleSocket(directory: string): Promise<string> {
  const path = join(directory, 'stale.sock')
  const server = createServer().listen(`${path}~`)
  await once(server, 'listening')
  renameSync(`${path}~`, path)
  server.close()
  await once(server, 'close')
  return path
}

for (const [step, prepare, processes] of [
  ['created', (host: RuntimeHost) => host.create('lost', { command: 'exec sleep 100' }), 1],
  ['running', (host: RuntimeHost) => host.run('lost', { command: 'exec sleep 100' }), 1],
  [
    'running with an added process',
    async (host: RuntimeHost) => {
      await host.run('lost', { command: 'exec sleep 100' })
      await host.exec('lost', 'side', 'exec sleep 100')
    },
    2,
  ],
] as const) {
  t.test(`a shim killed while its task is ${step}: the container ends, its exit is told once`, async t => {
    const host = await RuntimeHost.open(t)
    await prepare(host)
    const { pid } = await host.taskState('lost')
    const container: ProcessEntry | undefined = alive(pid)
    await killShim(host)
    t.match(await host.exit('lost'), { pid, exitStatus: 137 })
    if (processes === 2) t.match(await host.exit('lost', 'side'), { exitStatus: 137 })
    if (container) await gone(container)
    t.match(await host.taskState('lost'), { status: Status.STOPPED, exitStatus: 137, pid })
    t.match(await host.list(), [{ liveness: Liveness.LIVENESS_DEAD, init: { status: Status.STOPPED } }])
    await t.rejects(host.kill('lost'), { code: status.NOT_FOUND, details: /process already finished/ })
    t.match(await host.delete('lost'), { exitStatus: 137, pid })
    await host.nothingLeft()
    t.equal(host.exits.length, processes)
  })
}

t.test('a shim killed after its container’s exit: the exit is not told again, and is the true one', async t => {
  const host = await RuntimeHost.open(t)
  await host.run('late', { command: 'exit 4' })
  await host.exit('late')
  await killShim(host)
  await until('the loss to be noticed', async () => (await host.list())[0]?.liveness === Liveness.LIVENESS_DEAD)
  t.match(await host.delete('late'), { exitStatus: 4 })
  await host.nothingLeft()
  t.equal(host.exits.length, 1)
})

t.test('a shim killed during Create, before and within the OCI runtime’s work', async t => {
  const host = await RuntimeHost.open(t)
  const slowly = wrappedRuntime(host, 'case "$*" in *" create "*) sleep 0.3;; esac')
  for (const [id, delayMs] of [
    ['before', 0],
    ['within', 320],
    ['later', 345],
  ] as const) {
    const created = host.create(id, { request: slowly }).catch((error: unknown) => error)
    await until('runc to be called', () =>
      processesOf(host.directory).some(({ command }) => command.includes('create')),
    )
    await new Promise(resolve => setTimeout(resolve, delayMs)) // three places in runc's own work; there is no event for them
    await killShim(host).catch(() => undefined)
    const outcome = await created
    if (outcome instanceof Error)
      t.match(outcome, { details: 'failed to create shim task: the shim ended before it answered' })
    else await host.destroy(id)
    await host.nothingLeft()
  }
})

t.test('a shim that dies in a group takes all its containers along, once each', async t => {
  const host = await RuntimeHost.open(t)
  const sleeping = {
    command: 'exec sleep 100',
    change: (spec: { annotations: Record<string, string> }) => {
      spec.annotations['io.kubernetes.cri.sandbox-id'] = 'pod'
    },
  }
  await host.run('one', sleeping)
  await host.run('two', sleeping)
  await killShim(host)
  await Promise.all([host.exit('one'), host.exit('two')])
  await Promise.all([host.delete('one'), host.delete('two')])
  await host.nothingLeft()
  await host.run('three', { ...sleeping, command: 'exit 0' })
  await host.exit('three')
  await host.delete('three')
  await host.nothingLeft()
})

t.test('a shim that does not answer is listed as such, and destroyed all the same', async t => {
  const host = await RuntimeHost.open(t, { callMs: 300 })
  await host.run('frozen', { command: 'exec sleep 100' })
  const [shim] = shimsOf(host)
  if (!shim) return t.fail('there is no shim')
  signal(shim, 'SIGSTOP')
  t.match(await host.list(), [{ id: 'frozen', liveness: Liveness.LIVENESS_UNRESPONSIVE }])
  await t.rejects(host.kill('frozen'), { code: status.DEADLINE_EXCEEDED })
  await host.destroy('frozen')
  t.match(await host.exit('frozen'), { exitStatus: 137 })
  await host.nothingLeft()
})

t.test('whoever writes nonsense to the events socket loses its connection, nobody else does', async t => {
  const host = await RuntimeHost.open(t)
  await host.create('calm', { command: 'exit 6' })
  const refused = (bytes: Buffer) =>
    new Promise<void>((resolve, reject) => {
      const socket = connect(`${host.directory}/purser.sock.ttrpc`, () => socket.write(bytes))
      socket
        .on('error', reject)
        .on('close', () => resolve())
        .resume()
    })
  await refused(Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n'))
  await refused(Buffer.from('00000003000000010100ffffff', 'hex'))
  await host.start('calm')
  t.match(await host.exit('calm'), { exitStatus: 6 })
  await host.delete('calm')
  await host.nothingLeft()
})
