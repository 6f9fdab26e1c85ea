// The services of records, as a client of containerd meets them: containers, images, namespaces, leases.
import { randomBytes } from 'node:crypto'
import t from 'tap'
import { Code } from '../../../plugins/kit/errors.js'
import {
  Container,
  ContainersService as Containers,
} from '../../../proto/gen/containerd/services/containers/v1/containers.js'
import { Image, ImagesService as Images } from '../../../proto/gen/containerd/services/images/v1/images.js'
import { LeasesService as Leases } from '../../../proto/gen/containerd/services/leases/v1/leases.js'
import { NamespacesService as Namespaces } from '../../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import { containerStream, taskStream } from '../../../services/supervisor/domain/streams.js'
import { served } from './served.js'

const digest = `sha256:${'a'.repeat(64)}`
const specUrl = 'types.containerd.io/opencontainers/runtime-spec/1/Spec'
const spec = { typeUrl: specUrl, value: Buffer.from('{"ociVersion":"1.0.2"}') }
const goZero = { seconds: -62_135_596_800n, nanos: 0 }

const redis = (change: Partial<Container> = {}): Container => ({
  ...Container.create({
    id: 'redis',
    image: 'docker.io/library/redis:7',
    snapshotter: 'overlayfs',
    snapshotKey: 'redis',
  }),
  labels: { app: 'web', empty: '' },
  runtime: {
    name: 'io.containerd.runc.v2',
    options: { typeUrl: 'containerd.runc.v1.Options', value: Buffer.from([8, 1]) },
  },
  spec,
  createdAt: goZero,
  updatedAt: goZero,
  extensions: { 'cri/meta': { typeUrl: 'meta', value: randomBytes(300) } },
  ...change,
})

t.test('a container comes back as it was created, with times of the server', async t => {
  const { rpc, reads } = await served(t)
  const sent = redis()
  const { container } = await rpc.call(Containers.create, { container: sent })
  t.ok(container)
  t.match(container, {
    ...sent,
    labels: { app: 'web' },
    createdAt: { seconds: BigInt },
    updatedAt: container?.createdAt,
  })
  t.ok(container?.createdAt && container.createdAt.seconds > 1_700_000_000n, 'the client’s zero time is not believed')
  t.same((await rpc.call(Containers.get, { id: 'redis' })).container, container)
  t.same(reads, [], 'what was just written is not read from the disk again')
})

t.test('what containerd refuses of a container is refused in its words', async t => {
  const { rpc } = await served(t)
  const refused: [Partial<Container>, RegExp][] = [
    [{ id: '' }, /^create container failed validation: container\.ID: identifier must not be empty: invalid argument$/],
    [{ id: '../x' }, /container\.ID: identifier "\.\.\/x" must match .*: invalid argument$/],
    [{ id: 'x'.repeat(77) }, /greater than maximum length \(76 characters\): invalid argument$/],
    [{ labels: { key: 'v'.repeat(4096) } }, /containers\.Labels: label key and value/],
    [{ extensions: { '': spec } }, /container\.Extension keys must not be zero-length: invalid argument$/],
    [{ runtime: undefined }, /container\.Runtime\.Name must be set: invalid argument$/],
    [{ spec: undefined }, /container\.Spec must be set: invalid argument$/],
    [{ snapshotter: '' }, /container\.Snapshotter must be set if container\.SnapshotKey is set: invalid argument$/],
  ]
  for (const [change, details] of refused) {
    await t.rejects(rpc.call(Containers.create, { container: redis(change) }), { code: Code.INVALID_ARGUMENT, details })
  }
  await t.rejects(rpc.call(Containers.create, { container: redis() }, { namespace: '' }), {
    code: Code.FAILED_PRECONDITION,
    details: /^namespace is required: failed precondition/,
  })
  await rpc.call(Containers.create, { container: redis() })
  await t.rejects(rpc.call(Containers.create, { container: redis() }), {
    code: Code.ALREADY_EXISTS,
    details: 'container "redis": already exists',
  })
  await t.rejects(rpc.call(Containers.get, { id: 'nope' }), {
    code: Code.NOT_FOUND,
    details: 'container "nope" in namespace "default": not found',
  })
  await rpc.call(Containers.create, { container: redis() }, { namespace: 'other' })
})

