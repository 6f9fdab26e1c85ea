// A request with an id is carried out once: what a client that repeats itself may rely on.
import t from 'tap'
import { Code, unavailable, unknown } from '../../../plugins/kit/errors.js'
import { unary } from '../../../plugins/kit/serve.js'
import {
  Container,
  ContainersService as Containers,
} from '../../../proto/gen/containerd/services/containers/v1/containers.js'
import { ImagesService as Images } from '../../../proto/gen/containerd/services/images/v1/images.js'
import { LeasesService as Leases } from '../../../proto/gen/containerd/services/leases/v1/leases.js'
import { CreateTaskRequest, TasksService as Tasks } from '../../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { RuntimeService } from '../../../proto/gen/purser/runtime/v1/runtime.js'
import { causeOf } from '../../../services/supervisor/api/call.js'
import { tasksService } from '../../../services/supervisor/api/tasks.js'
import { systemClock } from '../../../services/supervisor/clock.js'
import { containerStream, requestStream, taskStream } from '../../../services/supervisor/domain/streams.js'
import { stepTask } from '../../../services/supervisor/domain/task/decide.js'
import type { TaskEvent } from '../../../services/supervisor/domain/task/events.js'
import { pluginClient } from '../../../services/supervisor/plugins/clients.js'
import { type Requests, requestAgeMaxNs, requestsMax } from '../../../services/supervisor/state/requests.js'
import { decodeWorld, encodeWorld } from '../../../services/supervisor/state/snapshot.js'
import { task as taskFacts } from '../domain/facts.js'
import { served } from './served.js'

const as = (id: string, more: Record<string, string> = {}) => ({ metadata: { 'purser-request-id': id, ...more } })
const redis = Container.fromPartial({ id: 'redis', image: 'redis:7', runtime: { name: 'r' }, spec: { typeUrl: 's' } })

async function records(journal: Awaited<ReturnType<typeof served>>['journal']) {
  const all = []
  for await (const record of journal.read(1n)) all.push(record)
  return all
}

t.test('a repeat is answered as the first was, and changes nothing', async t => {
  const { rpc, journal } = await served(t)
  const first = await rpc.call(Containers.create, { container: redis }, as('r1'))
  const sequence = journal.last()
  t.same(await rpc.call(Containers.create, { container: redis }, as('r1')), first)
  await rpc.call(Containers.delete, { id: 'redis' }, as('r2'))
  t.same(await rpc.call(Containers.delete, { id: 'redis' }, as('r2')), {})
  t.same(await rpc.call(Containers.create, { container: redis }, as('r1')), first, 'also when it is gone by now')
  t.same(
    (await records(journal)).map(({ type, causation, correlation }) => `${type} ${causation} ${correlation}`),
    [
      'RequestTaken Containers/Create r1',
      'ContainerCreated Containers/Create r1',
      'RequestAnswered Containers/Create r1',
      'RequestTaken Containers/Delete r2',
      'ContainerDeleted Containers/Delete r2',
      'RequestAnswered Containers/Delete r2',
    ],
  )
  t.equal(sequence, 3n)
})

t.test('a refusal is remembered, a mistake in the request is not', async t => {
  const { rpc, journal } = await served(t)
  const missing = { code: Code.NOT_FOUND, details: 'container "redis": not found' }
  await t.rejects(rpc.call(Containers.delete, { id: 'redis' }, as('r1')), missing)
  await rpc.call(Containers.create, { container: redis })
  await t.rejects(rpc.call(Containers.delete, { id: 'redis' }, as('r1')), missing)
  const last = journal.last()
  await t.rejects(rpc.call(Containers.create, { container: Container.create() }, as('r2')), {
    code: Code.INVALID_ARGUMENT,
  })
  t.equal(journal.last(), last)
})

t.test('an id belongs to one request of one namespace', async t => {
  const { rpc } = await served(t)
  await rpc.call(Containers.create, { container: redis }, as('r1'))
  await t.rejects(rpc.call(Containers.create, { container: { ...redis, image: 'redis:8' } }, as('r1')), {
    code: Code.INVALID_ARGUMENT,
    details: /"r1" was used before with another message: give every request an id of its own/,
  })
  await t.rejects(rpc.call(Containers.delete, { id: 'redis' }, as('r1')), {
    code: Code.INVALID_ARGUMENT,
    details: /"r1" was used before for Containers\/Create/,
  })
  await rpc.call(Containers.create, { container: redis }, { ...as('r1'), namespace: 'other' })
  for (const bad of ['x'.repeat(129), 'two words']) {
    await t.rejects(rpc.call(Containers.list, { filters: [] }, as(bad)), {
      code: Code.INVALID_ARGUMENT,
      details: /^purser-request-id: the request id/,
    })
  }
})

