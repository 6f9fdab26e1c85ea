// purser.events.v1: what happens, what happened to whom, what was the case when, and everything from there on.
import t from 'tap'
import { Code } from '../../../plugins/kit/errors.js'
import { EventsService as ContainerdEvents } from '../../../proto/gen/containerd/services/events/v1/events.js'
import { Status } from '../../../proto/gen/containerd/v1/types/task.js'
import {
  EventsService as Events,
  HistoryRequest,
  StateRequest,
  type StateResponse,
  SubscribeRequest,
  type SubscribeResponse,
  WatchRequest,
  type WatchResponse,
} from '../../../proto/gen/purser/events/v1/events.js'
import type { DomainEvent, Fact } from '../../../services/supervisor/domain/decision.js'
import { containerStream, execStream, snapshotStream, taskStream } from '../../../services/supervisor/domain/streams.js'
import type { Rpc, ServerStreamMethod } from '../../harness/rpc.js'
import { Arrivals, type Scope } from '../../harness/wait.js'
import { container, exec, task } from '../domain/facts.js'
import { served } from './served.js'

const patienceMs = 60_000
const timeoutMs = 2 * patienceMs
const ns = 'default'
const id = 'redis'

const fact = (stream: string, event: DomainEvent, ends = false): Fact => ({ namespace: ns, stream, event, ends })
const ofContainer = (event: DomainEvent, ends?: boolean) => fact(containerStream(ns, id), event, ends)
const ofTask = (event: DomainEvent, ends?: boolean) => fact(taskStream(ns, id), event, ends)
const ofExec = (event: DomainEvent, ends?: boolean) => fact(execStream(ns, id, 'sh'), event, ends)
const ofSnapshot = (key: string, event: DomainEvent) => fact(snapshotStream(ns, 'overlayfs', key), event)
const prepared = (key: string): DomainEvent => ({
  ...{ type: 'SnapshotPrepared', snapshotter: 'overlayfs', key, kind: 'active', parent: '' },
  ...{ labels: {}, backendKey: key, mounts: [] },
})
const removed = (key: string): DomainEvent => ({
  type: 'SnapshotRemoved',
  ...{ snapshotter: 'overlayfs', key, backendKey: key },
})

/** A whole life; sequences as they come in an empty journal. */
const life: Fact[] = [
  ofSnapshot('other', prepared('other')), // 1
  ofSnapshot('redis', prepared('redis')), // 2
  ofContainer(container.ContainerCreated), // 3
  ofTask(task.TaskCreateRequested), // 4
  ofTask(task.TaskCreated), // 5
  ofTask(task.TaskStartRequested), // 6
  ofTask(task.TaskStarted), // 7
  ofExec(exec.ExecRequested), // 8
  ofExec(exec.ExecAdded), // 9
  ofTask(task.TaskExited), // 10
  ofTask(task.TaskDeleteRequested), // 11
  ofExec(exec.ExecAbandoned, true), // 12
  ofTask(task.TaskDeleted, true), // 13
  ofSnapshot('redis', removed('redis')), // 14
  ofContainer(container.ContainerDeleted, true), // 15
]

const publish = (rpc: Rpc, topic: string, namespace = ns) =>
  rpc.call(ContainerdEvents.publish, { topic, event: undefined }, { namespace })

type Told = SubscribeResponse | WatchResponse | StateResponse

/** A message in few words. */
function words({ message }: Told): string {
  switch (message?.$case) {
    case 'event':
      return `${message.value.sequence} ${message.value.type}`
    case 'bookmark':
      return `up to ${message.value.sequence}${message.value.present ? ', present' : ''}`
    case 'container':
      return `${message.value.id} ${message.value.task?.state ?? '-'}`
    default:
      return 'nothing'
  }
}

function follow<Request, Response extends Told>(
  t: Scope,
  rpc: Rpc,
  method: ServerStreamMethod<Request, Response>,
  request: Request,
) {
  const stream = rpc.stream(method, request, { timeoutMs })
  const arrived = new Arrivals<Response>()
  stream.on('data', (response: Response) => arrived.push(response))
  stream.on('error', () => {})
  t.teardown(() => stream.cancel())
  const until = (said: string) => arrived.first(said, response => words(response) === said, { timeoutMs: patienceMs })
  return { arrived, until, said: () => arrived.items.map(words) }
}

