// Answers that nobody has: what is recorded when a plugin dies over a call or the journal does not take its answer, and
// what recovery makes of it.
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { Code, notFound, unavailable, unimplemented } from '../../../plugins/kit/errors.js'
import { Info } from '../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import { Status } from '../../../proto/gen/containerd/v1/types/task.js'
import { Liveness, type StateResponse } from '../../../proto/gen/purser/runtime/v1/runtime.js'
import { systemClock } from '../../../services/supervisor/clock.js'
import { openCore } from '../../../services/supervisor/core.js'
import { createContainer } from '../../../services/supervisor/domain/container/decide.js'
import { removeSnapshot } from '../../../services/supervisor/domain/snapshot/decide.js'
import { containerStream } from '../../../services/supervisor/domain/streams.js'
import { requestTask, stepTask } from '../../../services/supervisor/domain/task/decide.js'
import type { TaskEvent } from '../../../services/supervisor/domain/task/events.js'
import type { NetworkCalls, RuntimeCalls, SnapshotterCalls } from '../../../services/supervisor/effects/ports.js'
import { snapshotLane } from '../../../services/supervisor/effects/snapshots.js'
import { type Batch, JournalUnavailable } from '../../../services/supervisor/journal/journal.js'
import { openMemoryJournal } from '../../../services/supervisor/journal/memoryLog.js'
import { Store } from '../../../services/supervisor/state/store.js'
import { record, task } from '../domain/facts.js'

const ns = 'default'
const id = 'redis'
const cause = { actor: { pid: 1, uid: 0, gid: 0, name: '' }, causation: 'test', correlation: 'request' }
const { TaskCreateRequested: create, TaskStartRequested: start } = task

/** Files of a snapshotter: by backend key, whether it is a layer. */
function snapshotter(files: Map<string, boolean>, around: { commit: (work: () => void) => unknown }): SnapshotterCalls {
  return calls<SnapshotterCalls>({
    prepare: async ({ key }) => {
      files.set(key, false)
      return { mounts: [] }
    },
    commit: async ({ key, name }) => {
      await around.commit(() => {
        if (!files.delete(key)) throw notFound(key)
        files.set(name, true)
      })
      return {}
    },
    usage: async ({ key }) => {
      if (!files.has(key)) throw notFound(key)
      return { size: 4096n, inodes: 1n }
    },
    async *list() {
      yield { info: [...files.keys()].map(name => Info.fromPartial({ name })) }
    },
  })
}

/** A plugin's service of which only some methods are ever called. */
function calls<Service extends object>(some: Partial<Service>): Service {
  const missing = (name: string | symbol) => () => Promise.reject(unimplemented(String(name)))
  return new Proxy(some, { get: (target, name) => Reflect.get(target, name) ?? missing(name) }) as Service
}

/** The core over a runtime that holds `real`, and answers as `faults` says. */
async function world(
  t: Test,
  faults: Partial<RuntimeCalls> = {},
  labels: Record<string, string> = {},
  networkFaults: Partial<NetworkCalls> = {},
) {
  const log = pino({ level: 'silent' })
  const journal = openMemoryJournal({ node: 'test', log })
  const refusals = { of: (_batch: Batch): boolean => false }
  const append = journal.append.bind(journal)
  journal.append = async batch => {
    if (refusals.of(batch)) throw new JournalUnavailable('full', 'the disk is full', 'make room')
    return append(batch)
  }
  const store = await Store.open(journal, log)
  const real: { init: StateResponse | undefined } = { init: undefined }
  const told: string[] = []
  store.subscribe(({ event }) => void told.push(event.type))
  const runtime = calls<RuntimeCalls>({
    create: async () => {
      real.init = { pid: 7, status: Status.CREATED, exitStatus: 0, exitedAt: undefined }
      return { pid: 7, bundle: '/b', adjustments: [] }
    },
    start: async () => {
      if (real.init) real.init.status = Status.RUNNING
      return { pid: 7 }
    },
    destroy: async () => {
      real.init = undefined
      return {}
    },
    async *list() {
      const { init } = real
      const tasks = init
        ? [{ namespace: ns, id, bundle: '/b', liveness: Liveness.LIVENESS_ALIVE, init: { ...init } }]
        : []
      yield { names: tasks.map(() => ({ namespace: ns, id })), tasks }
    },
    ...faults,
  })
  const network = calls<NetworkCalls>({
    attach: async () => ({
      attachment: {
        ...{ namespace: ns, id, network: 'bridge', netnsPath: '/n', interface: 'eth0', result: Buffer.alloc(0) },
        ...{ addresses: ['10.0.0.2/24'], gateways: ['10.0.0.1'] },
      },
    }),
    detach: async () => ({}),
    list: async () => ({ attachments: [] }),
    ...networkFaults,
  })
  const files = new Map<string, boolean>()
  const around = { commit: (work: () => void): unknown => work() }
  const layers = snapshotter(files, around)
  const core = await openCore({
    ...{ store, journal, log, clock: systemClock(), observe: () => {} },
    calls: {
      runtime,
      network,
      content: calls({}),
      differ: calls({}),
      writeBlob: async () => {},
      snapshotter: () => layers,
    },
    checkpointFiles: { make: async () => '/c', remove: async () => {} },
  })
  t.teardown(() => core.close())
  const lane = containerStream(ns, id)
  const state = () => store.world.namespace(ns).task(id).state
  await core.runner.run(cause, lane, world =>
    createContainer(ns, world.namespace(ns).container(id), { ...record, labels }, [Buffer.from('{}')]),
  )
  return {
    ...{ core, store, journal, real, told, refusals, state, files, around },
    create: () =>
      core.runner.complete(cause, lane, world =>
        requestTask(ns, world.namespace(ns).container(id), world.namespace(ns).task(id), create),
      ),
    step: (event: TaskEvent) =>
      core.runner.complete(cause, lane, world => stepTask(ns, world.namespace(ns).task(id), event)),
    /** The plugin registers, as it does after it has died. */
    async recover(kind = 'runtime', id = 'v2') {
      const plugin = { kind, id }
      const epoch = await core.ledger.registered({ ...plugin, version: '1', endpoint: '', capabilities: [] })
      await core.ledger.ready(plugin, epoch)
      await core.reconciliation.settled()
    },
    /** Resolves when an event of this type was told; what goes on by itself does not keep a process alive. */
    hears: (type: string) =>
      new Promise<void>((resolve, reject) => {
        if (told.includes(type)) return resolve()
        const late = setTimeout(() => reject(new Error(`no ${type} came`)), 60_000)
        store.subscribe(({ event }) => {
          if (event.type !== type) return
          clearTimeout(late)
          resolve()
        })
      }),
  }
}