t.test('without an id a request bears its trace, if there is one, and is carried out each time', async t => {
  const { rpc, journal } = await served(t)
  const trace = '0af7651916cd43dd8448eb211c80319c'
  const lease = (traceparent: string) => rpc.call(Leases.create, { id: '', labels: {} }, { metadata: { traceparent } })
  for (const parent of [
    `00-${trace}-b7ad6b7169203331-01`,
    `01-${trace}-b7ad6b7169203331-01-of-a-later-version`,
    `00-${trace}-b7ad6b7169203331-01-more`,
    `ff-${trace}-b7ad6b7169203331-01`,
    `00-${'0'.repeat(32)}-b7ad6b7169203331-01`,
    'nonsense',
  ])
    await lease(parent)
  await rpc.call(Leases.create, { id: '', labels: {} }, as('mine', { traceparent: `00-${trace}-b7ad6b7169203331-01` }))
  const correlations = (await records(journal))
    .filter(({ type }) => type === 'LeaseCreated')
    .map(({ correlation }) => correlation.replace(/^[0-9a-f-]{36}$/, 'ours'))
  t.same(correlations, [trace, trace, 'ours', 'ours', 'ours', 'ours', 'mine'])
})

t.test('what a crash cut off is answered by what the journal says', async t => {
  const { rpc, store } = await served(t)
  const first = await rpc.call(Containers.create, { container: redis }, as('r1'))
  const lease = await rpc.call(Leases.create, { id: '', labels: { a: 'b' } }, as('r2'))
  const image = { name: 'i', target: { digest: `sha256:${'a'.repeat(64)}`, mediaType: 'm', size: 1n, annotations: {} } }
  const create = {
    image: { ...image, labels: {}, createdAt: undefined, updatedAt: undefined },
    sourceDateEpoch: undefined,
  }
  await rpc.call(Images.create, create, as('r3'))
  await rpc.call(Images.delete, { name: 'i', sync: false }, as('r4'))
  // As if the supervisor had died after the facts, before the answers.
  for (const id of ['r1', 'r2', 'r3', 'r4']) {
    const { method = '', fingerprint = '', sequence = '', at = '' } = store.world.requests.get('default', id) ?? {}
    store.world.requests.restore([[`default/${id}`, { method, fingerprint, sequence, at, answer: null }]])
  }
  const last = store.world.sequence
  t.same(await rpc.call(Containers.create, { container: redis }, as('r1')), first)
  t.same((await rpc.call(Leases.create, { id: '', labels: { a: 'b' } }, as('r2'))).lease?.id, lease.lease?.id)
  await t.rejects(rpc.call(Images.create, create, as('r3')), {
    code: Code.ABORTED,
    details: /ended while it worked on Images\/Create with the request id "r3".*then ask again with a new id/,
  })
  t.same(await rpc.call(Images.delete, { name: 'i', sync: false }, as('r4')), {})
  t.equal(store.world.sequence - last, 3n, 'answers only')
})

/** Tasks whose runtime does what the test says. */
async function withTasks(t: Parameters<typeof served>[0]) {
  const runtime = { starts: 0, create: (): Promise<TaskEvent> => Promise.resolve(taskFacts.TaskCreated) }
  const parts = await served(t, {
    others: ({ runner }) => [
      {
        definition: Tasks,
        implementation: {
          create: unary(async (_request: CreateTaskRequest, context) => {
            runtime.starts++
            const step = (event: TaskEvent) =>
              runner.complete(causeOf(context, 'Tasks/Create'), containerStream('default', 'redis'), world =>
                stepTask('default', world.namespace('default').task('redis'), event),
              )
            await step(taskFacts.TaskCreateRequested)
            await step(await runtime.create())
            return { containerId: 'redis', pid: 42 }
          }),
        },
      },
    ],
  })
  await parts.rpc.call(Containers.create, { container: redis })
  const request = CreateTaskRequest.create({ containerId: 'redis' })
  const create = () => parts.rpc.call(Tasks.create, request, as('r1'))
  const record = (event: TaskEvent) =>
    parts.happen({ namespace: 'default', stream: taskStream('default', 'redis'), event })
  return { ...parts, runtime, create, record }
}