t.test('an update changes what its mask names, and heavy parts that stay are not written again', async t => {
  const { rpc, store, journal } = await served(t)
  await rpc.call(Containers.create, { container: redis() })
  const update = (change: Partial<Container>, ...updateMask: string[]) =>
    rpc.call(Containers.update, {
      container: redis(change),
      updateMask: updateMask.length > 0 ? updateMask : undefined,
    })
  const record = () => store.world.namespace('default').container('redis').facts.record

  const { container } = await update({ labels: { tier: '1', app: '' }, image: 'ignored' }, 'labels.tier', 'labels.app')
  t.match(container, { labels: { tier: '1' }, image: 'docker.io/library/redis:7', spec })
  t.notOk(container && 'app' in container.labels, 'an empty value removes a label')

  const other = { typeUrl: specUrl, value: Buffer.from('{"ociVersion":"1.1.0"}') }
  t.match(await update({ spec: other }, 'spec'), { container: { spec: other } })
  t.match(await rpc.call(Containers.get, { id: 'redis' }), { container: { spec: other } })

  const before = record()
  await update({ extensions: { one: spec } }, 'extensions.one')
  t.same(record()?.spec, before?.spec, 'the spec keeps its place')
  t.same(Object.keys(record()?.extensions ?? {}), ['cri/meta', 'one'])
  await update({ extensions: {} }, 'extensions.cri/meta')
  t.same(Object.keys(record()?.extensions ?? {}), ['one'])

  const last = journal.last()
  await update({ spec: other, extensions: { one: spec }, image: 'new', snapshotKey: 'k2' })
  for await (const written of journal.read(last + 1n)) t.same(written.attachments, [], 'nothing heavy in a full update')
  t.match(await rpc.call(Containers.get, { id: 'redis' }), {
    container: { spec: other, extensions: { one: spec }, image: 'new', snapshotKey: 'k2', labels: { app: 'web' } },
  })
})

t.test('what cannot be changed in a container says so', async t => {
  const { rpc } = await served(t)
  await rpc.call(Containers.create, { container: redis() })
  const refused: [Partial<Container>, string[] | undefined, Code, string][] = [
    [{ id: '' }, undefined, Code.INVALID_ARGUMENT, 'Container.ID required'],
    [{ id: 'nope' }, ['image'], Code.NOT_FOUND, 'container "nope": not found'],
    [{}, ['snapshotter'], Code.INVALID_ARGUMENT, 'cannot update "snapshotter" field on "redis": invalid argument'],
    [{}, ['constructor'], Code.INVALID_ARGUMENT, 'cannot update "constructor" field on "redis": invalid argument'],
    [
      { snapshotter: 'native' },
      undefined,
      Code.INVALID_ARGUMENT,
      'container.Snapshotter field is immutable: invalid argument',
    ],
    [
      { runtime: undefined },
      undefined,
      Code.INVALID_ARGUMENT,
      'container.Runtime.Name field is immutable: invalid argument',
    ],
    [
      { spec: undefined },
      ['spec'],
      Code.INVALID_ARGUMENT,
      'update failed validation: container.Spec must be set: invalid argument',
    ],
  ]
  for (const [change, updateMask, code, details] of refused) {
    await t.rejects(rpc.call(Containers.update, { container: redis(change), updateMask }), { code, details })
  }
})

t.test('a container with a task cannot be deleted', async t => {
  const { rpc, happen } = await served(t)
  await rpc.call(Containers.create, { container: redis() })
  const stdio = { stdin: '', stdout: '', stderr: '', terminal: false }
  await happen({
    namespace: 'default',
    stream: taskStream('default', 'redis'),
    event: {
      type: 'TaskCreateRequested',
      containerId: 'redis',
      runtime: 'r',
      stdio,
      rootfs: [],
      options: null,
      checkpoint: '',
    },
  })
  await t.rejects(rpc.call(Containers.delete, { id: 'redis' }), { code: Code.FAILED_PRECONDITION })
  await t.rejects(rpc.call(Containers.delete, { id: 'nope' }), {
    code: Code.NOT_FOUND,
    details: 'container "nope": not found',
  })
})

