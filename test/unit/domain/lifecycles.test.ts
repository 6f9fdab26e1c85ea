// Every machine against the table of all its transitions, and what each wish is answered in each state.
import t from 'tap'
import {
  createContainer,
  deleteContainer,
  updateContainer,
} from '../../../services/supervisor/domain/container/decide.js'
import { containerMachine } from '../../../services/supervisor/domain/container/machine.js'
import { recordExecExit, requestExec, stepExec } from '../../../services/supervisor/domain/exec/decide.js'
import { execMachine } from '../../../services/supervisor/domain/exec/machine.js'
import { stepNetwork } from '../../../services/supervisor/domain/network/decide.js'
import { networkMachine } from '../../../services/supervisor/domain/network/machine.js'
import { stepPlugin } from '../../../services/supervisor/domain/plugin/decide.js'
import { emissionsRemembered } from '../../../services/supervisor/domain/plugin/events.js'
import { pluginMachine } from '../../../services/supervisor/domain/plugin/machine.js'
import { recordDeleted, recordExit, requestTask, stepTask } from '../../../services/supervisor/domain/task/decide.js'
import { taskMachine } from '../../../services/supervisor/domain/task/machine.js'
import { container, exec, exit, network, plugin, record, stdio, task } from './facts.js'
import { givenFor, holdsTo, lived } from './given.js'
import { execTransitions, taskTransitions } from './tables.js'

const ns = 'default'
const { TaskCreateRequested, TaskCreated, TaskStartRequested, TaskStarted, TaskExited, TaskDeleteRequested } = task
const running = [TaskCreateRequested, TaskCreated, TaskStartRequested, TaskStarted]
const { ExecRequested, ExecAdded, ExecStartRequested, ExecStarted, ExecExited, ExecDeleteRequested } = exec

t.test('a task moves as the table says, and in no other way', async t => {
  holdsTo(
    t,
    taskMachine,
    taskTransitions,
    {
      absent: [],
      creating: [TaskCreateRequested],
      created: [TaskCreateRequested, TaskCreated],
      starting: [TaskCreateRequested, TaskCreated, TaskStartRequested],
      running,
      pausing: [...running, task.TaskPauseRequested],
      paused: [...running, task.TaskPauseRequested, task.TaskPaused],
      resuming: [...running, task.TaskPauseRequested, task.TaskPaused, task.TaskResumeRequested],
      checkpointing: [...running, task.TaskCheckpointRequested],
      checkpointingPaused: [...running, task.TaskPauseRequested, task.TaskPaused, task.TaskCheckpointRequested],
      checkpointingStopped: [...running, task.TaskCheckpointRequested, TaskExited],
      stopped: [...running, TaskExited],
      deleting: [...running, TaskExited, TaskDeleteRequested],
    },
    task,
  )
})

t.test('a process of a task moves as the table says, and in no other way', async t => {
  holdsTo(
    t,
    execMachine,
    execTransitions,
    {
      absent: [],
      adding: [ExecRequested],
      added: [ExecRequested, ExecAdded],
      starting: [ExecRequested, ExecAdded, ExecStartRequested],
      running: [ExecRequested, ExecAdded, ExecStartRequested, ExecStarted],
      stopped: [ExecRequested, ExecAdded, ExecStartRequested, ExecStarted, ExecExited],
      deleting: [ExecRequested, ExecAdded, ExecDeleteRequested],
    },
    exec,
  )
})

t.test('a container moves as the table says, and in no other way', async t => {
  holdsTo(
    t,
    containerMachine,
    {
      absent: { ContainerCreated: 'idle' },
      idle: {
        ContainerUpdated: 'idle',
        ContainerPartsMoved: 'idle',
        TaskCreateRequested: 'occupied',
        ContainerDeleted: 'absent',
      },
      occupied: {
        ContainerUpdated: 'occupied',
        ContainerPartsMoved: 'occupied',
        TaskCreateFailed: 'idle',
        TaskDeleted: 'idle',
      },
    },
    {
      absent: [],
      idle: [container.ContainerCreated],
      occupied: [container.ContainerCreated, container.TaskCreateRequested],
    },
    container,
  )
})