t.test('a repeat waits for the first and shares its answer', async t => {
  const { create, runtime } = await withTasks(t)
  let resolve = (_event: TaskEvent): void => {}
  const promise = new Promise<TaskEvent>(settle => {
    resolve = settle
  })
  runtime.create = () => promise
  const both = Promise.all([create(), create(), create()])
  setImmediate(() => resolve(taskFacts.TaskCreated))
  t.same(await both, [
    { containerId: 'redis', pid: 42 },
    { containerId: 'redis', pid: 42 },
    { containerId: 'redis', pid: 42 },
  ])
  t.equal(runtime.starts, 1)
})

t.test('a failure that may pass is not remembered: what was undone is tried again', async t => {
  const { create, runtime, record } = await withTasks(t)
  runtime.create = async () => {
    await record(taskFacts.TaskCreateFailed)
    throw unavailable('the plugin')
  }
  await t.rejects(create(), { code: Code.UNAVAILABLE })
  await t.rejects(create(), { code: Code.UNAVAILABLE })
  t.equal(runtime.starts, 2)
  runtime.create = async () => {
    await record(taskFacts.TaskCreateFailed)
    throw unknown('runc create failed')
  }
  await t.rejects(create(), { code: Code.UNKNOWN })
  await t.rejects(create(), { code: Code.UNKNOWN, details: 'runc create failed' })
  t.equal(runtime.starts, 3, 'the runtime has given its verdict')
})

t.test('a repeat waits until recovery has found out what became of the first', async t => {
  const { create, runtime, record } = await withTasks(t)
  runtime.create = () => Promise.reject(unavailable('cut off'))
  await t.rejects(create(), { code: Code.UNAVAILABLE })
  const repeat = create()
  await record(taskFacts.TaskCreated)
  t.same(await repeat, { containerId: 'redis', pid: 42 })
  t.equal(runtime.starts, 1)
})

t.test('without an id a command waits for the answer to the one before, and is then decided', async t => {
  const runtime = pluginClient(() => Promise.reject(unavailable('nobody')), RuntimeService)
  const { rpc, happen, store } = await served(t, {
    others: ({ runner, store }) => [
      {
        definition: Tasks,
        implementation: {
          ...tasksService({ runner, store, clock: systemClock(), runtime, isUnresponsive: () => false }),
        },
      },
    ],
  })
  await rpc.call(Containers.create, { container: redis })
  const record = (event: TaskEvent) => happen({ namespace: 'default', stream: taskStream('default', 'redis'), event })
  const create = (timeoutMs?: number) =>
    rpc.call(Tasks.create, CreateTaskRequest.create({ containerId: 'redis' }), timeoutMs ? { timeoutMs } : {})
  await record(taskFacts.TaskCreateRequested)

  await t.rejects(create(50), { code: Code.DEADLINE_EXCEEDED })
  const late = store.world.sequence
  const next = create()
  await rpc.call(Containers.get, { id: 'redis' }) // it has arrived by then
  await record(taskFacts.TaskCreateFailed)
  t.same(await next, { containerId: 'redis', pid: 0 })
  t.equal(store.world.sequence, late + 2n, 'who has given up is not served any more')

  const another = create()
  await rpc.call(Containers.get, { id: 'redis' })
  await record(taskFacts.TaskCreated)
  await t.rejects(another, { code: Code.ALREADY_EXISTS })
})

t.test('the memory of requests is bounded by number and by age, and survives a snapshot of the fold', async t => {
  const { store } = await served(t)
  const { requests } = store.world
  const take = (into: Requests, id: string, at: bigint) =>
    into.apply(
      {
        ...{ namespace: 'ns', stream: requestStream('ns', id), type: 'RequestTaken', schema: 1, ends: false },
        ...{ payload: Buffer.alloc(0), attachments: [], node: '', causation: '', correlation: '' },
        ...{ actor: { pid: 0, uid: 0, gid: 0, name: '' }, sequence: at, timeUnixNano: at },
      },
      { type: 'RequestTaken', id, method: 'm', fingerprint: 'f' },
    )
  for (let at = 1; at <= requestsMax + 5; at++) take(requests, `r${at}`, BigInt(at))
  t.equal(requests.size, requestsMax)
  t.equal(requests.get('ns', 'r5'), undefined)
  t.match(requests.get('ns', 'r6'), { method: 'm', sequence: '6', answer: null })
  t.same(decodeWorld(encodeWorld(store.world))?.requests.entries(), requests.entries())
  take(requests, 'late', requestAgeMaxNs + 10n)
  t.equal(requests.get('ns', 'r9'), undefined)
  t.ok(requests.get('ns', 'r10'))
})
