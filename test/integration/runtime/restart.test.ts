// The plugin goes away and comes back while shims and containers run on.
import { existsSync, readdirSync, readlinkSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { status } from '@grpc/grpc-js'
import t from 'tap'
import { Status } from '../../../proto/gen/containerd/v1/types/task.js'
import { Liveness } from '../../../proto/gen/purser/runtime/v1/runtime.js'
import { alive, gone, type ProcessEntry, processesOf, signal } from '../../harness/process.js'
import { until } from '../../harness/wait.js'
import { hangingIn, RuntimeHost } from './host.js'
import { compileChild, serveInChild } from './served.js'

async function end(pid: number): Promise<void> {
  const entry = alive(pid)
  if (!entry) throw new Error(`process ${pid} has gone already`)
  signal(entry, 'SIGKILL')
  await gone(entry)
}

const shimsOf = (host: RuntimeHost) =>
  processesOf(host.directory).filter(({ command }) => command[0]?.includes('containerd-shim'))

/** Whether somebody reads the FIFO that the shim logs to: a full one would block it. */
function hasLogReader(host: RuntimeHost, id: string): boolean {
  const log = join(host.state, 'bundles', host.namespace, id, 'log')
  const descriptors = readdirSync('/proc/self/fd').map(fd => `/proc/self/fd/${fd}`)
  return descriptors.some(fd => existsSync(fd) && readlinkSync(fd) === log)
}

t.test('tasks are taken up where they are', async t => {
  const host = await RuntimeHost.open(t)
  const pid = await host.run('running', { command: 'exec sleep 100' })
  await host.exec('running', 'side', 'exec sleep 100')
  await host.create('created', { command: 'exit 8' })
  await host.run('stopped', { command: 'exit 7' })
  await host.exit('stopped')
  await host.close()
  t.ok(alive(pid), 'containers run on')
  await host.open()

  t.match(
    (await host.list()).sort((a, b) => (a.id < b.id ? -1 : 1)),
    [
      { id: 'created', liveness: Liveness.LIVENESS_ALIVE, init: { status: Status.CREATED } },
      { id: 'running', liveness: Liveness.LIVENESS_ALIVE, init: { status: Status.RUNNING, pid } },
      { id: 'stopped', liveness: Liveness.LIVENESS_ALIVE, init: { status: Status.STOPPED, exitStatus: 7 } },
    ],
  )
  t.ok(
    ['running', 'created', 'stopped'].every(id => hasLogReader(host, id)),
    'the logs of shims are read again',
  )
  await host.start('created')
  t.match(await host.exit('created'), { exitStatus: 8 })
  await host.kill('running', { execId: 'side' })
  t.match(await host.exit('running', 'side'), { exitStatus: 137 })
  await host.kill('running')
  t.match(await host.exit('running'), { exitStatus: 137, pid })
  for (const id of ['created', 'running', 'stopped']) await host.delete(id)
  await host.nothingLeft()
  t.equal(host.exits.filter(({ containerId }) => containerId === 'stopped').length, 1, 'an exit is told once')
})

t.test('exits while the plugin is away are told when it is back, once, with their true status', async t => {
  const host = await RuntimeHost.open(t)
  const command = 'trap "exit 9" USR1; while :; do sleep 0.05; done'
  const pid = await host.run('away', { command })
  const side = await host.exec('away', 'side', 'exec sleep 100')
  await host.close()
  await end(side)
  process.kill(pid, 'SIGUSR1')
  await until('the container to end', () => !alive(pid))
  await host.open()
  const exit = await host.exit('away')
  t.match(exit, { exitStatus: 9, pid })
  t.match(await host.exit('away', 'side'), { exitStatus: 137, pid: side })
  t.match(await host.delete('away'), { exitStatus: 9 })
  await host.nothingLeft()
  t.equal(host.exits.length, 2, 'though the shim tells them as well')
})

t.test('shims that die while the plugin is away are noticed when it is back', async t => {
  const host = await RuntimeHost.open(t)
  const pid = await host.run('orphan', { command: 'exec sleep 100' })
  await host.run('done', { command: 'exit 3' })
  await host.exit('done')
  await host.close()
  for (const shim of shimsOf(host)) await end(shim.pid)
  const container: ProcessEntry | undefined = alive(pid)
  t.ok(container, 'the container survives its shim')
  await host.open()
  t.match(await host.exit('orphan'), { exitStatus: 137, pid })
  if (container) await gone(container)
  t.match(await host.delete('orphan'), { exitStatus: 137 })
  t.match(await host.delete('done'), { exitStatus: 3 })
  await host.nothingLeft()
  t.equal(host.exits.length, 2)
})

t.test('an exit that nobody acknowledged is told again, with the same id', async t => {
  const host = await RuntimeHost.open(t)
  host.acknowledges = false
  await host.run('unheard', { command: 'exit 1' })
  await host.run('deleted', { command: 'exit 2' })
  const before = [(await host.exit('unheard')).emissionId, (await host.exit('deleted')).emissionId]
  t.match(await host.delete('deleted'), { exitStatus: 2 })
  t.match(await host.list(), [{ id: 'unheard' }])
  await host.close()
  host.acknowledges = true
  host.emissions.items.length = 0
  await host.open()
  t.match(await host.list(), [{ id: 'unheard' }])
  t.same([(await host.exit('unheard')).emissionId, (await host.exit('deleted')).emissionId], before)
  await host.delete('unheard')
  await host.nothingLeft()
  await host.close()
  host.emissions.items.length = 0
  await host.open()
  t.same(host.exits, [], 'and then never again')
})

t.test('a group is still one after a restart', async t => {
  const host = await RuntimeHost.open(t)
  const change = (spec: { annotations: Record<string, string> }) => {
    spec.annotations['io.kubernetes.cri.sandbox-id'] = 'pod'
  }
  const sleeping = { command: 'exec sleep 100', change }
  for (const id of ['pause', 'one']) await host.run(id, sleeping)
  await host.close()
  await host.open()
  await host.run('two', sleeping)
  t.equal(shimsOf(host).length, 1)
  await host.destroy('pause')
  await host.close()
  await host.open()
  t.match(await host.list(), { length: 2 })
  await Promise.all([host.destroy('one'), host.destroy('two')])
  await host.nothingLeft()
})

t.test('a plugin that stops gives up what it is just making', async t => {
  const host = await RuntimeHost.open(t)
  const created = host.create('unborn', { request: hangingIn(host, 'create') }).catch((error: unknown) => error)
  await until('runc to be called', () => processesOf(host.directory).some(({ command }) => command.includes('create')))
  await host.close()
  await created
  await host.nothingLeft()
})

t.test('a shim that is silent when the plugin comes back is listed as such, and asked again', async t => {
  const host = await RuntimeHost.open(t, { reconnectMs: 300, callMs: 300 })
  const pid = await host.run('frozen', { command: 'exec sleep 100' })
  await host.close()
  const [shim] = shimsOf(host)
  if (!shim) return t.fail('there is no shim')
  signal(shim, 'SIGSTOP')
  await end(pid)
  await host.open()
  t.match(await host.list(), [{ id: 'frozen', liveness: Liveness.LIVENESS_UNRESPONSIVE }])
  signal(shim, 'SIGCONT')
  t.match(await host.exit('frozen'), { pid, exitStatus: 137 })
  await host.delete('frozen')
  await host.nothingLeft()
})

t.test('a silent shim keeps nobody waiting for the others', async t => {
  const host = await RuntimeHost.open(t, { reconnectMs: 60_000 })
  await host.run('frozen', { command: 'exec sleep 100' })
  const [shim] = shimsOf(host)
  if (!shim) return t.fail('there is no shim')
  for (const id of ['fine', 'well']) await host.run(id, { command: 'exec sleep 100' })
  await host.close()
  signal(shim, 'SIGSTOP')
  await host.open()
  const told: string[] = []
  for await (const { names, tasks } of host.listing()) {
    if (names.length > 0) t.same(names.map(({ id }) => id).sort(), ['fine', 'frozen', 'well'], 'all are announced')
    told.push(...tasks.map(({ id }) => id))
    if (told.length === 2) break
  }
  t.same(told.sort(), ['fine', 'well'], 'long before the deadline of the silent one')
  t.match(await host.taskState('fine'), { status: Status.RUNNING })
  signal(shim, 'SIGCONT')
  t.match(await host.list(), { length: 3 })
  for (const id of ['frozen', 'fine', 'well']) await host.destroy(id)
  await host.nothingLeft()
})

t.test('a bundle without its history is left alone, and does not keep the plugin from opening', async t => {
  const host = await RuntimeHost.open(t)
  await host.run('mangled', { command: 'exec sleep 100' })
  await host.run('fine', { command: 'exec sleep 100' })
  await host.close()
  rmSync(join(host.state, 'bundles', host.namespace, 'mangled', 'history.jsonl'))
  await host.open()
  t.match(await host.list(), [{ id: 'fine', liveness: Liveness.LIVENESS_ALIVE }])
  await t.rejects(host.taskState('mangled'), { code: status.NOT_FOUND })
  t.ok(host.bundles().includes('mangled'))
  await host.destroy('fine')
})

t.test('a plugin that is killed at any moment comes back to the truth, and can clean up', async t => {
  const program = await compileChild(t.testdir({}))
  const host = await RuntimeHost.open(t, {}, (...orders) => serveInChild(program, ...orders))
  const outcomes = new Set<string>()
  for (let moment = 0; moment < 12; moment++) {
    const id = `moment-${moment}`
    const life = (async () => {
      await host.run(id, { command: 'exit 3' })
      await host.exit(id)
      await host.delete(id)
    })().catch((error: unknown) => error)
    await new Promise(resolve => setTimeout(resolve, moment * 12)) // anywhere in its life: there is no event for that
    await host.crash()
    await life
    await host.open()
    const [task] = await host.list()
    outcomes.add(task ? (Status[task.init?.status ?? 0] ?? '') : 'NONE')
    // A start that is cut off may end its process: what counts is that the shim's word is told.
    const { status: now, exitStatus } = task?.init ?? {}
    if (now === Status.STOPPED) t.match(await host.exit(id), { exitStatus })
    await host.destroy(id)
    await host.nothingLeft()
  }
  t.comment(`met: ${[...outcomes].join(', ')}`)
})
