// containerd.services.tasks.v1.Tasks: lifecycles by command, states from the fold, the rest from the runtime.
import { Code, notFound, StatusError } from '../../../plugins/kit/errors.js'
import { type CallContext, type Served, unary } from '../../../plugins/kit/serve.js'
import type { TasksServer } from '../../../proto/gen/containerd/services/tasks/v1/tasks.js'
import type { Metric } from '../../../proto/gen/containerd/types/metrics.js'
import { type Process, Status } from '../../../proto/gen/containerd/v1/types/task.js'
import type { Clock } from '../clock.js'
import type { DomainEvent } from '../domain/decision.js'
import type { Exec } from '../domain/exec/decide.js'
import { requestExec, stepExec } from '../domain/exec/decide.js'
import type { ExecEvent } from '../domain/exec/events.js'
import { containerStream, execStream, taskStream } from '../domain/streams.js'
import type { Task } from '../domain/task/decide.js'
import { requestTask, stepTask } from '../domain/task/decide.js'
import type { TaskCreateRequested, TaskEvent, TaskState } from '../domain/task/events.js'
import { instantOf } from '../domain/time.js'
import { checkIdentifier } from '../domain/validate.js'
import { answered, openIntent } from '../effects/answers.js'
import type { RuntimeCalls } from '../effects/ports.js'
import type { Runner } from '../runner.js'
import { descriptorToProto, mountFromProto, smallFromAny } from '../state/convert.js'
import type { Store } from '../state/store.js'
import { type ApiCall, filtersOf, insist, namespacedCall } from './call.js'
import { checkParent, checkpointOf, imagePathOf } from './checkpoints.js'
import { exitOf, exitToProto, nextExit } from './exit.js'
import { statusOfExec, statusOfTask } from './processStatus.js'

interface Deps {
  runner: Runner
  store: Store
  runtime: RuntimeCalls
  clock: Clock
  /** Whether it is known that the shim of a task does not answer now. */
  isUnresponsive(namespace: string, id: string): boolean
}

/** How long is waited for the metrics of those that do not answer. */
const metricsDeadlineMs = 5_000