t.test('containers are listed by name, filtered, in one answer or one by one', async t => {
  const { rpc, reads, happen } = await served(t)
  const names = Array.from({ length: 40 }, (_, index) => `c${index}`)
  for (const id of names) {
    const container = { ...redis({ id }), labels: { tier: id === 'c7' ? 'db' : 'web' }, sandbox: '' }
    await rpc.call(Containers.create, { container })
  }
  const list = async (...filters: string[]) =>
    (await rpc.call(Containers.list, { filters })).containers.map(({ id }) => id)
  t.same(await list(), [...names].sort())
  t.same(await list('labels.tier==db'), ['c7'])
  t.same(await list('id~=^c1[0-2]$', 'labels.tier==db'), ['c10', 'c11', 'c12', 'c7'])
  t.same(await list('runtime.name==io.containerd.runc.v2, id==c3'), ['c3'], 'clients put a space after the comma')
  t.same(await list('image~=redis,labels.none'), [])
  const streamed = await rpc.collect(Containers.listStream, { filters: [] })
  t.same(
    streamed.map(({ container }) => container?.id),
    [...names].sort(),
  )
  t.ok(streamed.every(({ container }) => container?.spec?.value.equals(spec.value)))
  await t.rejects(list('id==='), { code: Code.INVALID_ARGUMENT, details: /^filters: parse error/ })
  await t.rejects(rpc.collect(Containers.listStream, { filters: ['id~=('] }), { code: Code.INVALID_ARGUMENT })

  const attachments = [Buffer.from('read from the journal')]
  await happen({
    namespace: 'cold',
    stream: containerStream('cold', 'c'),
    event: {
      type: 'ContainerCreated',
      container: {
        ...{ id: 'c', labels: {}, image: '', runtime: { name: 'r', options: null }, snapshotter: '', snapshotKey: '' },
        ...{ spec: { typeUrl: 's', sequence: '', index: 0 }, extensions: {}, sandbox: '' },
      },
    },
    attachments,
  })
  reads.length = 0
  const cold = () => rpc.call(Containers.get, { id: 'c' }, { namespace: 'cold' })
  const [first] = await Promise.all([cold(), cold(), cold()])
  t.same(first.container?.spec, { typeUrl: 's', value: attachments[0] })
  t.equal(reads.length, 1, 'asked for at the same time, read once; then it is kept')
})

const image = (change: Partial<Image> = {}): Image => ({
  ...Image.create({ name: 'docker.io/library/redis:7' }),
  target: { mediaType: 'application/vnd.oci.image.manifest.v1+json', digest, size: 528n, annotations: { a: 'b' } },
  ...change,
})

t.test('an image is a name for a descriptor, and keeps the time of its creation', async t => {
  const { rpc } = await served(t)
  const created = await rpc.call(Images.create, { image: image({ labels: { x: '1' } }), sourceDateEpoch: undefined })
  t.match(created.image, {
    ...image(),
    labels: { x: '1' },
    createdAt: { seconds: BigInt },
    updatedAt: { seconds: BigInt },
  })
  await t.rejects(rpc.call(Images.create, { image: image(), sourceDateEpoch: undefined }), {
    code: Code.ALREADY_EXISTS,
    details: 'image "docker.io/library/redis:7": already exists',
  })
  const update = (change: Partial<Image>, ...updateMask: string[]) =>
    rpc.call(Images.update, { image: image(change), updateMask, sourceDateEpoch: { seconds: 86_400n, nanos: 5 } })
  const target = { mediaType: 'm', digest: `sha256:${'b'.repeat(64)}`, size: 1n, annotations: {} }
  t.match(await update({ target, labels: { y: '2' } }, 'target', 'labels.y'), {
    image: {
      target,
      labels: { x: '1', y: '2' },
      createdAt: created.image?.createdAt,
      updatedAt: { seconds: 86_400n, nanos: 5 },
    },
  })
  t.match(await update({ target: { ...target, annotations: { k: 'v' } } }, 'annotations.k'), {
    image: { target: { annotations: { k: 'v' } } },
  })
  const replaced = await update({})
  t.same(replaced.image?.labels, {}, 'without a mask all is replaced')
  await t.rejects(update({ name: 'nope' }), { code: Code.NOT_FOUND, details: 'image "nope": not found' })
  await t.rejects(update({}, 'name'), {
    code: Code.INVALID_ARGUMENT,
    details: 'cannot update "name" field on image "docker.io/library/redis:7": invalid argument',
  })
})

