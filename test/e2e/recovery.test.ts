// A supervisor that dies at any moment and comes back: containers go on, and what happened meanwhile is told once.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { ListTasksRequest, TasksService } from '../../proto/gen/containerd/services/tasks/v1/tasks.js'
import type { EventLog } from '../harness/events.js'
import { exitsOf } from '../harness/history.js'
import type { Host } from '../harness/host.js'
import { busyboxName } from '../harness/image.js'
import { alive, gone, type ProcessEntry, processes, processesOf, signal } from '../harness/process.js'
import { purserOnly, supervisor } from '../harness/supervisor.js'
import { table } from '../harness/table.js'
import { until } from '../harness/wait.js'

const host = await supervisor(t, { nats: 'embedded' })
await host.load()

/** A detached container that runs a shell line; answers its init process. */
async function detached(id: string, script: string): Promise<ProcessEntry> {
  await host.ok('run', '-d', busyboxName, id, 'sh', '-c', script)
  const task = await taskOf(id)
  const init = alive(task?.pid ?? 0)
  if (init === undefined) throw new Error(`${id} has no process`)
  return init
}

async function taskOf(id: string) {
  const row = table(await host.ok('tasks', 'ls')).find(({ TASK }) => TASK === id)
  return row && { pid: Number(row.PID), status: row.STATUS }
}

const bundleOf = (id: string) => join(host.state, 'bundles', 'default', id)
const shimOf = (id: string) =>
  processes().find(({ command }) => command.includes(id) && command[0]?.includes('containerd-shim'))

const stopped = (id: string) => until(`${id} to stop`, async () => (await taskOf(id))?.status === 'STOPPED')

const statusOf = async (id: string) => {
  const { tasks } = await host.call(TasksService.list, ListTasksRequest.fromPartial({}))
  return tasks.find(task => task.id === id)?.exitStatus
}

async function remove(id: string): Promise<void> {
  await host.ok('tasks', 'rm', '--force', id)
  await host.ok('containers', 'rm', id)
}

/** Of every exit of this container: told once, and only Purser can be asked. */
async function toldOnce(t: Test, id: string, ...exits: { process: string; status: number }[]): Promise<void> {
  if (purserOnly === false) t.same(await exitsOf(host, id), exits)
}

for (const [word, end] of [
  ['killed', (host: Host) => host.kill()],
  ['stopped', (host: Host) => host.stop()],
] as const) {
  t.test(`a container goes on while the supervisor is ${word}, and is known again after`, async t => {
    const id = host.id('goes-on')
    const init = await detached(id, 'trap "exit 9" TERM; while :; do sleep 0.1; done')
    await end(host)
    t.equal(alive(init.pid)?.startTime, init.startTime)
    const pluginHost = host.daemon('plugin-host')?.pid
    await host.start()
    if (word === 'killed') t.equal(host.daemon('plugin-host')?.pid, pluginHost, 'with its connection to the shim')
    t.same(await taskOf(id), { pid: init.pid, status: 'RUNNING' })
    t.equal(await host.ok('tasks', 'exec', '--exec-id', 'after', id, 'echo', 'still here'), 'still here')
    await host.ok('tasks', 'kill', id)
    await stopped(id)
    t.equal(await statusOf(id), 9)
    await toldOnce(t, id, { process: 'after', status: 0 }, { process: id, status: 9 })
    await remove(id)
  })

  t.test(`an exit while the supervisor is ${word} is known after, with its status`, async t => {
    const id = host.id('exits')
    const init = await detached(id, 'sleep 3; exit 7')
    await end(host)
    await gone(init)
    await host.start()
    await stopped(id)
    t.equal(await statusOf(id), 7)
    await toldOnce(t, id, { process: id, status: 7 })
    await remove(id)
  })
}

t.test('an exit from before the end is known after, and is told once', async t => {
  const id = host.id('before')
  await host.ok('run', '-d', busyboxName, id, 'sh', '-c', 'exit 6')
  await stopped(id)
  await host.kill()
  await host.start()
  t.equal((await taskOf(id))?.status, 'STOPPED')
  t.equal(await statusOf(id), 6)
  await toldOnce(t, id, { process: id, status: 6 })
  await remove(id)
})

t.test('a paused container stays paused', async t => {
  const id = host.id('paused')
  await detached(id, 'exec sleep 60')
  await host.ok('tasks', 'pause', id)
  await host.kill()
  await host.start()
  t.equal((await taskOf(id))?.status, 'PAUSED')
  await host.ok('tasks', 'resume', id)
  t.equal((await taskOf(id))?.status, 'RUNNING')
  await remove(id)
})

t.test('a process that was added goes on too', { skip: purserOnly }, async t => {
  const id = host.id('added')
  await detached(id, 'exec sleep 60')
  await host.ok(
    'tasks',
    'exec',
    '-d',
    '--exec-id',
    'extra',
    id,
    'sh',
    '-c',
    'trap "exit 5" TERM; while :; do sleep 0.1; done',
  )
  await host.kill()
  await host.start()
  await host.ok('tasks', 'kill', '--exec-id', 'extra', id)
  await until('its exit', async () => (await exitsOf(host, id)).length > 0)
  await toldOnce(t, id, { process: 'extra', status: 5 })
  t.equal((await taskOf(id))?.status, 'RUNNING')
  await remove(id)
})

