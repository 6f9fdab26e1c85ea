// Bad input through the API: the code that containerd's clients expect, and a state that stays as it was.
import { status as Code } from '@grpc/grpc-js'
import t from 'tap'
import {
  ContainersService,
  CreateContainerRequest,
  DeleteContainerRequest,
  GetContainerRequest,
  ListContainersRequest,
  UpdateContainerRequest,
} from '../../proto/gen/containerd/services/containers/v1/containers.js'
import {
  ContentService,
  DeleteContentRequest,
  InfoRequest,
  ReadContentRequest,
  WriteAction,
} from '../../proto/gen/containerd/services/content/v1/content.js'
import { ApplyRequest, DiffService } from '../../proto/gen/containerd/services/diff/v1/diff.js'
import { EventsService, ForwardRequest, PublishRequest } from '../../proto/gen/containerd/services/events/v1/events.js'
import {
  CreateImageRequest,
  GetImageRequest,
  ImagesService,
} from '../../proto/gen/containerd/services/images/v1/images.js'
import { CreateRequest, DeleteRequest, LeasesService } from '../../proto/gen/containerd/services/leases/v1/leases.js'
import {
  CreateNamespaceRequest,
  DeleteNamespaceRequest,
  NamespacesService,
} from '../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import {
  CommitSnapshotRequest,
  MountsRequest,
  PrepareSnapshotRequest,
  RemoveSnapshotRequest,
  SnapshotsService,
} from '../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import {
  CreateTaskRequest,
  ExecProcessRequest,
  GetRequest,
  KillRequest,
  TasksService,
} from '../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { Upload, writeBlob } from '../harness/content.js'
import { busyboxName, digestOf } from '../harness/image.js'
import { supervisor } from '../harness/supervisor.js'

const host = await supervisor(t)
await host.load()
const { rpc } = host

const failsWith = async (call: Promise<unknown>) => {
  try {
    await call
    return 'OK'
  } catch (error) {
    if (error instanceof Error && 'code' in error && typeof error.code === 'number') return Code[error.code]
    throw error
  }
}

/** What bad input must not change. */
const state = async () =>
  Promise.all([
    host.ok('containers', 'ls'),
    host.ok('tasks', 'ls'),
    host.ok('images', 'ls'),
    host.ok('snapshots', 'ls'),
    host.ok('leases', 'ls'),
    host.ok('namespaces', 'ls'),
    host.ok('content', 'active'),
  ])

const unknownDigest = digestOf(Buffer.from('nobody has this'))
const long = 'x'.repeat(5000)
const container = (fields: Parameters<typeof CreateContainerRequest.fromPartial>[0]['container']) =>
  CreateContainerRequest.fromPartial({
    container: {
      runtime: { name: 'io.containerd.runc.v2' },
      spec: { typeUrl: 'x', value: Buffer.from('{}') },
      ...fields,
    },
  })
const target = { mediaType: 'application/vnd.oci.image.manifest.v1+json', digest: unknownDigest, size: 1n }
const overlay = { snapshotter: 'overlayfs' }

