// Events as subscribers meet them, and what the server says of itself.
import { once } from 'node:events'
import t from 'tap'
import { Code } from '../../../plugins/kit/errors.js'
import { TaskExit } from '../../../proto/gen/containerd/events/task.js'
import { ContainersService as Containers } from '../../../proto/gen/containerd/services/containers/v1/containers.js'
import { EventsService as Events } from '../../../proto/gen/containerd/services/events/v1/events.js'
import { ImageCreate } from '../../../proto/gen/containerd/services/images/v1/events.js'
import { Image, ImagesService as Images } from '../../../proto/gen/containerd/services/images/v1/images.js'
import { IntrospectionService as Introspection } from '../../../proto/gen/containerd/services/introspection/v1/introspection.js'
import { NamespacesService as Namespaces } from '../../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import { TransferService } from '../../../proto/gen/containerd/services/transfer/v1/transfer.js'
import { VersionService as Version } from '../../../proto/gen/containerd/services/version/v1/version.js'
import type { Envelope } from '../../../proto/gen/containerd/types/event.js'
import {
  HealthService as Health,
  HealthCheckResponse_ServingStatus as Status,
} from '../../../proto/gen/grpc/health/v1/health.js'
import { returning, returningMs } from '../../../services/supervisor/feed/returning.js'
import type { Rpc } from '../../harness/rpc.js'
import { Arrivals, type Scope, until, withDeadline } from '../../harness/wait.js'
import { served } from './served.js'

const target = { mediaType: 'm', digest: `sha256:${'a'.repeat(64)}`, size: 1n, annotations: {} }
const createImage = (rpc: Rpc, name: string, namespace = 'default') =>
  rpc.call(Images.create, { image: { ...Image.create({ name }), target }, sourceDateEpoch: undefined }, { namespace })

/** A subscription that has begun: what happens from now on arrives. */
async function subscribe(t: Scope, rpc: Rpc, ...filters: string[]) {
  const stream = rpc.stream(Events.subscribe, { filters }, { namespace: 'whatever' })
  const arrived = new Arrivals<Envelope>()
  const ended = new Promise<{ code: Code; details: string }>(resolve => {
    stream.on('error', error => resolve(Object.assign({ code: Code.UNKNOWN, details: '' }, error)))
  })
  stream.on('data', (envelope: Envelope) => arrived.push(envelope))
  t.teardown(() => stream.cancel())
  await withDeadline(once(stream, 'metadata'), 5000, 'the headers of the subscription')
  return { stream, arrived, ended, topics: () => arrived.items.map(({ topic }) => topic) }
}

const exitOf = (containerId: string): { typeUrl: string; value: Buffer } => ({
  typeUrl: 'containerd.events.TaskExit',
  value: Buffer.from(TaskExit.encode(TaskExit.create({ containerId, id: containerId, exitStatus: 7 })).finish()),
})

t.test('a subscriber is told that it is subscribed before anything happens, and hears all namespaces', async t => {
  const { rpc } = await served(t)
  const { arrived } = await subscribe(t, rpc)
  await createImage(rpc, 'redis', 'moby')
  const envelope = await arrived.first('the image', ({ topic }) => topic === '/images/create')
  t.match(envelope, {
    namespace: 'moby',
    topic: '/images/create',
    event: { typeUrl: 'containerd.services.images.v1.ImageCreate' },
  })
  t.ok(envelope.timestamp && envelope.timestamp.seconds > 1_700_000_000n)
  t.same(ImageCreate.decode(envelope.event?.value ?? Buffer.alloc(0)), { name: 'redis', labels: {} })
  t.equal(arrived.items.length, 1, 'the namespace that came into being with it is no event')
})

t.test(
  'who comes back after a restart without saying what it has hears what was recorded since, for a while',
  async t => {
    const clock = { ms: 0 }
    const begun: { since?: ReturnType<typeof returning> } = {}
    const { rpc, journal } = await served(t, { feed: { returning: () => begun.since?.() } })
    await createImage(rpc, 'before')
    begun.since = returning(journal, () => clock.ms)
    await createImage(rpc, 'meanwhile')

    const back = await subscribe(t, rpc, 'topic==/images/create')
    const { event } = await back.arrived.first('the image of meanwhile', () => true)
    t.equal(ImageCreate.decode(event?.value ?? Buffer.alloc(0)).name, 'meanwhile')

    clock.ms = returningMs
    t.equal(begun.since(), undefined, 'later a subscription begins with its beginning')
    t.equal(returning({ first: () => 1n, last: () => 0n })(), undefined, 'nobody returns to a first start')
  },
)