t.test('a start that succeeded while its answer was lost is a start', async t => {
  const broken = await world(t, {
    start: async () => {
      if (broken.real.init) broken.real.init.status = Status.RUNNING
      throw unavailable('the runtime plugin went away')
    },
  })
  await broken.create()
  await t.rejects(broken.step(start), { message: /went away/ })
  t.equal(broken.state(), 'starting', 'nobody knows yet')
  await broken.recover()
  t.equal(broken.state(), 'running')
  t.notOk(broken.told.includes('TaskStartFailed'))
})

t.test('a start that the journal could not take is not called a failure', async t => {
  const host = await world(t)
  await host.create()
  host.refusals.of = ({ entries }) => entries.some(({ type }) => type === 'TaskStarted')
  await t.rejects(host.step(start), { message: /the disk is full/ })
  t.equal(host.state(), 'starting')
  t.notOk(host.told.includes('TaskStartFailed'))
  await host.recover()
  t.equal(host.state(), 'starting', 'the disk is still full')
  host.refusals.of = () => false
  await host.hears('TaskStarted') // recovery comes back to it by itself
  t.equal(host.state(), 'running')
})

t.test('a created process that could not be recorded is taken back, and its container is free again', async t => {
  const host = await world(t)
  host.refusals.of = ({ entries }) => entries.some(({ type }) => type === 'TaskCreated')
  await t.rejects(host.create(), { message: /the disk is full/ })
  t.ok(host.real.init, 'it is there')
  await host.recover()
  t.equal(host.real.init, undefined)
  t.equal(host.state(), 'absent')
  host.refusals.of = () => false
  await host.create()
  t.equal(host.state(), 'created')
})

t.test('what the runtime no longer has can be deleted', async t => {
  const host = await world(t, {
    delete: () => Promise.reject(Object.assign(new Error('x'), { code: 5, details: 'x' })),
  })
  await host.create()
  await host.step({ type: 'TaskDeleteRequested', containerId: id })
  t.equal(host.state(), 'absent')
})

t.test('a task that goes while the runtime is asked about it is asked about again', async t => {
  let lists = 0
  const host = await world(t, {
    delete: () => Promise.reject(unavailable('the runtime plugin went away')),
    async *list() {
      yield { names: lists++ === 0 ? [{ namespace: ns, id }] : [], tasks: [] }
    },
  })
  await host.create()
  await t.rejects(host.step({ type: 'TaskDeleteRequested', containerId: id }), { message: /went away/ })
  await host.recover()
  t.equal(host.state(), 'deleting', 'it was named, and nothing was told of it')
  await host.hears('TaskDeleted')
  t.equal(host.state(), 'absent')
})

const networked = { 'io.purser/network': 'bridge' }

t.test('an attach whose answer was lost is taken back, and the task can be created again', async t => {
  const answers = [() => unavailable('the network plugin went away')]
  const calls: string[] = []
  const host = await world(t, {}, networked, {
    attach: async () => {
      calls.push('attach')
      throw answers.pop()?.() ?? unimplemented('it')
    },
    detach: async () => {
      calls.push('detach')
      return {}
    },
  })
  await t.rejects(host.create(), { message: /went away/ })
  t.same(calls, ['attach', 'detach'])
  t.match(host.told.slice(1), [
    'TaskCreateRequested',
    'NetworkAttachRequested',
    'NetworkAttachFailed',
    'TaskCreateFailed',
  ])
  await t.rejects(host.create(), { message: /not implemented/ })
  t.same(calls.slice(2), ['attach'], 'what the plugin says has failed, it has cleaned up')
})