t.test('an attachment to a network moves as the table says, and in no other way', async t => {
  const { NetworkAttachRequested, NetworkAttached, NetworkDetachRequested, NetworkDetachFailed } = network
  holdsTo(
    t,
    networkMachine,
    {
      absent: { NetworkAttachRequested: 'attaching' },
      attaching: { NetworkAttached: 'attached', NetworkAttachFailed: 'absent', NetworkDetachRequested: 'detaching' },
      attached: { NetworkDetachRequested: 'detaching' },
      detaching: { NetworkDetached: 'absent', NetworkDetachFailed: 'stranded' },
      stranded: { NetworkDetachRequested: 'detaching' },
    },
    {
      absent: [],
      attaching: [NetworkAttachRequested],
      attached: [NetworkAttachRequested, NetworkAttached],
      detaching: [NetworkAttachRequested, NetworkAttached, NetworkDetachRequested],
      stranded: [NetworkAttachRequested, NetworkAttached, NetworkDetachRequested, NetworkDetachFailed],
    },
    network,
  )
  const attached = lived(networkMachine, [NetworkAttachRequested, NetworkAttached])
  t.match(attached.facts, { network: 'bridge', netnsPath: '/run/netns/x', addresses: ['10.0.0.2/24'] })
})

t.test('what waits for an answer from outside is known by its machine', async t => {
  const waiting = <State extends string>(
    machine: { awaitsAnswer(state: State): boolean },
    transitions: { readonly [Name in State]: unknown },
  ) => (Object.keys(transitions) as State[]).filter(state => machine.awaitsAnswer(state))
  const asked = ['creating', 'starting', 'pausing', 'resuming', 'deleting']
  const written = ['checkpointing', 'checkpointingPaused', 'checkpointingStopped']
  t.same(waiting(taskMachine, taskTransitions).sort(), [...asked, ...written].sort())
  t.same(waiting(execMachine, execTransitions), ['adding', 'starting', 'deleting'])
  t.ok(networkMachine.awaitsAnswer('attaching') && networkMachine.awaitsAnswer('detaching'))
  t.ok(networkMachine.awaitsAnswer('stranded'), 'what could not be detached is tried again')
  t.notOk(networkMachine.awaitsAnswer('attached'))
})

t.test('a task is made of a container that is there, also when its client saw one a moment ago', async t => {
  const { absent } = containerMachine
  const idle = lived(containerMachine, [container.ContainerCreated])
  const gone = lived(containerMachine, [container.ContainerCreated, container.ContainerDeleted])
  t.match(requestTask(ns, idle, taskMachine.absent, TaskCreateRequested), { facts: [{ event: TaskCreateRequested }] })
  for (const missing of [absent, gone])
    t.match(requestTask(ns, missing, taskMachine.absent, TaskCreateRequested), { refused: 'not-found' })
  const occupied = lived(containerMachine, [container.ContainerCreated, TaskCreateRequested])
  const task = lived(taskMachine, [TaskCreateRequested])
  t.match(requestTask(ns, occupied, task, TaskCreateRequested), { refused: 'already-exists' })
})

t.test('a plugin of the present registration moves as the table says, and in no other way', async t => {
  const { PluginRegistered, PluginReady, PluginDraining, PluginLost, PluginLeft } = plugin(1)
  const ends = { PluginLost: 'lost', PluginLeft: 'left' } as const
  holdsTo(
    t,
    pluginMachine,
    {
      absent: { PluginRegistered: 'opening' },
      opening: { PluginReady: 'ready', ...ends, PluginEmitted: 'opening' },
      ready: { PluginDraining: 'draining', ...ends, PluginEmitted: 'ready' },
      draining: { ...ends, PluginEmitted: 'draining' },
      lost: { PluginEmitted: 'lost' },
      left: { PluginEmitted: 'left' },
    },
    {
      absent: [],
      opening: [PluginRegistered],
      ready: [PluginRegistered, PluginReady],
      draining: [PluginRegistered, PluginReady, PluginDraining],
      lost: [PluginRegistered, PluginLost],
      left: [PluginRegistered, PluginReady, PluginLeft],
    },
    plugin(1),
  )
})

const givenTask = givenFor(taskMachine)

