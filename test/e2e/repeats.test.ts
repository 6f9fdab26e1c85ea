// Requests that bear an id, sent again: side by side, later, and to a supervisor that was killed meanwhile.
import t from 'tap'
import { Code } from '../../plugins/kit/errors.js'
import {
  type Container,
  ContainersService as Containers,
} from '../../proto/gen/containerd/services/containers/v1/containers.js'
import {
  PrepareSnapshotRequest,
  SnapshotsService as Snapshots,
} from '../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import {
  CreateTaskRequest,
  KillRequest,
  TasksService as Tasks,
} from '../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { Status } from '../../proto/gen/containerd/v1/types/task.js'
import { busyboxName } from '../harness/image.js'
import { processes } from '../harness/process.js'
import type { UnaryMethod } from '../harness/rpc.js'
import { purser, purserOnly } from '../harness/supervisor.js'
import { until } from '../harness/wait.js'

const timeoutMs = 60_000
const host = await purser(t)
await host.load()

/** A container to copy: what `ctr` makes of an image, but for its task. */
const pattern = host.id('pattern')
await host.ok('containers', 'create', busyboxName, pattern, 'sleep', '1000')
const { container: model } = await host.call(Containers.get, { id: pattern })
if (!model) throw new Error('ctr made no container')

/** Sends a request twice, or as often as wished, at once or one after the other. */
function once<Request, Response>(method: UnaryMethod<Request, Response>, request: Request, requestId: string) {
  return host.call(method, request, { metadata: { 'purser-request-id': requestId }, timeoutMs })
}

const copyOf = (id: string): Container => ({ ...model, id, snapshotKey: id, spec: specFor(id) })

/** With a cgroup of its own; it is the one thing in ctr's spec that names the container. */
function specFor(id: string): Container['spec'] {
  const { typeUrl = '', value = Buffer.alloc(0) } = model?.spec ?? {}
  return { typeUrl, value: Buffer.from(value.toString().replaceAll(pattern, id)) }
}

async function parentOfModel(): Promise<string> {
  const { info } = await host.call(Snapshots.stat, { snapshotter: 'overlayfs', key: pattern })
  return info?.parent ?? ''
}

const shimsOf = (id: string) =>
  processes().filter(({ command }) => command.includes(id) && command[0]?.includes('shim'))

t.test('every command of a container’s life, sent again, is answered as before', { skip: purserOnly }, async t => {
  const id = host.id('life')
  // Held by its label: the container's removal may have it collected before it is asked for.
  const labels = { 'containerd.io/gc.root': 'yes' }
  const parent = await parentOfModel()
  const prepare = PrepareSnapshotRequest.create({ snapshotter: 'overlayfs', key: id, parent, labels })
  const steps: (() => Promise<unknown>)[] = []
  const step = async <Request, Response>(method: UnaryMethod<Request, Response>, request: Request) => {
    const requestId = `${id}-${steps.length}`
    const send = () => once(method, request, requestId)
    steps.push(send)
    const answer = await send()
    t.same(await send(), answer, `${method.path}, at once`)
    return answer
  }
  const { mounts: rootfs } = await step(Snapshots.prepare, prepare)
  await step(Containers.create, { container: copyOf(id) })
  const { pid } = await step(Tasks.create, CreateTaskRequest.create({ containerId: id, rootfs }))
  t.same(await step(Tasks.start, { containerId: id, execId: '' }), { pid })

  const answers = await Promise.all(steps.map(send => send()))
  await host.kill()
  await host.start()
  t.same(await Promise.all(steps.map(send => send())), answers, 'after a restart')
  t.equal(shimsOf(id).length, 1)
  const { process } = await host.call(Tasks.get, { containerId: id, execId: '' })
  t.match(process, { pid, status: Status.RUNNING })

  await step(Tasks.kill, KillRequest.create({ containerId: id, signal: 9 }))
  await host.call(Tasks.wait, { containerId: id, execId: '' }, { timeoutMs })
  t.match(await step(Tasks.delete, { containerId: id }), { pid, exitStatus: 137 })
  await step(Containers.delete, { id })
  await step(Snapshots.remove, { snapshotter: 'overlayfs', key: id })
  await host.kill()
  await host.start()
  await t.resolves(Promise.all(steps.map(send => send())), 'all of it again, when nothing is left')
  await t.rejects(host.call(Containers.get, { id }), { code: Code.NOT_FOUND })
  t.same(shimsOf(id), [])
})

t.test('of many repeats at once one is carried out', { skip: purserOnly }, async t => {
  const id = host.id('many')
  const key = PrepareSnapshotRequest.create({ snapshotter: 'overlayfs', key: id, parent: await parentOfModel() })
  const many = async <Request, Response>(method: UnaryMethod<Request, Response>, request: Request) => {
    const requestId = `${id}${method.path}`
    const [first, ...others] = await Promise.all(Array.from({ length: 8 }, () => once(method, request, requestId)))
    for (const other of others) t.same(other, first, method.path)
    return first
  }
  const rootfs = (await many(Snapshots.prepare, key))?.mounts ?? []
  await many(Containers.create, { container: copyOf(id) })
  await many(Tasks.create, CreateTaskRequest.create({ containerId: id, rootfs }))
  await many(Tasks.start, { containerId: id, execId: '' })
  t.equal(shimsOf(id).length, 1)
  await many(Tasks.kill, KillRequest.create({ containerId: id, signal: 9 }))
  await host.call(Tasks.wait, { containerId: id, execId: '' }, { timeoutMs })
  await many(Tasks.delete, { containerId: id })
})

t.test('what a killed supervisor left undone or unsaid, a repeat completes', { skip: purserOnly }, async t => {
  const id = host.id('cut')
  const { mounts: rootfs } = await host.call(Snapshots.prepare, {
    ...PrepareSnapshotRequest.create({ snapshotter: 'overlayfs', key: id, parent: await parentOfModel() }),
  })
  await host.call(Containers.create, { container: copyOf(id) })
  const create = () => once(Tasks.create, CreateTaskRequest.create({ containerId: id, rootfs }), `${id}-create`)
  const cut = create()
  cut.catch(() => {})
  await until('its shim', () => shimsOf(id).length > 0, { timeoutMs })
  await host.kill()
  await host.start()
  const { pid } = await create()
  t.same(await create(), { containerId: id, pid })
  t.match((await host.call(Tasks.get, { containerId: id, execId: '' })).process, { pid, status: Status.CREATED })
  await until('one shim', () => shimsOf(id).length === 1, { timeoutMs })

  await host.call(Tasks.start, { containerId: id, execId: '' })
  await host.call(Tasks.kill, KillRequest.create({ containerId: id, signal: 9 }))
  await host.call(Tasks.wait, { containerId: id, execId: '' }, { timeoutMs })
  const remove = () => once(Tasks.delete, { containerId: id }, `${id}-delete`)
  remove().catch(() => {})
  await until('the deletion to begin', () => shimsOf(id).length === 0, { timeoutMs })
  await host.kill()
  await host.start()
  t.match(await remove(), { pid, exitStatus: 137 })
  t.match(await remove(), { pid, exitStatus: 137 })
})

t.test('nothing is left behind', { skip: purserOnly }, async t => {
  const { containers } = await host.call(Containers.list, { filters: [] })
  for (const { id } of containers) await host.call(Containers.delete, { id })
  await t.resolves(
    until('every shim to end', () => !host.leftovers().some(line => line.includes('shim')), { timeoutMs }),
  )
})