t.test('a container that is being attached to outlives the end, too', async t => {
  const id = host.id('attached')
  const running = host.ctrSpawn('run', busyboxName, id, 'sh', '-c', 'echo up; exec sleep 60')
  await running.says(/up/)
  await host.kill()
  t.not((await running.end()).code, 0, 'ctr says that its supervisor is gone')
  await host.start()
  t.equal((await taskOf(id))?.status, 'RUNNING')
  await remove(id)
})

for (const when of ['while the supervisor runs', 'while the supervisor is down'] as const)
  t.test(`a shim that is killed ${when} takes its container with it, and that is told once`, async t => {
    const id = host.id('shim')
    const init = await detached(id, 'exec sleep 60')
    const shim = shimOf(id)
    if (shim === undefined) throw new Error('there is no shim')
    if (when === 'while the supervisor is down') await host.kill()
    signal(shim, 'SIGKILL')
    await gone(shim)
    if (when === 'while the supervisor is down') await host.start()
    await gone(init)
    if (purserOnly === false) {
      await until('its exit', async () => (await exitsOf(host, id)).length > 0)
      await toldOnce(t, id, { process: id, status: 137 })
    }
    await host.ctr('tasks', 'rm', '--force', id)
    await host.ok('containers', 'rm', id)
    t.equal(await taskOf(id), undefined)
  })

t.test('everything that was stored is there again', async t => {
  const id = host.id('stored')
  await host.ok('containers', 'create', '--label', 'a=b', busyboxName, id)
  await host.ok('namespaces', 'create', 'kept', 'k=v')
  await host.ok('leases', 'create', '--id', 'kept', 'why=test')
  const state = async () =>
    [
      await host.ok('images', 'ls'),
      await host
        .ok('content', 'ls')
        .then(text => table(text).map(row => [row.DIGEST, row.SIZE, row.LABELS?.split(',').sort()])),
      await host.ok('snapshots', 'ls'),
      await host.ok('containers', 'info', id),
      await host.ok('namespaces', 'ls'),
      await host.ok('leases', 'ls'),
    ] as const
  const before = await state()
  await host.kill()
  await host.start()
  t.same(await state(), before)
  await host.ok('containers', 'rm', id)
  await host.ok('leases', 'rm', 'kept')
  await host.ok('namespaces', 'rm', 'kept')
})

/** The moments of a run at which the supervisor is killed: what has just happened. */
const moments: [string, (id: string, events: EventLog) => Promise<unknown>][] = [
  ['its snapshot is prepared', (id, events) => events.first('/snapshot/prepare', ({ event }) => event.key === id)],
  ['the container is created', (id, events) => events.first('/containers/create', ({ event }) => event.id === id)],
  ['its bundle is being made', id => until('a bundle', () => existsSync(bundleOf(id)), { intervalMs: 1 })],
  ['its shim has started', id => until('a shim', () => shimOf(id), { intervalMs: 1 })],
  ...['create', 'start', 'exit', 'delete'].map((verb): (typeof moments)[number] => [
    `/tasks/${verb} is told`,
    (id, events) => events.first(`/tasks/${verb}`, ({ event }) => event.container_id === id),
  ]),
]

// containerd 1.6 leaves shims and cgroups of which it knows nothing.
for (const [moment, comes] of moments)
  t.test(`killed when ${moment}, it leaves nothing that cannot be removed`, { skip: purserOnly }, async t => {
    const id = host.id('any')
    const events = await host.events()
    const running = host.ctrSpawn('run', '--rm', busyboxName, id, 'true')
    await comes(id, events)
    await host.kill()
    await running.end()
    await host.start()
    const removals = [
      await host.ctr('tasks', 'rm', '--force', id),
      await host.ctr('containers', 'rm', id),
      // Without a container to take it away: ctr's lease would keep it for a day.
      await host.ctr('snapshots', 'rm', id),
    ]
    const said = removals.map(({ stderr }) => stderr).join('')
    t.notOk((await host.ok('tasks', 'ls')).includes(id), `no task; ${said}`)
    t.notOk((await host.ok('containers', 'ls')).includes(id), `no container; ${said}`)
    t.match(await host.ctr('run', '--rm', busyboxName, id, 'echo', 'again'), { stdout: 'again\n', code: 0 })
    t.same(processesOf(bundleOf(id)), [])
    t.equal(shimOf(id), undefined, 'no shim')
  })

t.test('restarts add up to nothing: the same pid after five, and nothing left at the end', async t => {
  const id = host.id('five')
  const init = await detached(id, 'exec sleep 60')
  for (let time = 0; time < 5; time++) {
    await host.kill()
    await host.start()
  }
  t.same(await taskOf(id), { pid: init.pid, status: 'RUNNING' })
  await remove(id)
  await host.stop()
  const left = await host.nothingLeft()
  // containerd leaves the sockets of shims that were killed.
  t.same(purserOnly ? left.filter(line => !line.startsWith('shim socket')) : left, [])
})