t.test('what a task is refused, a client understands', async t => {
  const step = (event: Parameters<typeof stepTask>[2]) => (current: Parameters<typeof stepTask>[1]) =>
    stepTask(ns, current, event)
  givenTask().when(step(TaskStartRequested)).thenRefused(t, 'not-found', 'task redis')
  givenTask().when(step(task.TaskSignalled)).thenRefused(t, 'not-found', 'task redis')
  givenTask(TaskCreateRequested).when(step(TaskCreateRequested)).thenRefused(t, 'already-exists', 'task redis')
  givenTask(...running)
    .when(step(TaskStartRequested))
    .thenRefused(t, 'failed-precondition', 'cannot start task redis: it is running')
  givenTask(...running)
    .when(step(TaskDeleteRequested))
    .thenRefused(t, 'failed-precondition', 'cannot delete task redis: it is running')
  givenTask(...running)
    .when(step(task.TaskResumeRequested))
    .thenRefused(t, 'failed-precondition', 'cannot resume task redis: it is running')
  givenTask(...running, TaskExited)
    .when(step(task.TaskSignalled))
    .thenRefused(t, 'not-found', 'process already finished')
  givenTask(...running, TaskExited)
    .when(step(task.TaskPauseRequested))
    .thenRefused(t, 'failed-precondition', /it is stopped$/)
  givenTask(TaskCreateRequested, TaskCreated).when(step(TaskDeleteRequested)).thenFacts(t, 'TaskDeleteRequested')
})

t.test('an exit is recorded once, after the start, and only of the process that it belongs to', async t => {
  const report = (pid: number) => (current: Parameters<typeof recordExit>[2]) =>
    recordExit(ns, 'redis', current, { pid, exit })
  const starting = [TaskCreateRequested, TaskCreated, TaskStartRequested]
  givenTask(...running)
    .when(report(42))
    .thenFacts(t, 'TaskExited')
  givenTask(...starting)
    .when(report(42))
    .thenFacts(t, 'TaskStarted', 'TaskExited')
  givenTask(...running, task.TaskPauseRequested)
    .when(report(42))
    .thenFacts(t, 'TaskExited')
  givenTask(...running, task.TaskPauseRequested, task.TaskPaused)
    .when(report(42))
    .thenFacts(t, 'TaskExited')
  givenTask(TaskCreateRequested, TaskCreated, TaskDeleteRequested).when(report(42)).thenFacts(t, 'TaskExited')
  givenTask(...running, TaskExited)
    .when(report(42))
    .thenFacts(t)
  givenTask(...running, TaskExited, TaskDeleteRequested)
    .when(report(42))
    .thenFacts(t)
  givenTask(...running)
    .when(report(41))
    .thenFacts(t)
  givenTask().when(report(42)).thenFacts(t)
  givenTask(TaskCreateRequested).when(report(42)).thenFacts(t)
})

t.test('what a task has learnt is kept until it is gone', async t => {
  t.match(lived(taskMachine, running).facts, {
    runtime: 'r',
    stdio,
    bundle: '/b',
    pid: 42,
    exit: null,
    outOfMemory: false,
  })
  t.match(lived(taskMachine, [...running, task.TaskOutOfMemory, TaskExited]).facts, {
    pid: 42,
    exit,
    outOfMemory: true,
  })
  t.match(lived(taskMachine, [...running, TaskExited, task.TaskOutOfMemory]).facts, { outOfMemory: true })
  const gone = lived(taskMachine, [...running, TaskExited, TaskDeleteRequested, task.TaskDeleted])
  t.same(gone, taskMachine.absent)
})

t.test('a failed deletion leaves a task as it was', async t => {
  const failed = [TaskDeleteRequested, task.TaskDeleteFailed]
  t.equal(lived(taskMachine, [...running, TaskExited, ...failed]).state, 'stopped')
  t.equal(lived(taskMachine, [TaskCreateRequested, TaskCreated, ...failed]).state, 'created')
  t.equal(
    lived(taskMachine, [TaskCreateRequested, TaskCreated, TaskDeleteRequested, TaskExited, task.TaskDeleteFailed])
      .state,
    'stopped',
  )
})

