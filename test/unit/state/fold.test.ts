// The fold: histories that were decided are always foldable, and amount to the same however they are read.
import pino from 'pino'
import t, { type Test } from 'tap'
import { createContainer } from '../../../services/supervisor/domain/container/decide.js'
import { type Decision, type Fact, isRefusal } from '../../../services/supervisor/domain/decision.js'
import { requestExec, stepExec } from '../../../services/supervisor/domain/exec/decide.js'
import type { ExecState } from '../../../services/supervisor/domain/exec/events.js'
import { containerStream } from '../../../services/supervisor/domain/streams.js'
import { recordDeleted, recordExit, stepTask } from '../../../services/supervisor/domain/task/decide.js'
import type { TaskState } from '../../../services/supervisor/domain/task/events.js'
import type { JournalRecord } from '../../../services/supervisor/journal/journal.js'
import { openMemoryJournal } from '../../../services/supervisor/journal/memoryLog.js'
import { encodeFact } from '../../../services/supervisor/state/codec.js'
import { IllegalHistory } from '../../../services/supervisor/state/places.js'
import { decodeWorld, encodeWorld } from '../../../services/supervisor/state/snapshot.js'
import { Store } from '../../../services/supervisor/state/store.js'
import { World } from '../../../services/supervisor/state/world.js'
import { exec as execFacts, exit, plugin, record, stdio, task as taskFacts } from '../domain/facts.js'
import { execTransitions, taskTransitions } from '../domain/tables.js'

const ns = 'default'
const actor = { pid: 0, uid: 0, gid: 0, name: 'test' }

/** Puts facts into records as the journal does: sequence after sequence, a nanosecond apart. */
class History {
  readonly records: JournalRecord[] = []

  constructor(readonly world = new World()) {}

  add(...facts: Fact[]): void {
    for (const fact of facts) {
      const sequence = BigInt(this.records.length + 1)
      const about = { node: 'n', causation: '', correlation: '', actor, sequence, timeUnixNano: sequence }
      const record = { ...encodeFact(fact), ...about }
      this.records.push(record)
      this.world.apply(record)
    }
  }

  /** What the same records amount to when they are read again. */
  replayed(): World {
    const world = new World()
    for (const record of this.records) world.apply(record)
    return world
  }
}

const same = (t: Test, one: World, other: World, message: string) =>
  t.equal(Buffer.from(encodeWorld(one)).toString(), Buffer.from(encodeWorld(other)).toString(), message)

/** A snapshot of this version's own shape. */
function decoded(state: Uint8Array): World {
  const world = decodeWorld(state)
  if (!world) throw new Error('the shape of the snapshot is not known')
  return world
}