t.test('what containerd refuses of an image is refused in its words', async t => {
  const { rpc } = await served(t)
  const target = image().target
  const refused: [Partial<Image>, string | RegExp][] = [
    [{ name: '' }, 'Image.Name required'],
    [{ target: undefined }, 'Target.Digest "" invalid: invalid checksum digest format: invalid argument'],
    [{ target: target && { ...target, digest: 'sha256:xyz' } }, /^Target\.Digest "sha256:xyz" invalid/],
    [{ target: target && { ...target, size: 0n } }, 'Target.Size must be greater than zero: invalid argument'],
    [{ target: target && { ...target, mediaType: '' } }, 'Target.MediaType must be set: invalid argument'],
    [{ labels: { k: 'v'.repeat(5000) } }, /^image\.Labels: label key and value/],
  ]
  for (const [change, details] of refused) {
    const request = { image: image(change), sourceDateEpoch: undefined }
    await t.rejects(rpc.call(Images.create, request), { code: Code.INVALID_ARGUMENT, details })
  }
})

t.test('images are found by name and descriptor, and deleted only with the target that the client knows', async t => {
  const { rpc } = await served(t)
  await rpc.call(Images.create, { image: image(), sourceDateEpoch: undefined })
  await rpc.call(Images.create, { image: image({ name: 'a', labels: { k: 'v' } }), sourceDateEpoch: undefined })
  const list = async (...filters: string[]) => (await rpc.call(Images.list, { filters })).images.map(({ name }) => name)
  t.same(await list(), ['a', 'docker.io/library/redis:7'])
  t.same(await list(`target.digest==${digest},labels.k`), ['a'])
  t.same(await list('name~="^docker\\\\.io/"'), ['docker.io/library/redis:7'])
  t.same(await list('target.mediatype~=manifest,annotations.a==b'), ['a', 'docker.io/library/redis:7'])
  const other = { mediaType: '', digest: `sha256:${'c'.repeat(64)}`, size: 0n, annotations: {} }
  await t.rejects(rpc.call(Images.delete, { name: 'a', sync: false, target: other }), { code: Code.NOT_FOUND })
  await rpc.call(Images.delete, { name: 'a', sync: true, target: image().target })
  await t.rejects(rpc.call(Images.delete, { name: 'a', sync: false, target: undefined }), {
    code: Code.NOT_FOUND,
    details: 'image "a": not found',
  })
})

t.test('a namespace exists for everybody who asks, and is kept while something is in it', async t => {
  const { rpc } = await served(t)
  const list = async () => (await rpc.call(Namespaces.list, { filter: '' })).namespaces
  t.same(await rpc.call(Namespaces.get, { name: 'moby' }), { namespace: { name: 'moby', labels: {} } })
  t.same(await list(), [], 'asking does not make it')
  await t.rejects(rpc.call(Namespaces.get, { name: 'a/b' }), { code: Code.INVALID_ARGUMENT })

  await rpc.call(Namespaces.create, { namespace: { name: 'k8s.io', labels: { a: '1' } } })
  await t.rejects(rpc.call(Namespaces.create, { namespace: { name: 'k8s.io', labels: {} } }), {
    code: Code.ALREADY_EXISTS,
    details: 'namespace "k8s.io": already exists',
  })
  const update = (name: string, labels: Record<string, string>, ...updateMask: string[]) =>
    rpc.call(Namespaces.update, { namespace: { name, labels }, updateMask })
  await update('k8s.io', { b: '2', c: '3' }, 'labels.b')
  await update('made-by-update', { c: '3' })
  t.same(await list(), [
    { name: 'k8s.io', labels: { a: '1', b: '2' } },
    { name: 'made-by-update', labels: { c: '3' } },
  ])
  await update('k8s.io', { c: '3' })
  t.same((await list())[0], { name: 'k8s.io', labels: { c: '3' } })
  await t.rejects(update('k8s.io', {}, 'labels'), {
    code: Code.INVALID_ARGUMENT,
    details: /^cannot update "labels" field/,
  })

  await rpc.call(Images.create, { image: image(), sourceDateEpoch: undefined }, { namespace: 'k8s.io' })
  await t.rejects(rpc.call(Namespaces.delete, { name: 'k8s.io' }), {
    code: Code.FAILED_PRECONDITION,
    details: 'namespace "k8s.io" must be empty, but it still has images: failed precondition',
  })
  await rpc.call(Images.delete, { name: image().name, sync: false, target: undefined }, { namespace: 'k8s.io' })
  await rpc.call(Namespaces.delete, { name: 'k8s.io' })
  await t.rejects(rpc.call(Namespaces.delete, { name: 'k8s.io' }), {
    code: Code.NOT_FOUND,
    details: 'namespace "k8s.io": not found',
  })
})