t.test('filters choose by topic, namespace and the fields of the payload', async t => {
  const { rpc } = await served(t)
  const moby = await subscribe(t, rpc, 'namespace==moby,topic~=|^/tasks/|')
  const byField = await subscribe(t, rpc, 'event.container_id==c2', 'event.name~=^re', 'event.labels.tier==db')
  const publish = (namespace: string, topic: string, containerId: string) =>
    rpc.call(Events.publish, { topic, event: exitOf(containerId) }, { namespace })
  await publish('moby', '/tasks/exit', 'c1')
  await publish('k8s.io', '/tasks/exit', 'c1')
  await publish('moby', '/custom/topic', 'c2')
  await publish('moby', '/tasks/last', 'c3')
  await createImage(rpc, 'redis')
  await rpc.call(Namespaces.create, { namespace: { name: 'labelled', labels: { tier: 'db' } } })
  await rpc.call(Events.publish, {
    topic: '/tasks/other',
    event: { typeUrl: 'containerd.events.TaskExit', value: Buffer.from('\xff\xff', 'latin1') },
  })
  await moby.arrived.first('the last task event', ({ topic }) => topic === '/tasks/last')
  await byField.arrived.first('the namespace', ({ topic }) => topic === '/namespaces/create')
  t.same(moby.topics(), ['/tasks/exit', '/tasks/last'])
  t.same(byField.topics(), ['/custom/topic', '/images/create', '/namespaces/create'])
  const malformed = rpc.collect(Events.subscribe, { filters: ['topic~=|('] })
  await t.rejects(malformed, { code: Code.INVALID_ARGUMENT })
})

t.test('what is published and forwarded arrives as it was sent, after it is durable', async t => {
  const { rpc, journal } = await served(t)
  const { arrived } = await subscribe(t, rpc)
  await rpc.call(Events.publish, { topic: '/a/b', event: { typeUrl: 'x.example/T', value: Buffer.from('raw') } })
  const timestamp = { seconds: 1_700_000_000n, nanos: 123_456_789 }
  await rpc.call(
    Events.forward,
    { envelope: { timestamp, namespace: 'other', topic: '/tasks/exit', event: exitOf('c'), sequence: 0n } },
    { namespace: '' },
  )
  await arrived.first('the forwarded event', ({ namespace }) => namespace === 'other')
  t.equal(journal.last(), 2n)
  t.match(arrived.items, [
    { namespace: 'default', topic: '/a/b', event: { typeUrl: 'x.example/T', value: Buffer.from('raw') } },
    { namespace: 'other', topic: '/tasks/exit', timestamp, event: exitOf('c') },
  ])
})

t.test('an event without a proper topic, namespace or time is refused', async t => {
  const { rpc, journal } = await served(t)
  const timestamp = { seconds: 1n, nanos: 0 }
  const envelope = { timestamp, namespace: 'default', topic: '/a', event: undefined, sequence: 0n }
  const publish = (topic: string, namespace = 'default') =>
    rpc.call(Events.publish, { topic, event: undefined }, { namespace })
  const forward = (change: object) => rpc.call(Events.forward, { envelope: { ...envelope, ...change } })
  for (const topic of ['', 'tasks/exit', '/', '/tasks//exit', '/tasks/exit/', '/a b', '/../x']) {
    await t.rejects(publish(topic), { code: Code.INVALID_ARGUMENT, details: /: invalid argument$/ }, `topic "${topic}"`)
  }
  await t.rejects(publish('/a', ''), { code: Code.FAILED_PRECONDITION })
  await t.rejects(forward({ namespace: '' }), {
    code: Code.INVALID_ARGUMENT,
    details: /^event envelope has invalid namespace/,
  })
  await t.rejects(forward({ topic: 'x' }), { code: Code.INVALID_ARGUMENT })
  await t.rejects(forward({ timestamp: undefined }), { code: Code.INVALID_ARGUMENT, details: /^timestamp must be set/ })
  await t.rejects(forward({ timestamp: { seconds: 1n << 60n, nanos: 0 } }), { code: Code.INVALID_ARGUMENT })
  await t.rejects(rpc.call(Events.forward, { envelope: undefined }), { code: Code.INVALID_ARGUMENT })
  const huge = { typeUrl: 'x', value: Buffer.alloc(2 << 20) }
  await t.rejects(rpc.call(Events.publish, { topic: '/a', event: huge }), { code: Code.INVALID_ARGUMENT })
  t.equal(journal.last(), 0n, 'nothing of this reached the journal')
})

t.test('subscribers that leave are forgotten; those that stay are told when the supervisor stops', async t => {
  const { rpc, stopping } = await served(t)
  const leaving = await subscribe(t, rpc)
  const staying = await subscribe(t, rpc)
  leaving.stream.cancel()
  t.match(await leaving.ended, { code: Code.CANCELLED })
  await createImage(rpc, 'redis')
  await staying.arrived.first('the image', () => true)
  stopping.abort()
  t.match(await withDeadline(staying.ended, 5000, 'the end'), { code: Code.UNAVAILABLE, details: /subscribe again/ })
})