t.test('a subscription tells events with all that is known of them, and how far it has come', async t => {
  const { rpc, journal, happen } = await served(t)
  await publish(rpc, '/a/1')
  await happen(...life)
  const request = SubscribeRequest.fromPartial({ since: { $case: 'after', value: 0n }, namespaces: [ns] })
  const { arrived, until, said } = follow(t, rpc, Events.subscribe, request)
  await until('up to 16, present')
  const first = arrived.items[0]?.message
  if (first?.$case !== 'event') return t.fail('the first is no event')
  t.match(first.value, { sequence: 1n, node: 'test', namespace: ns, topic: '/a/1', stream: 'event/default' })
  t.match(first.value, { type: 'EventPublished', causation: 'Events/Publish', actor: { pid: Number } })
  t.same(JSON.parse(first.value.data), { topic: '/a/1', at: null, event: null })
  t.ok((first.value.time?.seconds ?? 0n) > 1_700_000_000n)
  const started = arrived.items.map(({ message }) => message).find(m => m?.$case === 'event' && m.value.sequence === 8n)
  t.match(started, { value: { topic: '/tasks/start', payload: { typeUrl: 'containerd.events.TaskStart' } } })
  const wish = arrived.items.map(({ message }) => message).find(m => m?.$case === 'event' && m.value.sequence === 5n)
  t.match(wish, { value: { topic: '/purser/tasks/create-requested', payload: undefined } })
  t.equal(said().length, 17, 'each fact, and the bookmark')
  t.equal(journal.last(), 16n)
})

t.test('filters choose by namespace, topic, and every field; bookmarks tell of what they left out', async t => {
  const { rpc, happen } = await served(t, { feed: { marks: { records: 5, idleMs: 10 } } })
  await happen(...life)
  const all = { $case: 'after', value: 0n } as const
  const cases: [Partial<SubscribeRequest>, string[]][] = [
    [{ topicPrefixes: ['/tasks/st'] }, ['7 TaskStarted']],
    [{ filters: ['type==TaskStarted', 'stream~=|^exec/|'] }, ['7', '8', '9', '12']],
    [{ filters: ['event.container_id==redis,topic==/tasks/exit'] }, ['10']],
    [{ filters: ['node==test'], namespaces: ['moby'] }, []],
    [{ filters: ['event.nothing'] }, []],
  ]
  for (const [wanted, events] of cases) {
    const { until, said } = follow(t, rpc, Events.subscribe, SubscribeRequest.fromPartial({ since: all, ...wanted }))
    await until('up to 15, present')
    const told = said().filter(each => /^\d/.test(each))
    t.same(
      told.map((each, index) => (events[index]?.includes(' ') ? each : each.split(' ')[0])),
      events,
      JSON.stringify(wanted),
    )
  }
  const { until, said } = follow(t, rpc, Events.subscribe, SubscribeRequest.fromPartial({ namespaces: ['moby'] }))
  await until('up to 15, present')
  await publish(rpc, '/a')
  await until('up to 16, present')
  await publish(rpc, '/b', 'moby')
  await until('17 EventPublished')
  t.same(said(), ['up to 15, present', 'up to 16, present', '17 EventPublished'])
})

t.test('one event is had by its sequence', async t => {
  const { rpc, happen } = await served(t)
  await happen(...life)
  const { event } = await rpc.call(Events.get, { sequence: 10n })
  t.match(event, { sequence: 10n, type: 'TaskExited', topic: '/tasks/exit', stream: 'task/default/redis' })
  for (const sequence of [0n, 16n])
    await t.rejects(rpc.call(Events.get, { sequence }), { code: Code.OUT_OF_RANGE, details: /they go from 1 to 15/ })
})

t.test('the history of a container is that of its parts, in pages, also when it is gone or has come back', async t => {
  const { rpc, happen } = await served(t)
  const history = (more: Partial<HistoryRequest> = {}) =>
    rpc.call(Events.history, HistoryRequest.fromPartial({ container: id, ...more }))
  await t.rejects(history(), { code: Code.NOT_FOUND })
  await happen(...life.slice(0, 7))
  await publish(rpc, '/something/else')
  const alive = await history()
  t.same(
    alive.events.map(({ sequence }) => Number(sequence)),
    [2, 3, 4, 5, 6, 7],
  )
  t.match(alive.lives, [{ image: 'redis:7', starts: 1, exitStatus: undefined, firstSequence: 3n, lastSequence: 0n }])
  await happen(...life.slice(7))
  await happen(...life.slice(1, 5))
  const both = await history()
  t.same(
    both.events.map(({ sequence }) => Number(sequence)),
    [2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20],
  )
  t.match(both.lives, [
    { exitStatus: 7, starts: 1, firstSequence: 3n, lastSequence: 16n, deletedAt: { seconds: BigInt } },
    { exitStatus: undefined, starts: 0, firstSequence: 18n, lastSequence: 0n, deletedAt: undefined },
  ])
  t.equal(both.next, 0n)
  const pages: number[][] = []
  for (let after = 0n; ; ) {
    const { events, next } = await history({ after, limit: 6 })
    pages.push(events.map(({ sequence }) => Number(sequence)))
    if (next === 0n) break
    after = next
  }
  t.same(pages, [
    [2, 3, 4, 5, 6, 7],
    [9, 10, 11, 12, 13, 14],
    [15, 16, 17, 18, 19, 20],
  ])
  await t.rejects(history({ namespace: 'moby' }), { code: Code.NOT_FOUND })
  await t.rejects(history({ container: '' }), { code: Code.INVALID_ARGUMENT })
  await t.rejects(history({ limit: 5001 }), { code: Code.INVALID_ARGUMENT })
})