t.test('the deletion of a task takes its processes with it', async t => {
  const deleted = (current: Parameters<typeof recordDeleted>[2]) => {
    const execs = new Map([
      ['sh', lived(execMachine, [ExecRequested, ExecAdded])],
      ['ps', lived(execMachine, [ExecRequested, ExecAdded, ExecStartRequested, ExecStarted, ExecExited])],
      ['none', execMachine.absent],
    ])
    return recordDeleted(ns, 'redis', current, execs, { pid: 42, exit })
  }
  givenTask(...running, TaskExited, TaskDeleteRequested)
    .when(deleted)
    .thenFacts(t, 'ExecAbandoned', 'ExecAbandoned', 'TaskDeleted')
  givenTask(...running)
    .when(deleted)
    .thenRefused(t, 'failed-precondition', /it is running$/)
})

t.test('a process is added to a task that is created or runs, and each id once at a time', async t => {
  const command = {
    namespace: ns,
    containerId: 'redis',
    execId: 'sh',
    stdio,
    spec: { typeUrl: 's', value: Buffer.from('{}') },
  }
  const givenExec = givenFor(execMachine)
  const add = (current: Parameters<typeof requestExec>[1]) => requestExec(lived(taskMachine, running), current, command)
  givenExec().when(add).thenFacts(t, 'ExecRequested')
  givenExec(ExecRequested).when(add).thenRefused(t, 'already-exists', 'exec sh of task redis')
  const notRunning: [string, (typeof running)[number][] | (typeof task)[keyof typeof task][]][] = [
    ['starting', [TaskCreateRequested, TaskCreated, TaskStartRequested]],
    ['pausing', [...running, task.TaskPauseRequested]],
    ['stopped', [...running, TaskExited]],
  ]
  givenTask(TaskCreateRequested, TaskCreated)
    .when(current => requestExec(current, execMachine.absent, command))
    .thenFacts(t, 'ExecRequested')
  for (const [state, history] of notRunning) {
    givenTask(...history)
      .when(current => requestExec(current, execMachine.absent, command))
      .thenRefused(t, 'failed-precondition', `cannot exec in task redis: it is ${state}`)
  }
  givenTask()
    .when(current => requestExec(current, execMachine.absent, command))
    .thenRefused(t, 'not-found', 'task redis')
})

t.test('the exit of an added process is recorded as that of a task is', async t => {
  const givenExec = givenFor(execMachine)
  const report = (pid: number) => (current: Parameters<typeof recordExecExit>[3]) =>
    recordExecExit(ns, 'redis', 'sh', current, { pid, exit })
  const started = [ExecRequested, ExecAdded, ExecStartRequested, ExecStarted]
  givenExec(...started)
    .when(report(43))
    .thenFacts(t, 'ExecExited')
  givenExec(ExecRequested, ExecAdded, ExecStartRequested).when(report(43)).thenFacts(t, 'ExecStarted', 'ExecExited')
  givenExec(...started, ExecExited)
    .when(report(43))
    .thenFacts(t)
  givenExec(...started)
    .when(report(44))
    .thenFacts(t)
  givenExec(ExecRequested, ExecAdded).when(report(43)).thenFacts(t)
  givenExec().when(report(43)).thenFacts(t)
  const signal = (current: Parameters<typeof stepExec>[1]) => stepExec(ns, current, exec.ExecSignalled)
  givenExec(...started, ExecExited)
    .when(signal)
    .thenRefused(t, 'not-found', 'process already finished')
  givenExec().when(signal).thenRefused(t, 'not-found', 'exec sh of task redis')
  givenExec(ExecRequested, ExecAdded)
    .when(signal)
    .thenRefused(t, 'failed-precondition', /cannot signal .* it is added$/)
})