export function tasksService({ runner, store, runtime, clock, isUnresponsive }: Deps): Served<TasksServer> {
  const here = (call: ApiCall) => store.world.namespace(call.namespace)

  const step = (call: ApiCall, event: TaskEvent) =>
    runner.complete(call.cause, containerStream(call.namespace, event.containerId), world =>
      stepTask(call.namespace, world.namespace(call.namespace).task(event.containerId), event),
    )

  const stepOfExec = (call: ApiCall, event: ExecEvent) =>
    runner.complete(call.cause, containerStream(call.namespace, event.containerId), world =>
      stepExec(call.namespace, world.namespace(call.namespace).exec(event.containerId, event.execId), event),
    )

  /** A task or exec that is there; throws NOT_FOUND otherwise. */
  const taskOf = (call: ApiCall, id: string): Task => {
    const task = here(call).task(id)
    if (task.state === 'absent' || task.state === 'creating') throw notFound(`task ${id}`)
    return task
  }
  const execOf = (call: ApiCall, id: string, execId: string): Exec => {
    taskOf(call, id)
    const exec = here(call).exec(id, execId)
    if (exec.state === 'absent') throw notFound(`exec ${execId} of task ${id}`)
    return exec
  }

  /** What was asked of it before is answered first, rather than held against a command. Signals do not wait. */
  const settled = ({ namespace }: ApiCall, { signal }: CallContext, id: string, execId = '') =>
    answered(store, () => openIntent(store.world.namespace(namespace), namespace, id, execId), { signal })

  return {
    create: unary(async (request, context) => {
      const call = namespacedCall(context, 'Tasks/Create')
      const { containerId } = request
      await settled(call, context, containerId)
      const record = here(call).container(containerId).facts.record
      if (!record) throw notFound(`container "${containerId}" in namespace "${call.namespace}"`)
      const event: TaskCreateRequested = {
        type: 'TaskCreateRequested',
        containerId,
        runtime: request.runtimePath || record.runtime.name,
        stdio: stdioOf(request),
        rootfs: request.rootfs.map(mountFromProto),
        options: request.options ? smallFromAny(request.options) : record.runtime.options,
        checkpoint: checkpointOf(request, here(call).blobs),
      }
      await runner.complete(call.cause, containerStream(call.namespace, containerId), world => {
        const now = world.namespace(call.namespace)
        return requestTask(call.namespace, now.container(containerId), now.task(containerId), event)
      })
      return { containerId, pid: here(call).task(containerId).facts.pid }
    }),

    start: unary(async ({ containerId, execId }, context) => {
      const call = namespacedCall(context, 'Tasks/Start')
      await settled(call, context, containerId, execId)
      if (execId === '') {
        const { pid } = taskOf(call, containerId).facts
        await step(call, { type: 'TaskStartRequested', containerId })
        // One that is restored has a process only now.
        return { pid: pid || here(call).task(containerId).facts.pid }
      }
      execOf(call, containerId, execId)
      // Its record may be gone before the answer, when it ends at once and is deleted by another client.
      const started = remember(store, execStream(call.namespace, containerId, execId), pidOfStart)
      try {
        await stepOfExec(call, { type: 'ExecStartRequested', containerId, execId })
        return { pid: started.last() ?? 0 }
      } finally {
        started.stop()
      }
    }),

    delete: unary(async ({ containerId }, context) => {
      const call = namespacedCall(context, 'Tasks/Delete')
      await settled(call, context, containerId)
      const before = taskOf(call, containerId)
      const ended = remember(store, taskStream(call.namespace, containerId), exitOf)
      try {
        await step(call, { type: 'TaskDeleteRequested', containerId })
        return { id: '', pid: before.facts.pid, ...exitToProto(ended.last() ?? null) }
      } finally {
        ended.stop()
      }
    }),

    deleteProcess: unary(async ({ containerId, execId }, context) => {
      const call = namespacedCall(context, 'Tasks/DeleteProcess')
      await settled(call, context, containerId, execId)
      const { facts } = execOf(call, containerId, execId)
      await stepOfExec(call, { type: 'ExecDeleteRequested', containerId, execId })
      return { id: execId, pid: facts.pid, ...exitToProto(facts.exit) }
    }),

    get: unary((request, context) => {
      const call = namespacedCall(context, 'Tasks/Get')
      const { containerId, execId } = request
      const process =
        execId === ''
          ? processOfTask(containerId, taskOf(call, containerId))
          : processOfExec(execId, execOf(call, containerId, execId))
      return { process: asSeen(call, containerId, process) }
    }),

    list: unary((_request, context) => {
      const call = namespacedCall(context, 'Tasks/List')
      const tasks = [...here(call).tasks].filter(([, { state }]) => state !== 'creating')
      return { tasks: tasks.map(([id, task]) => asSeen(call, id, processOfTask(id, task))) }
    }),

    kill: unary(async ({ containerId, execId, signal, all }, context) => {
      const call = namespacedCall(context, 'Tasks/Kill')
      if (execId === '') {
        const { exit } = taskOf(call, containerId).facts
        // Without a pid namespace of its own, what an ended init process has left in its cgroup still runs.
        if (exit && all) await runtime.kill({ namespace: call.namespace, id: containerId, execId, signal, all })
        else await step(call, { type: 'TaskSignalled', containerId, signal, all })
      } else {
        execOf(call, containerId, execId)
        await stepOfExec(call, { type: 'ExecSignalled', containerId, execId, signal })
      }
      return {}
    }),

    exec: unary(async (request, context) => {
      const call = namespacedCall(context, 'Tasks/Exec')
      const { namespace } = call
      const { containerId, execId } = request
      insist(checkIdentifier(execId), 'exec id')
      await settled(call, context, containerId)
      await settled(call, context, containerId, execId)
      taskOf(call, containerId)
      insist(request.spec ? undefined : 'the process spec is missing')
      const spec = { typeUrl: request.spec?.typeUrl ?? '', value: request.spec?.value ?? Buffer.alloc(0) }
      await runner.complete(call.cause, containerStream(namespace, containerId), world => {
        const now = world.namespace(namespace)
        const command = { namespace, containerId, execId, stdio: stdioOf(request), spec }
        return requestExec(now.task(containerId), now.exec(containerId, execId), command)
      })
      return {}
    }),

    resizePty: unary(async ({ containerId, execId, width, height }, context) => {
      const { namespace } = ofProcess(namespacedCall(context, 'Tasks/ResizePty'), containerId, execId)
      await runtime.resizePty({ namespace, id: containerId, execId, width, height })
      return {}
    }),

    closeIo: unary(async ({ containerId, execId, stdin }, context) => {
      const { namespace } = ofProcess(namespacedCall(context, 'Tasks/CloseIO'), containerId, execId)
      await runtime.closeIo({ namespace, id: containerId, execId, stdin })
      return {}
    }),

    pause: unary(async ({ containerId }, context) => {
      const call = namespacedCall(context, 'Tasks/Pause')
      await settled(call, context, containerId)
      taskOf(call, containerId)
      await step(call, { type: 'TaskPauseRequested', containerId })
      return {}
    }),

    resume: unary(async ({ containerId }, context) => {
      const call = namespacedCall(context, 'Tasks/Resume')
      await settled(call, context, containerId)
      taskOf(call, containerId)
      await step(call, { type: 'TaskResumeRequested', containerId })
      return {}
    }),

    listPids: unary(async ({ containerId }, context) => {
      const call = namespacedCall(context, 'Tasks/ListPids')
      taskOf(call, containerId)
      return runtime.pids({ namespace: call.namespace, id: containerId })
    }),

    checkpoint: unary(async ({ containerId, parentCheckpoint, options }, context) => {
      const call = namespacedCall(context, 'Tasks/Checkpoint')
      const { namespace, lease = null } = call
      await settled(call, context, containerId)
      taskOf(call, containerId)
      if (lease !== null && !here(call).leases.has(lease)) throw notFound(`lease "${lease}"`)
      checkParent(parentCheckpoint, here(call).blobs)
      const imagePath = imagePathOf(options)
      const made = remember(store, taskStream(namespace, containerId), descriptorsOf)
      try {
        const small = options ? smallFromAny(options) : null
        await step(call, { type: 'TaskCheckpointRequested', containerId, options: small, imagePath, lease })
        return { descriptors: (made.last() ?? []).map(descriptorToProto) }
      } finally {
        made.stop()
      }
    }),

    update: unary(async ({ containerId, resources, annotations }, context) => {
      const call = namespacedCall(context, 'Tasks/Update')
      taskOf(call, containerId)
      // No intent goes before: asked again after a crash, the runtime sets the same limits.
      await runtime.update({ namespace: call.namespace, id: containerId, resources, annotations })
      await step(call, { type: 'TaskResourcesUpdated', containerId })
      return {}
    }),

    metrics: unary(async ({ filters }, context) => {
      const call = namespacedCall(context, 'Tasks/Metrics')
      const accepts = filtersOf(filters)
      const ids = [...here(call).tasks]
        .filter(
          ([id, { state }]) =>
            hasMetrics(state) &&
            !isUnresponsive(call.namespace, id) &&
            accepts(([field]) => (field === 'id' ? id : undefined)),
        )
        .map(([id]) => id)
      return { metrics: await collectMetrics(runtime, clock, call.namespace, ids) }
    }),

    wait: unary(async ({ containerId, execId }, context) => {
      const call = namespacedCall(context, 'Tasks/Wait')
      const current = execId === '' ? taskOf(call, containerId) : execOf(call, containerId, execId)
      if (current.facts.exit) return exitToProto(current.facts.exit)
      const { namespace } = call
      const stream = execId === '' ? taskStream(namespace, containerId) : execStream(namespace, containerId, execId)
      return exitToProto(await nextExit(store, stream, context))
    }),
  }

  /** As containerd tells of a process whose shim is silent, only that nobody waits for it here. */
  function asSeen({ namespace }: ApiCall, id: string, process: Process): Process {
    const isKnown = process.status === Status.STOPPED || !isUnresponsive(namespace, id)
    return isKnown ? process : { ...process, status: Status.UNKNOWN }
  }

  /** The call, once it is sure that the process is there. */
  function ofProcess(call: ApiCall, id: string, execId: string): ApiCall {
    if (execId === '') taskOf(call, id)
    else execOf(call, id, execId)
    return call
  }
}