const refusals: [string, string, () => Promise<unknown>][] = [
  [
    'a call without a namespace',
    'FAILED_PRECONDITION',
    () => rpc.call(ContainersService.list, ListContainersRequest.fromPartial({}), { namespace: '' }),
  ],
  [
    'a namespace that is none',
    'INVALID_ARGUMENT',
    () => rpc.call(ContainersService.list, ListContainersRequest.fromPartial({}), { namespace: '../up' }),
  ],
  [
    'an unknown container',
    'NOT_FOUND',
    () => rpc.call(ContainersService.get, GetContainerRequest.fromPartial({ id: 'nobody' })),
  ],
  [
    'removal of an unknown container',
    'NOT_FOUND',
    () => rpc.call(ContainersService.delete, DeleteContainerRequest.fromPartial({ id: 'nobody' })),
  ],
  [
    'change of an unknown container',
    'NOT_FOUND',
    () =>
      rpc.call(
        ContainersService.update,
        UpdateContainerRequest.fromPartial({ container: { id: 'nobody', labels: { a: 'b' } }, updateMask: ['labels'] }),
      ),
  ],
  ['a container without an id', 'INVALID_ARGUMENT', () => rpc.call(ContainersService.create, container({ id: '' }))],
  ['an id with a slash', 'INVALID_ARGUMENT', () => rpc.call(ContainersService.create, container({ id: 'a/b' }))],
  ['an id that climbs', 'INVALID_ARGUMENT', () => rpc.call(ContainersService.create, container({ id: '..' }))],
  [
    'an id of 77 letters',
    'INVALID_ARGUMENT',
    () => rpc.call(ContainersService.create, container({ id: 'x'.repeat(77) })),
  ],
  [
    'a label of 5000 letters',
    'INVALID_ARGUMENT',
    () => rpc.call(ContainersService.create, container({ id: 'l', labels: { k: long } })),
  ],
  [
    'a container without a runtime',
    'INVALID_ARGUMENT',
    () => rpc.call(ContainersService.create, container({ id: 'r', runtime: { name: '' } })),
  ],
  [
    'a filter that ends too early',
    'INVALID_ARGUMENT',
    () => rpc.call(ContainersService.list, ListContainersRequest.fromPartial({ filters: ['id=='] })),
  ],
  [
    'an unknown image',
    'NOT_FOUND',
    () => rpc.call(ImagesService.get, GetImageRequest.fromPartial({ name: 'nobody:1' })),
  ],
  [
    'an image without a name',
    'INVALID_ARGUMENT',
    () => rpc.call(ImagesService.create, CreateImageRequest.fromPartial({ image: { target } })),
  ],
  [
    'an image with a digest that is none',
    'INVALID_ARGUMENT',
    () =>
      rpc.call(
        ImagesService.create,
        CreateImageRequest.fromPartial({ image: { name: 'x:1', target: { ...target, digest: 'sha256:short' } } }),
      ),
  ],
  [
    'an image that is there',
    'ALREADY_EXISTS',
    () => rpc.call(ImagesService.create, CreateImageRequest.fromPartial({ image: { name: busyboxName, target } })),
  ],
  [
    'a digest that is none',
    'INVALID_ARGUMENT',
    () => rpc.call(ContentService.info, InfoRequest.fromPartial({ digest: 'sha256:zz' })),
  ],
  [
    'a digest that climbs',
    'INVALID_ARGUMENT',
    () => rpc.call(ContentService.info, InfoRequest.fromPartial({ digest: 'sha256:../../../../etc/passwd' })),
  ],
  [
    'an unknown blob',
    'NOT_FOUND',
    () => rpc.call(ContentService.info, InfoRequest.fromPartial({ digest: unknownDigest })),
  ],
  [
    'reading an unknown blob',
    'NOT_FOUND',
    () => rpc.collect(ContentService.read, ReadContentRequest.fromPartial({ digest: unknownDigest })),
  ],
  [
    'removal of an unknown blob',
    'NOT_FOUND',
    () => rpc.call(ContentService.delete, DeleteContentRequest.fromPartial({ digest: unknownDigest })),
  ],
  ['an unknown upload', 'NOT_FOUND', () => rpc.call(ContentService.status, { ref: 'nobody' })],
  ['giving up an unknown upload', 'NOT_FOUND', () => rpc.call(ContentService.abort, { ref: 'nobody' })],
  [
    'an upload without a reference',
    'INVALID_ARGUMENT',
    () => new Upload(host).send({ action: WriteAction.WRITE, data: Buffer.from('x') }),
  ],
  [
    'an unknown snapshotter',
    'INVALID_ARGUMENT',
    () => rpc.call(SnapshotsService.prepare, PrepareSnapshotRequest.fromPartial({ snapshotter: 'nobody', key: 'k' })),
  ],
  [
    'an unknown parent',
    'NOT_FOUND',
    () =>
      rpc.call(
        SnapshotsService.prepare,
        PrepareSnapshotRequest.fromPartial({ ...overlay, key: 'k', parent: 'nobody' }),
      ),
  ],
  [
    'mounts of an unknown snapshot',
    'NOT_FOUND',
    () => rpc.call(SnapshotsService.mounts, MountsRequest.fromPartial({ ...overlay, key: 'nobody' })),
  ],
  [
    'commit of an unknown snapshot',
    'NOT_FOUND',
    () =>
      rpc.call(SnapshotsService.commit, CommitSnapshotRequest.fromPartial({ ...overlay, key: 'nobody', name: 'n' })),
  ],
  [
    'removal of an unknown snapshot',
    'NOT_FOUND',
    () => rpc.call(SnapshotsService.remove, RemoveSnapshotRequest.fromPartial({ ...overlay, key: 'nobody' })),
  ],
  [
    'a task of an unknown container',
    'NOT_FOUND',
    () => rpc.call(TasksService.create, CreateTaskRequest.fromPartial({ containerId: 'nobody' })),
  ],
  ['an unknown task', 'NOT_FOUND', () => rpc.call(TasksService.get, GetRequest.fromPartial({ containerId: 'nobody' }))],
  [
    'a signal to an unknown task',
    'NOT_FOUND',
    () => rpc.call(TasksService.kill, KillRequest.fromPartial({ containerId: 'nobody', signal: 9 })),
  ],
  [
    'a process in an unknown task',
    'NOT_FOUND',
    () => rpc.call(TasksService.exec, ExecProcessRequest.fromPartial({ containerId: 'nobody', execId: 'e' })),
  ],
  ['an unknown lease', 'NOT_FOUND', () => rpc.call(LeasesService.delete, DeleteRequest.fromPartial({ id: 'nobody' }))],
  [
    'a namespace name that is none',
    'INVALID_ARGUMENT',
    () => rpc.call(NamespacesService.create, CreateNamespaceRequest.fromPartial({ namespace: { name: 'a b' } })),
  ],
  [
    'removal of an unknown namespace',
    'NOT_FOUND',
    () => rpc.call(NamespacesService.delete, DeleteNamespaceRequest.fromPartial({ name: 'nobody' })),
  ],
  [
    'an event without a topic',
    'INVALID_ARGUMENT',
    () => rpc.call(EventsService.publish, PublishRequest.fromPartial({ topic: '' })),
  ],
  [
    'a topic without a slash',
    'INVALID_ARGUMENT',
    () => rpc.call(EventsService.publish, PublishRequest.fromPartial({ topic: 'tasks' })),
  ],
  [
    'an envelope without a time',
    'INVALID_ARGUMENT',
    () =>
      rpc.call(EventsService.forward, ForwardRequest.fromPartial({ envelope: { namespace: 'default', topic: '/x' } })),
  ],
  [
    'an unknown blob as a layer',
    'NOT_FOUND',
    () =>
      rpc.call(
        DiffService.apply,
        ApplyRequest.fromPartial({ diff: { ...target, mediaType: 'application/vnd.oci.image.layer.v1.tar' } }),
      ),
  ],
]