/** A small generator with a seed, so that a failure can be repeated. */
function random(seed: number): (below: number) => number {
  let state = seed
  return below => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

/** The world in miniature: where the task and its one process should be, by the tables alone. */
interface Model {
  task: TaskState
  exec: ExecState
  taskExited: boolean
  execExited: boolean
}

/** What may be wished or reported, at any time, in any order. */
const attempts: readonly ((world: World) => Decision)[] = [
  world => createContainer(ns, world.namespace(ns).container('redis'), record, [Buffer.from('{}')]),
  ...Object.values(taskFacts)
    .filter(event => event.type !== 'ExecAdmitted' && event.type !== 'TaskExited' && event.type !== 'TaskDeleted')
    .map(event => (world: World) => {
      const here = world.namespace(ns)
      if (event.type === 'TaskCreateRequested' && here.container('redis').state === 'absent')
        return { refused: 'not-found', message: 'container' } as const
      return stepTask(ns, here.task('redis'), event)
    }),
  ...[42, 41].map(pid => (world: World) => recordExit(ns, 'redis', world.namespace(ns).task('redis'), { pid, exit })),
  world => {
    const here = world.namespace(ns)
    return recordDeleted(ns, 'redis', here.task('redis'), here.execsOf('redis'), { pid: 42, exit })
  },
  world => {
    const here = world.namespace(ns)
    const spec = { typeUrl: 's', value: Buffer.from('{}') }
    const command = { namespace: ns, containerId: 'redis', execId: 'sh', stdio, spec }
    return requestExec(here.task('redis'), here.exec('redis', 'sh'), command)
  },
  ...Object.values(execFacts)
    .filter(({ type }) => type !== 'ExecRequested' && type !== 'ExecAbandoned')
    .map(event => (world: World) => stepExec(ns, world.namespace(ns).exec('redis', 'sh'), event)),
]

/** Moves the model by one fact; undefined when its tables have no such step. */
function step(model: Model, { event }: Fact): Model | undefined {
  if (event.type === 'ContainerCreated') return model
  const [tasks, execs]: [
    Record<string, Partial<Record<string, TaskState>>>,
    Record<string, Partial<Record<string, ExecState>>>,
  ] = [taskTransitions, execTransitions]
  if (event.type.startsWith('Exec')) {
    let exec = execs[model.exec]?.[event.type]
    if (event.type === 'ExecDeleteFailed' && exec) exec = model.execExited ? 'stopped' : 'added'
    const execExited = exec !== 'absent' && (model.execExited || event.type === 'ExecExited')
    return exec && { ...model, exec, execExited }
  }
  let task = tasks[model.task]?.[event.type]
  if (event.type === 'TaskDeleteFailed' && task) task = model.taskExited ? 'stopped' : 'created'
  const taskExited = task !== 'absent' && (model.taskExited || event.type === 'TaskExited')
  return task && { ...model, task, taskExited }
}

/** Most wishes are refused at any moment; a few tries find one that is not. */
function somethingThatHappens(world: World, choose: (below: number) => number): { facts: Fact[] } | undefined {
  for (let tries = 0; tries < 20; tries++) {
    const decision = attempts[choose(attempts.length)]?.(world)
    if (decision && !isRefusal(decision) && decision.facts.length > 0) return decision
  }
  return undefined
}

t.test('whatever is wished in whatever order, what is accepted can be folded, and is what the tables say', async t => {
  const seeds = 60
  const steps = 60
  let accepted = 0
  const seen = new Set<string>()
  for (let seed = 1; seed <= seeds; seed++) {
    const choose = random(seed)
    const history = new History()
    let model: Model = { task: 'absent', exec: 'absent', taskExited: false, execExited: false }
    for (let index = 0; index < steps; index++) {
      const decision = somethingThatHappens(history.world, choose)
      if (!decision) continue
      for (const fact of decision.facts) {
        const next = step(model, fact)
        if (!next) return t.fail(`seed ${seed}, step ${index}: ${fact.event.type} while ${model.task}/${model.exec}`)
        model = next
        accepted++
        seen.add(model.task)
      }
      history.add(...decision.facts)
      const here = history.world.namespace(ns)
      const states = [here.task('redis').state, here.exec('redis', 'sh').state]
      if (states[0] !== model.task || states[1] !== model.exec)
        return t.same(states, [model.task, model.exec], `seed ${seed}, step ${index}`)
      // A task occupies its container for as long as it is there, and takes its processes with it.
      const occupied = here.container('redis').state === 'occupied'
      if (occupied !== (model.task !== 'absent')) return t.fail(`seed ${seed}, step ${index}: occupied is ${occupied}`)
    }
    const told = history.records.map(({ type }) => type)
    for (const [index, type] of told.entries()) {
      if (type !== 'TaskExited') continue
      const life = told.slice(told.lastIndexOf('TaskCreateRequested', index), index)
      if (life.includes('TaskExited')) return t.fail(`seed ${seed}: a task exited twice`)
      if (
        life.includes('TaskStartRequested') &&
        life.lastIndexOf('TaskStartRequested') > life.findLastIndex(type => /^Task(Started|StartFailed)$/.test(type))
      )
        return t.fail(`seed ${seed}: an exit was told before its start`)
    }
    const replayed = encodeWorld(history.replayed())
    if (Buffer.compare(replayed, encodeWorld(history.world)) !== 0)
      return t.fail(`seed ${seed}: reading it again differs`)
    if (Buffer.compare(encodeWorld(decoded(replayed)), replayed) !== 0)
      return t.fail(`seed ${seed}: the snapshot differs`)
  }
  t.ok(accepted > seeds * 30, `${accepted} facts`)
  t.same([...seen].sort(), Object.keys(taskTransitions).sort(), 'every state was reached')
})

t.test('a fold from a snapshot and the records after it is the fold of all records', async t => {
  const history = new History()
  const place = { namespace: ns, stream: 'x' }
  const mounts = [{ type: 'overlay', source: 'overlay', target: '', options: ['lowerdir=/a'] }]
  const facts: Fact[] = [
    { ...place, event: { type: 'NamespaceCreated', name: ns, labels: { a: '1' } } },
    {
      ...place,
      event: {
        type: 'ImageCreated',
        at: null,
        image: {
          name: 'redis',
          labels: {},
          target: { mediaType: 'm', digest: 'd', size: '9007199254740993', annotations: {} },
        },
      },
    },
    { ...place, event: { type: 'ContentCommitted', digest: 'd', size: '9007199254740993', labels: { l: 'v' } } },
    { ...place, event: { type: 'LeaseCreated', id: 'l', labels: {} } },
    { ...place, event: { type: 'LeaseResourceAdded', id: 'l', resource: { type: 'content', id: 'd' } } },
    {
      ...place,
      event: {
        type: 'SnapshotPrepared',
        snapshotter: 'overlayfs',
        key: 'k',
        kind: 'active',
        parent: '',
        labels: {},
        backendKey: 'b1',
        mounts,
      },
    },
    {
      ...place,
      event: {
        type: 'SnapshotCommitted',
        snapshotter: 'overlayfs',
        key: 'k',
        name: 'n',
        labels: {},
        backendKey: 'b2',
        usage: { size: '5', inodes: '1' },
      },
    },
    {
      ...place,
      event: {
        type: 'SnapshotPrepared',
        snapshotter: 'overlayfs',
        key: 'redis',
        kind: 'active',
        parent: 'n',
        labels: {},
        backendKey: 'b3',
        mounts,
      },
    },
    { ...place, event: { type: 'ContainerCreated', container: record }, attachments: [Buffer.from('{}')] },
    { ...place, event: { type: 'ContentUpdated', digest: 'd', labels: {} } },
    { namespace: '', stream: 'plugin/runtime/v2', event: plugin(1).PluginRegistered },
    { ...place, event: taskFacts.TaskCreateRequested },
    { ...place, event: taskFacts.TaskCreated },
    { ...place, event: { type: 'LeaseDeleted', id: 'l' }, ends: true },
    { ...place, event: { type: 'SnapshotRemoved', snapshotter: 'overlayfs', key: 'redis', backendKey: 'b3' } },
    { ...place, event: { type: 'ImageDeleted', name: 'redis' } },
  ]
  history.add(...facts)
  for (let cut = 0; cut <= facts.length; cut++) {
    const before = new World()
    for (const record of history.records.slice(0, cut)) before.apply(record)
    const resumed = decoded(encodeWorld(before))
    for (const record of history.records.slice(cut)) resumed.apply(record)
    same(t, resumed, history.world, `cut after ${cut}`)
    const recorded = ['b1', 'b2', 'b3'].filter(key => resumed.backendKeys.has('overlayfs', key))
    t.same(recorded, ['b2'], 'the files of a snapshot are known for as long as it is recorded')
  }
  const here = history.world.namespace(ns)
  t.equal(here.container('redis').facts.record?.spec?.sequence, '9', 'a heavy part lies where its record does')
  t.match(here.snapshot('overlayfs', 'n'), { kind: 'committed', mounts: [], usage: { size: '5' } })
  t.equal(here.blobs.get('d')?.size, '9007199254740993')
  t.same(here.contents(), ['blobs', 'containers', 'snapshots on "overlayfs" snapshotter'])
})

t.test('an illegal history is named, with the record that cannot be', async t => {
  const history = new History()
  const place = { namespace: ns, stream: 'task/default/redis' }
  t.throws(() => history.add({ ...place, event: taskFacts.TaskStarted }), {
    name: 'IllegalHistory',
    message: 'record 1 (TaskStarted of task/default/redis): not possible while absent',
  })
  t.throws(() => new History().add({ ...place, event: taskFacts.TaskCreateRequested }), IllegalHistory, 'no container')
  t.throws(
    () => new History().add({ ...place, event: { type: 'ContentUpdated', digest: 'd', labels: {} } }),
    IllegalHistory,
  )
})

t.test('what comes into a namespace while its deletion is on the way to the disk stays', async t => {
  const history = new History()
  history.add(
    { namespace: ns, stream: 'a', event: { type: 'NamespaceCreated', name: ns, labels: { a: '1' } } },
    { namespace: ns, stream: containerStream(ns, 'redis'), event: { type: 'ContainerCreated', container: record } },
    { namespace: ns, stream: 'a', event: { type: 'NamespaceDeleted', name: ns } },
    { namespace: ns, stream: 'b', event: taskFacts.TaskCreateRequested },
  )
  t.equal(history.world.namespace(ns).container('redis').state, 'occupied')
  t.same(history.world.namespace(ns).labels, {})
})

t.test(
  'a store opens with what was durable, tells each event once after it is folded in, and saves itself',
  async t => {
    const log = pino({ level: 'silent' })
    const journal = openMemoryJournal({ node: 'n', log })
    t.teardown(() => journal.close())
    const entry = (fact: Fact) =>
      journal.append({
        entries: [encodeFact(fact)],
        ...{ expected: new Map(), causation: '', correlation: '', actor, timeUnixNano: 5n, mayUseReserve: false },
      })
    const lease = (id: string): Fact => ({
      namespace: ns,
      stream: `lease/${id}`,
      event: { type: 'LeaseCreated', id, labels: {} },
    })
    await entry(lease('before'))
    const store = await Store.open(journal, log)
    t.same([...store.world.namespace(ns).leases.keys()], ['before'])
    const told: unknown[] = []
    const stop = store.subscribe(({ event, record }) => {
      told.push([record.sequence, event.type, store.world.namespace(ns).leases.size])
    })
    const streamTold: bigint[] = []
    const stopStream = store.subscribeStream('lease/c', ({ record }) => void streamTold.push(record.sequence))
    await entry(lease('b'))
    await entry(lease('c'))
    stop()
    stopStream()
    await entry(lease('d'))
    t.same(told, [
      [2n, 'LeaseCreated', 2],
      [3n, 'LeaseCreated', 3],
    ])
    t.same(streamTold, [3n])
    await store.close()
    const snapshot = await journal.loadSnapshot()
    t.equal(snapshot?.sequence, 4n, 'what was folded is written out at the end')
    t.same(
      [
        ...decoded(snapshot?.state ?? Buffer.alloc(0))
          .namespace(ns)
          .leases.keys(),
      ],
      ['before', 'b', 'c', 'd'],
    )
  },
)