t.test('a container is created once, changed while it is there, and deleted only without a task', async t => {
  const givenContainer = givenFor(containerMachine)
  const { ContainerCreated, TaskCreateRequested: occupy, TaskDeleted } = container
  const create = (current: Parameters<typeof createContainer>[1]) =>
    createContainer(ns, current, record, [Buffer.from('spec')])
  const update = (change: object) => (current: Parameters<typeof updateContainer>[1]) =>
    updateContainer(ns, current, { ...record, ...change }, [])
  const remove = (current: Parameters<typeof deleteContainer>[1]) => deleteContainer(ns, current, 'redis')
  givenContainer().when(create).thenFacts(t, 'ContainerCreated')
  givenContainer(ContainerCreated).when(create).thenRefused(t, 'already-exists', 'container "redis"')
  givenContainer(ContainerCreated)
    .when(update({ image: 'new' }))
    .thenFacts(t, 'ContainerUpdated')
  givenContainer(ContainerCreated)
    .when(update({ snapshotter: 'native' }))
    .thenRefused(t, 'invalid-argument', /immutable$/)
  givenContainer(ContainerCreated)
    .when(update({ runtime: { name: 'other', options: null } }))
    .thenRefused(t, 'invalid-argument', /immutable$/)
  givenContainer().when(update({})).thenRefused(t, 'not-found', 'container "redis"')
  givenContainer(ContainerCreated).when(remove).thenFacts(t, 'ContainerDeleted')
  givenContainer(ContainerCreated, occupy)
    .when(remove)
    .thenRefused(t, 'failed-precondition', /it has a task; delete the task first$/)
  givenContainer(ContainerCreated, occupy, TaskDeleted).when(remove).thenFacts(t, 'ContainerDeleted')
  givenContainer().when(remove).thenRefused(t, 'not-found', 'container "redis"')
})

t.test('a network is attached once and detached until it works', async t => {
  const given = givenFor(networkMachine)
  const {
    NetworkAttachRequested: attach,
    NetworkAttached,
    NetworkDetachRequested: detach,
    NetworkDetachFailed,
  } = network
  const step = (event: Parameters<typeof stepNetwork>[2]) => (current: Parameters<typeof stepNetwork>[1]) =>
    stepNetwork(ns, current, event)
  given().when(step(attach)).thenFacts(t, 'NetworkAttachRequested')
  given(attach)
    .when(step(attach))
    .thenRefused(t, 'already-exists', /container "redis"$/)
  given()
    .when(step(detach))
    .thenRefused(t, 'not-found', /container "redis"$/)
  given(attach, NetworkAttached, detach)
    .when(step(detach))
    .thenRefused(t, 'failed-precondition', /it is detaching$/)
  given(attach, NetworkAttached, detach, NetworkDetachFailed).when(step(detach)).thenFacts(t, 'NetworkDetachRequested')
})

t.test('only the newest registration speaks for a plugin, and what it says twice is news once', async t => {
  const given = givenFor(pluginMachine)
  const [first, second] = [plugin(1), plugin(2)]
  const step = (event: Parameters<typeof stepPlugin>[1]) => (current: Parameters<typeof stepPlugin>[0]) =>
    stepPlugin(current, event)
  const twice = [first.PluginRegistered, first.PluginReady, second.PluginRegistered]
  given(...twice)
    .when(step(first.PluginLost))
    .thenFacts(t)
  given(...twice)
    .when(step(first.PluginReady))
    .thenFacts(t)
  given(...twice)
    .when(step(second.PluginReady))
    .thenFacts(t, 'PluginReady')
  given(...twice)
    .when(step(first.PluginRegistered))
    .thenFacts(t)
  given(first.PluginRegistered, first.PluginLost).when(step(second.PluginRegistered)).thenFacts(t, 'PluginRegistered')
  given(first.PluginRegistered).when(step(first.PluginEmitted)).thenFacts(t, 'PluginEmitted')
  given(first.PluginRegistered, first.PluginEmitted).when(step(first.PluginEmitted)).thenFacts(t)
  given(...twice, second.PluginReady)
    .when(step(first.PluginEmitted))
    .thenFacts(t, 'PluginEmitted')
  t.equal(lived(pluginMachine, twice).facts.version, '0.2')

  const many = Array.from({ length: emissionsRemembered + 1 }, (_, index) => ({
    ...first.PluginEmitted,
    emissionId: `e${index}`,
  }))
  const { emissions } = lived(pluginMachine, [first.PluginRegistered, ...many]).facts
  t.equal(emissions.length, emissionsRemembered, 'what is remembered is bounded')
  t.equal(emissions.at(-1), `e${emissionsRemembered}`)
})