t.test('what cannot be is refused with containerd’s code, and changes nothing', async t => {
  const before = await state()
  for (const [title, code, call] of refusals) t.equal(await failsWith(call()), code, title)
  t.same(await state(), before)
})

t.test('what is there already is refused, and stays as it was', async t => {
  const id = host.id('there')
  await rpc.call(ContainersService.create, container({ id, labels: { first: 'yes' } }))
  t.equal(
    await failsWith(rpc.call(ContainersService.create, container({ id, labels: { first: 'no' } }))),
    'ALREADY_EXISTS',
  )
  t.match(await rpc.call(ContainersService.get, { id }), { container: { labels: { first: 'yes' } } })
  await rpc.call(ContainersService.delete, { id })
  const prepare = PrepareSnapshotRequest.fromPartial({
    ...overlay,
    key: 'there',
    labels: { 'containerd.io/gc.root': 'yes' },
  })
  await rpc.call(SnapshotsService.prepare, prepare)
  t.equal(await failsWith(rpc.call(SnapshotsService.prepare, prepare)), 'ALREADY_EXISTS')
  await rpc.call(SnapshotsService.remove, RemoveSnapshotRequest.fromPartial({ ...overlay, key: 'there' }))
  await rpc.call(LeasesService.create, CreateRequest.fromPartial({ id: 'there' }))
  t.equal(await failsWith(rpc.call(LeasesService.create, CreateRequest.fromPartial({ id: 'there' }))), 'ALREADY_EXISTS')
  await rpc.call(LeasesService.delete, DeleteRequest.fromPartial({ id: 'there' }))
})

t.test('a task of a runtime that is not installed fails and leaves no task', async t => {
  const id = host.id('runtime')
  await rpc.call(ContainersService.create, container({ id, runtime: { name: 'io.containerd.nobody.v9' } }))
  t.not(await failsWith(rpc.call(TasksService.create, CreateTaskRequest.fromPartial({ containerId: id }))), 'OK')
  t.equal(await failsWith(rpc.call(TasksService.get, GetRequest.fromPartial({ containerId: id }))), 'NOT_FOUND')
  await rpc.call(ContainersService.delete, { id })
})

t.test('a blob that is not what was promised is refused', async t => {
  const data = Buffer.from('the real bytes')
  const commit = { action: WriteAction.COMMIT, data }
  const wrongDigest = new Upload(host).send({ ...commit, ref: 'wrong-digest', expected: unknownDigest })
  t.equal(await failsWith(wrongDigest), 'FAILED_PRECONDITION')
  const wrongSize = new Upload(host).send({ ...commit, ref: 'wrong-size', total: 5n, expected: digestOf(data) })
  t.equal(await failsWith(wrongSize), 'FAILED_PRECONDITION')
  t.equal(await failsWith(rpc.call(ContentService.info, { digest: digestOf(data) })), 'NOT_FOUND')
  t.equal(await failsWith(rpc.call(ContentService.info, { digest: unknownDigest })), 'NOT_FOUND')
  for (const ref of ['wrong-digest', 'wrong-size']) await rpc.call(ContentService.abort, { ref }).catch(() => undefined)
})

