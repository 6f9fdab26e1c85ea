// Tasks written out as content and restored from it: with a stand-in shim, since few kernels let criu dump, and what
// runc's shim is told where this one does not.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { status as Code } from '@grpc/grpc-js'
import t from 'tap'
import { CheckpointOptions } from '../../proto/gen/containerd/runc/v1/options.js'
import {
  ContainersService,
  CreateContainerRequest,
} from '../../proto/gen/containerd/services/containers/v1/containers.js'
import { ContentService } from '../../proto/gen/containerd/services/content/v1/content.js'
import { CreateRequest, LeasesService } from '../../proto/gen/containerd/services/leases/v1/leases.js'
import {
  CheckpointTaskRequest,
  CreateTaskRequest,
  TasksService,
} from '../../proto/gen/containerd/services/tasks/v1/tasks.js'
import type { Descriptor } from '../../proto/gen/containerd/types/descriptor.js'
import { Status } from '../../proto/gen/containerd/v1/types/task.js'
import { Any } from '../../proto/gen/google/protobuf/any.js'
import { alive } from '../harness/process.js'
import { supervisor } from '../harness/supervisor.js'
import { until } from '../harness/wait.js'
import { shellSpec } from '../integration/runtime/spec.js'
import { compileStandIn } from '../integration/runtime/standIn.js'

const checkpointType = 'application/vnd.containerd.container.criu.checkpoint.criu.tar'
const configType = 'application/vnd.containerd.container.checkpoint.config.v1+proto'

const host = await supervisor(t)
const shim = (await compileStandIn(t.testdir({})))(3)
const under = (lease: string) => ({ metadata: { 'containerd-lease': lease } })

const bundle = (id: string) => join(host.state, 'bundles', host.namespace, id)
const images = () => {
  const root = join(host.state, 'checkpoints', host.namespace)
  return existsSync(root) ? readdirSync(root) : []
}
const statusOf = async (containerId: string) =>
  (await host.call(TasksService.get, { containerId, execId: '' })).process?.status

/** A task that runs in the stand-in. */
async function running(name: string): Promise<string> {
  const id = host.id(name)
  const spec = shellSpec({ namespace: host.namespace, id, command: 'true', rootfs: 'rootfs' })
  const typeUrl = 'types.containerd.io/opencontainers/runtime-spec/1/Spec'
  const container = { id, runtime: { name: shim }, spec: { typeUrl, value: spec } }
  await host.call(ContainersService.create, CreateContainerRequest.fromPartial({ container }))
  await host.call(TasksService.create, CreateTaskRequest.fromPartial({ containerId: id }))
  await host.call(TasksService.start, { containerId: id, execId: '' })
  return id
}

async function remove(id: string): Promise<void> {
  if ((await statusOf(id)) !== Status.STOPPED)
    await host.call(TasksService.kill, { containerId: id, execId: '', signal: 9, all: false })
  await host.call(TasksService.wait, { containerId: id, execId: '' })
  await host.call(TasksService.delete, { containerId: id })
  await host.call(ContainersService.delete, { id })
}

const checkpoint = (containerId: string, request: Partial<CheckpointTaskRequest> = {}, settings = {}) =>
  host.call(TasksService.checkpoint, CheckpointTaskRequest.fromPartial({ containerId, ...request }), settings)

const intoDirectory = (imagePath: string): Any => ({
  typeUrl: 'containerd.runc.v1.CheckpointOptions',
  value: Buffer.from(CheckpointOptions.encode(CheckpointOptions.create({ imagePath })).finish()),
})

async function bytesOf({ digest }: Descriptor): Promise<Buffer> {
  const parts = await host.rpc.collect(
    ContentService.read,
    { digest, offset: 0n, size: 0n },
    { namespace: host.namespace },
  )
  return Buffer.concat(parts.map(({ data }) => data))
}

t.test('a checkpoint is content that a task is restored from', async t => {
  const id = await running('written')
  const events = await host.events()
  await host.call(LeasesService.create, CreateRequest.fromPartial({ id: 'kept' }))
  const { pid } = (await host.call(TasksService.get, { containerId: id, execId: '' })).process ?? { pid: 0 }
  const { descriptors } = await checkpoint(id, {}, under('kept'))
  t.match(descriptors, [{ mediaType: checkpointType }, { mediaType: configType }])
  const [image, config] = descriptors
  if (!image || !config) throw new Error('there are no descriptors')
  const tar = await bytesOf(image)
  t.equal(BigInt(tar.length), image.size)
  t.equal(String(execFileSync('tar', ['-xOf-', 'pages-1.img'], { input: tar })), `the memory of ${pid}`)
  t.match(JSON.parse(String(Any.decode(await bytesOf(config)).value)), { process: {} }, 'the spec lies beside it')
  t.equal(await statusOf(id), Status.RUNNING)
  const { resources } = await host.call(LeasesService.listResources, { id: 'kept' })
  t.same(new Set(resources.map(({ id }) => id)), new Set([image.digest, config.digest]))
  await until('the event', () => events.topics().includes('/tasks/checkpointed'))
  t.same(images(), [])

  await host.call(TasksService.kill, { containerId: id, execId: '', signal: 9, all: false })
  await host.call(TasksService.wait, { containerId: id, execId: '' })
  await host.call(TasksService.delete, { containerId: id })
  const restore = { containerId: id, checkpoint: image }
  t.equal((await host.call(TasksService.create, CreateTaskRequest.fromPartial(restore))).pid, 0)
  await host.kill()
  await host.start()
  t.same(images(), [id], 'what the start will read outlives the supervisor')
  const started = await host.call(TasksService.start, { containerId: id, execId: '' })
  t.ok(alive(started.pid), 'it has a process from now on')
  t.equal(readFileSync(join(bundle(id), 'restored'), 'utf8'), `the memory of ${pid}`)
  t.same(images(), [])
  await remove(id)
})