t.test('the server names its parts as containerd does', async t => {
  const facts = { reason: '', version: '0.1.0', capabilities: [], exports: { root: '/var/lib/x' } }
  const { rpc, journal } = await served(t, {
    plugins: [
      { kind: 'snapshotter', id: 'overlayfs', state: 'ready', ...facts, capabilities: ['c'] },
      { kind: 'snapshotter', id: 'overlayfs', state: 'draining', ...facts, version: '0.0.9' },
      { kind: 'snapshotter', id: 'native', state: 'lost', ...facts, reason: 'its stream broke' },
      { kind: 'content', id: 'local', state: 'ready', ...facts },
      { kind: 'differ', id: 'walking', state: 'ready', ...facts },
      { kind: 'runtime', id: 'v2', state: 'ready', ...facts },
      { kind: 'network', id: 'cni', state: 'opening', ...facts },
    ],
  })
  const list = async (...filters: string[]) => (await rpc.call(Introspection.plugins, { filters })).plugins
  const ids = (await list()).map(({ type, id }) => `${type}.${id}`)
  for (const id of [
    'io.containerd.snapshotter.v1.overlayfs',
    'io.containerd.content.v1.content',
    'io.containerd.differ.v1.walking',
    'io.containerd.runtime.v2.task',
    'io.purser.network.v1.cni',
    'io.containerd.internal.v1.restart',
    'io.containerd.grpc.v1.containers',
    'io.containerd.grpc.v1.healthcheck',
    'io.containerd.grpc.v1.introspection',
  ])
    t.equal(ids.filter(other => other === id).length, 1, id)
  // The filter that containerd's client sends before it unpacks an image.
  const [overlay] = await list('type==io.containerd.snapshotter.v1, id==overlayfs')
  t.match(overlay, { capabilities: ['c'], platforms: [{ os: 'linux' }], exports: { root: '/var/lib/x' } })
  t.equal(overlay?.initErr, undefined)
  t.match(await list('id==native'), [{ initErr: { code: Code.UNAVAILABLE, message: /is lost: its stream broke/ } }])

  const server = await rpc.call(Introspection.server, {})
  t.match(server, { uuid: journal.id, pid: BigInt(process.pid) })
  t.match(server.uuid, /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/)
  t.ok(server.pidns > 0n)
  const info = (id: string, options?: { typeUrl: string; value: Buffer }) =>
    rpc.call(Introspection.pluginInfo, { type: 'io.containerd.runtime.v2', id, options })
  t.match(await info('task'), { plugin: { id: 'task', platforms: [{ os: 'linux' }] }, extra: undefined })
  await t.rejects(info('other'), { code: Code.NOT_FOUND })
  const question = { typeUrl: 'containerd.types.RuntimeRequest', value: Buffer.alloc(0) }
  await t.rejects(info('task', question), { code: Code.UNIMPLEMENTED })
})

t.test('the version is one that clients can compare', async t => {
  const { rpc } = await served(t)
  const { version, revision } = await rpc.call(Version.version, {})
  t.match(version, /^1\.\d+\.\d+\+purser\.0\.1\.0$/)
  t.equal(revision, 'abc')
})

t.test('health follows the supervisor, for the server and for each service', async t => {
  const { rpc, health } = await served(t)
  const check = async (service: string) => (await rpc.call(Health.check, { service }, { namespace: '' })).status
  t.equal(await check(''), Status.SERVING)
  t.equal(await check('containerd.services.images.v1.Images'), Status.SERVING)
  await t.rejects(check('nope'), { code: Code.NOT_FOUND, details: 'unknown service' })
  const { statuses } = await rpc.call(Health.list, {})
  t.match(statuses, { '': { status: Status.SERVING }, 'containerd.services.containers.v1.Containers': {} })

  const watch = rpc.stream(Health.watch, { service: '' })
  watch.on('error', () => {})
  const seen = new Arrivals<Status>()
  watch.on('data', ({ status }: { status: Status }) => seen.push(status))
  await seen.first('the present status', status => status === Status.SERVING)
  health.serving = false
  await seen.first('the change', status => status === Status.NOT_SERVING)
  watch.cancel()
  t.equal(await check(''), Status.NOT_SERVING)
})

t.test('every call is observed once with how it ended; what is not served says so', async t => {
  const { rpc, observed } = await served(t)
  await createImage(rpc, 'redis')
  await t.rejects(rpc.call(Containers.get, { id: 'nope' }))
  await rpc.collect(Containers.listStream, { filters: [] })
  await t.rejects(rpc.collect(Containers.listStream, { filters: ['=='] }))
  const { stream, ended } = await subscribe(t, rpc)
  stream.cancel()
  await ended
  await until('the end of the subscription to be observed', () => observed.length === 5)
  t.match(observed, [
    { service: 'containerd.services.images.v1.Images', method: 'Create', code: 'OK', seconds: Number },
    { service: 'containerd.services.containers.v1.Containers', method: 'Get', code: 'NOT_FOUND' },
    { method: 'ListStream', code: 'OK' },
    { method: 'ListStream', code: 'INVALID_ARGUMENT' },
    { service: 'containerd.services.events.v1.Events', method: 'Subscribe', code: 'CANCELLED' },
  ])
  const transfer = { source: undefined, destination: undefined, options: undefined }
  await t.rejects(rpc.call(TransferService.transfer, transfer), { code: Code.UNIMPLEMENTED })
})