t.test('an attach that nobody could take back stays open until the network plugin is asked', async t => {
  let isAway = true
  const away = async () => {
    throw unavailable('the network plugin went away')
  }
  const host = await world(t, {}, networked, { attach: away, detach: () => (isAway ? away() : Promise.resolve({})) })
  await t.rejects(host.create(), { message: /went away/ })
  const network = () => host.store.world.namespace(ns).network(id).state
  t.equal(network(), 'detaching')
  t.notOk(host.told.includes('NetworkAttachFailed'))
  isAway = false
  await host.recover('network')
  t.equal(network(), 'absent')
})

t.test('addresses and the label that tells them change together', async t => {
  const host = await world(t, { delete: async () => ({ pid: 7, exitStatus: 0, exitedAt: undefined }) }, networked)
  const label = () => host.store.world.namespace(ns).container(id).facts.record?.labels['io.purser/network.addresses']
  const batches: string[][] = []
  host.refusals.of = ({ entries }) => {
    batches.push(entries.map(({ type }) => type))
    return false
  }
  await host.create()
  t.equal(label(), '10.0.0.2/24')
  await host.step({ type: 'TaskDeleteRequested', containerId: id })
  t.equal(label(), undefined)
  t.match(
    batches.filter(types => types.includes('ContainerUpdated')),
    [
      ['NetworkAttached', 'ContainerUpdated'],
      ['NetworkDetached', 'ContainerUpdated'],
    ],
  )
})

t.test(
  'a plugin that registered while the journal took nothing is recorded, and reconciled with, afterwards',
  async t => {
    const host = await world(t)
    host.refusals.of = ({ entries }) => entries.some(({ type }) => type.startsWith('Plugin'))
    await host.recover()
    t.equal(host.store.world.plugin('runtime', 'v2').state, 'absent')
    host.refusals.of = () => false
    await host.hears('PluginReady')
    t.equal(host.store.world.plugin('runtime', 'v2').state, 'ready')
  },
)

const layered = { namespace: ns, snapshotter: 'overlayfs', key: 'k' }
const asked = { cause, lease: undefined, labels: {} }

t.test('a commit whose answer was lost is finished, and who asks meanwhile waits for it', async t => {
  const host = await world(t)
  const { signal } = new AbortController()
  const request = { ...asked, place: layered, signal }
  await host.core.snapshots.prepare('active', request, '')
  const { commit } = host.around
  host.around.commit = work => {
    work()
    throw unavailable('the snapshotter went away')
  }
  await t.rejects(host.core.snapshots.requestCommit(request, 'n'), { message: /went away/ })
  t.same([...host.files.values()], [true], 'it is a layer, and nobody knows')
  host.around.commit = commit
  const later = t.rejects(host.core.snapshots.mounts(layered, signal), { code: Code.NOT_FOUND })
  const again = t.rejects(host.core.snapshots.requestCommit(request, 'n'), { code: Code.ALREADY_EXISTS })
  const free = host.core.snapshots.prepare('active', request, '')
  await host.recover('snapshotter', 'overlayfs')
  await Promise.all([later, again, free])
  t.match(host.told.slice(-2), ['SnapshotCommitted', 'SnapshotPrepared'])
  t.equal(host.store.world.namespace(ns).commits.size, 0)
})

t.test('a commit that failed leaves the snapshot as it was', async t => {
  const host = await world(t)
  const { signal } = new AbortController()
  const request = { ...asked, place: layered, signal }
  await host.core.snapshots.prepare('active', request, '')
  host.around.commit = () => Promise.reject(unimplemented('committing'))
  await t.rejects(host.core.snapshots.requestCommit(request, 'n'), { code: Code.UNIMPLEMENTED })
  t.same(await host.core.snapshots.mounts(layered, signal), [])
  t.match(host.told.slice(-2), ['SnapshotCommitRequested', 'SnapshotCommitFailed'])
})

t.test('a snapshot that is removed while it is committed is gone', async t => {
  const host = await world(t)
  const { signal } = new AbortController()
  const request = { ...asked, place: layered, signal }
  await host.core.snapshots.prepare('active', request, '')
  host.around.commit = async work => {
    await host.core.runner.run(cause, snapshotLane(layered), world =>
      removeSnapshot(layered, world.namespace(ns).snapshot('overlayfs', 'k'), 0),
    )
    work()
  }
  await t.rejects(host.core.snapshots.requestCommit(request, 'n'), { code: Code.NOT_FOUND })
  const here = host.store.world.namespace(ns)
  t.equal(here.snapshots.size + here.commits.size, 0)
})