t.test('a checkpoint that ends its task is answered before the task can go', async t => {
  const id = await running('ends')
  writeFileSync(join(bundle(id), 'exits'), '')
  t.equal((await checkpoint(id)).descriptors.length, 2)
  await until('its end', async () => (await statusOf(id)) === Status.STOPPED)
  await t.rejects(checkpoint(id), { code: Code.FAILED_PRECONDITION, details: /it is stopped/ })
  await remove(id)
})

t.test('a directory of the client’s takes the image, and no content is made', async t => {
  const id = await running('directory')
  const directory = join(host.state, 'image')
  mkdirSync(directory)
  t.same(await checkpoint(id, { options: intoDirectory(directory) }), { descriptors: [] })
  t.same(readdirSync(directory), ['pages-1.img'])
  rmSync(directory, { recursive: true })
  await t.rejects(checkpoint(id, { options: intoDirectory('image') }), { code: Code.INVALID_ARGUMENT })
  await t.rejects(checkpoint(id, { options: { typeUrl: 'nonsense', value: Buffer.alloc(0) } }), {
    code: Code.INVALID_ARGUMENT,
  })
  await t.rejects(checkpoint(id, { parentCheckpoint: 'nonsense' }), { code: Code.INVALID_ARGUMENT })
  await t.rejects(checkpoint(id, { parentCheckpoint: `sha256:${'0'.repeat(64)}` }), { code: Code.NOT_FOUND })
  await t.rejects(checkpoint(id, {}, under('nobody')), { code: Code.NOT_FOUND })
  await remove(id)
})

t.test('a checkpoint that fails leaves the task running', async t => {
  const id = await running('fails')
  writeFileSync(join(bundle(id), 'refuses'), '')
  await t.rejects(checkpoint(id), { code: Code.INTERNAL, details: /criu failed/ })
  t.equal(await statusOf(id), Status.RUNNING)
  t.same(images(), [])
  rmSync(join(bundle(id), 'refuses'))
  t.equal((await checkpoint(id)).descriptors.length, 2, 'it was not left frozen')
  await remove(id)
})

t.test('a checkpoint that a crash cut short has failed, and its task goes on', async t => {
  const id = await running('cut')
  writeFileSync(join(bundle(id), 'hangs'), '')
  const cut = t.rejects(checkpoint(id))
  await until('the checkpoint to begin', () => images().includes(id))
  await host.kill()
  await cut
  await host.start()
  rmSync(join(bundle(id), 'hangs'))
  t.equal((await checkpoint(id)).descriptors.length, 2, 'it waits for what recovery finds, and it was not left frozen')
  t.same(images(), [])
  await remove(id)
})

t.test('a task is restored only from a checkpoint that is there', async t => {
  const id = await running('restored')
  await host.call(TasksService.kill, { containerId: id, execId: '', signal: 9, all: false })
  await host.call(TasksService.wait, { containerId: id, execId: '' })
  await host.call(TasksService.delete, { containerId: id })
  const from = (mediaType: string, digest: string) =>
    host.call(
      TasksService.create,
      CreateTaskRequest.fromPartial({ containerId: id, checkpoint: { mediaType, digest } }),
    )
  const digest = `sha256:${'0'.repeat(64)}`
  await t.rejects(from('text/plain', digest), { code: Code.INVALID_ARGUMENT, details: /unsupported checkpoint type/ })
  await t.rejects(from(checkpointType, digest), { code: Code.NOT_FOUND })
  await host.call(ContainersService.delete, { id })
})

t.test('where criu cannot, the client hears what to do, and the task goes on', { skip: criuCan() }, async t => {
  const image = await host.load()
  const id = host.id('runc')
  await host.ok('run', '-d', image, id, 'sleep', '60')
  await t.rejects(checkpoint(id), { code: Code.FAILED_PRECONDITION, details: /criu.*(install|boot)/ })
  t.equal(await statusOf(id), Status.RUNNING)
  t.same(images(), [])
  await host.ok('tasks', 'rm', '--force', id)
  await host.ok('containers', 'rm', id)
})

t.test('where criu can, a container goes on where it was', { skip: !criuCan() }, async t => {
  const image = await host.load()
  const id = host.id('runc')
  await host.ok('run', '-d', image, id, 'sh', '-c', 'n=0; while :; do n=$((n+1)); echo $n > /count; sleep 0.1; done')
  const [written] = (await checkpoint(id)).descriptors
  t.equal(written?.mediaType, checkpointType)
  t.equal(await statusOf(id), Status.RUNNING)
  await host.ok('tasks', 'rm', '--force', id)
  await host.ok('containers', 'rm', id)
})

function criuCan(): boolean {
  try {
    execFileSync('criu', ['check'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

t.test('nothing of all this is left', async t => {
  await host.stop()
  t.same(await host.nothingLeft(), [])
})