t.test('the state at a moment is that which the events up to then amount to', async t => {
  const { rpc, happen, store, journal } = await served(t)
  await happen(...life.slice(0, 7))
  await store.save()
  await happen(...life.slice(7))
  const state = (at?: StateRequest['at']) =>
    rpc.collect(Events.state, StateRequest.fromPartial(at ? { at } : {}), { timeoutMs })
  const at = async (sequence: bigint) => (await state({ $case: 'sequence', value: sequence })).map(words)
  t.same(await at(2n), ['up to 2'])
  t.same(await at(3n), ['redis -', 'up to 3'])
  t.same(await at(5n), ['redis created', 'up to 5'])
  t.same(await at(7n), ['redis running', 'up to 7'], 'as it was written out')
  t.same(await at(10n), ['redis stopped', 'up to 10'], 'and from there on')
  t.same(await at(15n), ['up to 15, present'])
  t.same((await state()).map(words), ['up to 15, present'])
  const [stopped] = await state({ $case: 'sequence', value: 10n })
  t.match(stopped?.message, {
    value: {
      ...{ namespace: ns, id, image: 'redis:7', runtime: 'r', snapshotKey: 'redis' },
      task: { id, status: Status.STOPPED, pid: 42, exitStatus: 7, exitedAt: { nanos: 6 } },
      execs: [{ id: 'sh', state: 'added', status: Status.CREATED }],
    },
  })
  t.same((await rpc.collect(Events.state, StateRequest.fromPartial({ namespaces: ['moby'] }))).map(words), [
    'up to 15, present',
  ])
  await t.rejects(at(16n), { code: Code.OUT_OF_RANGE, details: new RegExp(`ahead of journal ${journal.id}`) })
})

t.test('the state at a time has what had happened by then', async t => {
  const { rpc, happen } = await served(t)
  await happen(...life.slice(0, 7))
  const { event } = await rpc.call(Events.get, { sequence: 7n })
  const [seconds, nanos] = [event?.time?.seconds ?? 0n, event?.time?.nanos ?? 0]
  // The next batch has a time of its own.
  while (BigInt(Date.now()) * 1_000_000n <= seconds * 1_000_000_000n + BigInt(nanos))
    await new Promise(resolve => setTimeout(resolve, 1))
  await happen(...life.slice(7))
  const state = async (value: { seconds: bigint; nanos: number }) =>
    (await rpc.collect(Events.state, StateRequest.fromPartial({ at: { $case: 'time', value } }))).map(words)
  t.same(await state({ seconds, nanos }), ['redis running', 'up to 7'])
  t.same(await state({ seconds: 1n, nanos: 0 }), ['up to 0'])
  t.same(await state({ seconds: seconds + 3600n, nanos: 0 }), ['up to 15, present'])
  await t.rejects(state({ seconds: 1n << 50n, nanos: 0 }), { code: Code.INVALID_ARGUMENT })
})

t.test('a watch tells what is, up to where, and then everything that happens', async t => {
  const { rpc, happen } = await served(t)
  await happen(...life.slice(0, 7))
  const { until, said } = follow(t, rpc, Events.watch, WatchRequest.fromPartial({ namespaces: [ns] }))
  await until('up to 7, present')
  await happen(...life.slice(7))
  await until('15 ContainerDeleted')
  const told = said()
  t.same(told.slice(0, 2), ['redis running', 'up to 7, present'])
  const events = told.slice(2).filter(each => !each.startsWith('up to'))
  t.same(
    events.map(each => Number(each.split(' ')[0])),
    [8, 9, 10, 11, 12, 13, 14, 15],
  )
})

t.test('what cannot be understood is refused, and says what to write', async t => {
  const { rpc } = await served(t)
  const subscribe = (request: Partial<SubscribeRequest>) =>
    rpc.collect(Events.subscribe, SubscribeRequest.fromPartial(request), { timeoutMs })
  const invalid = { code: Code.INVALID_ARGUMENT }
  await t.rejects(subscribe({ topicPrefixes: ['tasks'] }), { ...invalid, details: /topics begin with "\/"/ })
  await t.rejects(subscribe({ filters: ['topic~=|['] }), invalid)
  await t.rejects(subscribe({ namespaces: ['a/b'] }), { ...invalid, details: /^namespace/ })
  await t.rejects(subscribe({ journal: 'another' }), { code: Code.FAILED_PRECONDITION, details: /begin anew/ })
  await t.rejects(subscribe({ since: { $case: 'after', value: 1n } }), { code: Code.OUT_OF_RANGE })
  await t.rejects(rpc.collect(Events.watch, WatchRequest.fromPartial({ filters: ['=='] })), invalid)
  await t.rejects(rpc.collect(Events.state, StateRequest.fromPartial({ namespaces: ['a/b'] })), invalid)
})