t.test('a lease holds resources of the kinds that containerd knows', async t => {
  const { rpc } = await served(t)
  const { lease } = await rpc.call(Leases.create, { id: '', labels: { 'containerd.io/gc.expire': 'x' } })
  t.match(lease, { id: /^.{8,}$/, labels: { 'containerd.io/gc.expire': 'x' }, createdAt: { seconds: BigInt } })
  const id = `moby-image-${digest}`
  await rpc.call(Leases.create, { id, labels: {} })
  await t.rejects(rpc.call(Leases.create, { id, labels: {} }), { code: Code.ALREADY_EXISTS })
  t.equal((await rpc.call(Leases.list, { filters: [] })).leases.length, 2)
  t.match(await rpc.call(Leases.list, { filters: [`id=="${id}"`] }), { leases: [{ id }] })
  t.match(await rpc.call(Leases.list, { filters: ['labels."containerd.io/gc.expire"'] }), {
    leases: [{ id: lease?.id }],
  })

  const add = (type: string, name: string) => rpc.call(Leases.addResource, { id, resource: { type, id: name } })
  await add('snapshots/overlayfs', 'redis')
  await add('content', digest)
  await add('ingests', 'upload-1')
  await add('images', 'redis:7')
  await add('content', digest)
  const { resources } = await rpc.call(Leases.listResources, { id })
  t.same(resources, [
    { type: 'content', id: digest },
    { type: 'images', id: 'redis:7' },
    { type: 'ingests', id: 'upload-1' },
    { type: 'snapshots/overlayfs', id: 'redis' },
  ])
  await rpc.call(Leases.deleteResource, { id, resource: { type: 'content', id: digest } })
  await rpc.call(Leases.deleteResource, { id, resource: { type: 'content', id: digest } })
  t.equal((await rpc.call(Leases.listResources, { id })).resources.length, 3)

  await t.rejects(add('content', 'nonsense'), { code: Code.INVALID_ARGUMENT, details: /^invalid content resource id/ })
  await t.rejects(add('snapshots', 'x'), {
    code: Code.INVALID_ARGUMENT,
    details: /^invalid snapshot resource type snapshots/,
  })
  await t.rejects(add('volumes', 'x'), {
    code: Code.UNIMPLEMENTED,
    details: 'resource type volumes not supported yet: not implemented',
  })
  await rpc.call(Leases.delete, { id, sync: true })
  for (const call of [
    rpc.call(Leases.delete, { id, sync: false }),
    rpc.call(Leases.listResources, { id }),
    add('images', 'x'),
  ]) {
    await t.rejects(call, { code: Code.NOT_FOUND, details: `lease "${id}": not found` })
  }
})

t.test('an image that expires is held by the lease of its call; under a lost lease nothing is made', async t => {
  const { rpc } = await served(t)
  await rpc.call(Leases.create, { id: 'pull', labels: {} })
  const create = (name: string, labels: Record<string, string>, lease: string) =>
    rpc.call(
      Images.create,
      { image: image({ name, labels }), sourceDateEpoch: undefined },
      { metadata: { 'containerd-lease': lease } },
    )
  await create('kept', {}, 'pull')
  await create('expiring', { 'containerd.io/gc.expire': '2030-01-01T00:00:00Z' }, 'pull')
  t.same((await rpc.call(Leases.listResources, { id: 'pull' })).resources, [{ type: 'images', id: 'expiring' }])
  const parallel = Array.from({ length: 8 }, (_, index) => `layer${index}`)
  await Promise.all(parallel.map(name => create(name, { 'containerd.io/gc.expire': '2030-01-01T00:00:00Z' }, 'pull')))
  t.equal((await rpc.call(Leases.listResources, { id: 'pull' })).resources.length, 9, 'also when they come at once')
  const lost = create('lost', { 'containerd.io/gc.expire': '2030-01-01T00:00:00Z' }, 'gone')
  await t.rejects(lost, { code: Code.NOT_FOUND })
  await t.rejects(rpc.call(Images.get, { name: 'lost' }), { code: Code.NOT_FOUND })
  t.equal((await rpc.call(Images.list, { filters: [] })).images.length, 10)
})