const hasMetrics = (state: TaskState) => withMetrics.has(state)
const withMetrics = new Set<TaskState>([
  ...(['created', 'running', 'pausing', 'paused', 'resuming', 'checkpointing', 'checkpointingPaused'] as const),
])

/** A task that does not answer (it may be ending, or its shim hangs) is left out, as containerd does. */
async function collectMetrics(
  runtime: RuntimeCalls,
  clock: Clock,
  namespace: string,
  ids: readonly string[],
): Promise<Metric[]> {
  const metrics: Metric[] = []
  try {
    for await (const { tasks } of runtime.stats({ namespace, ids: [...ids] }, { deadlineMs: metricsDeadlineMs })) {
      const timestamp = instantOf(clock.now())
      for (const { id, stats } of tasks) metrics.push({ timestamp, id, data: stats })
    }
  } catch (error) {
    if (!(error instanceof StatusError && error.code === Code.DEADLINE_EXCEEDED)) throw error
  }
  return metrics.sort((a, b) => (a.id < b.id ? -1 : 1))
}

/** Remembers the last of what a lifecycle tells, while its record goes. */
function remember<T>(store: Store, stream: string, read: (event: DomainEvent) => T | undefined) {
  let last: T | undefined
  const stop = store.subscribeStream(stream, ({ event }) => {
    last = read(event) ?? last
  })
  return { last: () => last, stop }
}

const descriptorsOf = (event: DomainEvent) => (event.type === 'TaskCheckpointed' ? event.descriptors : undefined)
const pidOfStart = (event: DomainEvent) => (event.type === 'ExecStarted' ? event.pid : undefined)

/** As containerd answers: the container's id is in `id`, and `container_id` is empty. */
function processOfTask(id: string, { state, facts }: Task): Process {
  const { pid, stdio, exit } = facts
  return { containerId: '', id, pid, status: statusOfTask[state], ...stdio, ...exitToProto(exit) }
}

function processOfExec(id: string, { state, facts }: Exec): Process {
  const { pid, stdio, exit } = facts
  return { containerId: '', id, pid, status: statusOfExec[state], ...stdio, ...exitToProto(exit) }
}

function stdioOf(request: { stdin: string; stdout: string; stderr: string; terminal: boolean }) {
  const { stdin, stdout, stderr, terminal } = request
  return { stdin, stdout, stderr, terminal }
}