t.test('a blob that is there is not written again', async t => {
  const data = Buffer.from('written once')
  const expected = await writeBlob(host, data)
  const again = new Upload(host).send({ action: WriteAction.WRITE, ref: 'again', expected, total: BigInt(data.length) })
  t.equal(await failsWith(again), 'ALREADY_EXISTS')
  t.equal(
    await failsWith(
      rpc.collect(ContentService.read, ReadContentRequest.fromPartial({ digest: expected, offset: 99n })),
    ),
    'OUT_OF_RANGE',
  )
  await rpc.call(ContentService.delete, { digest: expected })
})

t.test('one reference has one writer; another is told so', async t => {
  const first = new Upload(host)
  await first.send({ action: WriteAction.WRITE, ref: 'shared', data: Buffer.from('first ') })
  const second = new Upload(host).send({ action: WriteAction.WRITE, ref: 'shared', data: Buffer.from('second') })
  t.equal(await failsWith(second), 'UNAVAILABLE')
  const gap = first.send({ action: WriteAction.WRITE, ref: 'shared', offset: 99n, data: Buffer.from('gap') })
  t.equal(await failsWith(gap), 'OUT_OF_RANGE')
  await rpc.call(ContentService.abort, { ref: 'shared' })
})

t.test('an upload whose client dies is resumed where it was', async t => {
  const [head, tail] = [Buffer.alloc(100_000, 'a'), Buffer.alloc(50_000, 'b')]
  const whole = Buffer.concat([head, tail])
  const dying = new Upload(host)
  await dying.send({ action: WriteAction.WRITE, ref: 'resumed', data: head })
  dying.hangUp()
  const { status } = await rpc.call(ContentService.status, { ref: 'resumed' })
  t.equal(status?.offset, 100_000n)
  const upload = new Upload(host)
  const begun = await upload.send({ action: WriteAction.STAT, ref: 'resumed' })
  t.equal(begun.offset, 100_000n)
  const expected = digestOf(whole)
  const commit = { action: WriteAction.COMMIT, offset: begun.offset, data: tail, total: 150_000n, expected }
  t.equal((await upload.send({ ...commit, labels: { 'containerd.io/gc.root': 'yes' } })).digest, expected)
  upload.end()
  const chunks = await rpc.collect(ContentService.read, ReadContentRequest.fromPartial({ digest: expected }))
  t.ok(Buffer.concat(chunks.map(({ data }) => data)).equals(whole))
  await rpc.call(ContentService.delete, { digest: expected })
})

t.test('clients that hang up in the middle of a stream are no burden', async t => {
  const bytes = Buffer.alloc(8 << 20, 7)
  const digest = await writeBlob(host, bytes)
  for (let time = 0; time < 20; time++) {
    const stream = rpc.stream(ContentService.read, ReadContentRequest.fromPartial({ digest }))
    stream.on('error', () => undefined)
    await new Promise(resolve => stream.once('data', resolve))
    stream.cancel()
  }
  const chunks = await rpc.collect(ContentService.read, ReadContentRequest.fromPartial({ digest }))
  t.equal(
    chunks.reduce((sum, { data }) => sum + data.length, 0),
    bytes.length,
  )
  await rpc.call(ContentService.delete, { digest })
})

t.test('a layer that is no archive leaves no snapshot', async t => {
  const digest = await writeBlob(
    host,
    Buffer.from('this is no tar archive, but it is long enough to look at'.repeat(40)),
  )
  const key = 'garbage'
  const { mounts } = await rpc.call(
    SnapshotsService.prepare,
    PrepareSnapshotRequest.fromPartial({ ...overlay, key, labels: { 'containerd.io/gc.root': 'yes' } }),
  )
  const diff = { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest, size: 2240n }
  t.not(await failsWith(rpc.call(DiffService.apply, ApplyRequest.fromPartial({ diff, mounts }))), 'OK')
  await rpc.call(SnapshotsService.remove, RemoveSnapshotRequest.fromPartial({ ...overlay, key }))
  await rpc.call(ContentService.delete, { digest })
})

t.test('bytes that are no message, methods that are none, and messages beyond 16 MiB are refused', async t => {
  const raw = (path: string, bytes: Buffer) =>
    rpc.call(
      {
        path,
        requestStream: false,
        responseStream: false,
        requestSerialize: (value: Buffer) => value,
        responseDeserialize: (value: Buffer) => value,
      },
      bytes,
    )
  const get = ContainersService.get.path
  t.equal(await failsWith(raw(get, Buffer.from([0x0a, 0xff, 0xff]))), 'INTERNAL')
  t.equal(
    await failsWith(raw('/containerd.services.containers.v1.Containers/Nothing', Buffer.alloc(0))),
    'UNIMPLEMENTED',
  )
  t.equal(await failsWith(raw('/no.such.Service/Get', Buffer.alloc(0))), 'UNIMPLEMENTED')
  t.equal(await failsWith(raw(get, Buffer.alloc(17 << 20))), 'RESOURCE_EXHAUSTED')
  t.ok(await host.answers())
})
