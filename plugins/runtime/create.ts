// Making a task: bundle, shim and container, or nothing at all.
import { TaskService } from '../../proto/gen/containerd/task/v2/shim.js'
import { Any } from '../../proto/gen/google/protobuf/any.js'
import type { CreateRequest, CreateResponse } from '../../proto/gen/purser/runtime/v1/runtime.js'
import { Code, invalidArgument, StatusError, toStatusError } from '../kit/errors.js'
import { isRuncShim, resolveShim } from './binary.js'
import { cleanUpContainer, shimCommand } from './cleanup.js'
import type { RuntimeContext, SandboxShim } from './context.js'
import { requireCriu } from './criu.js'
import { realtimeBudgetUs } from './host.js'
import { withRuntimeRoot } from './options.js'
import { ShimLost } from './shim.js'
import type { Seat } from './shims.js'
import { type FittedSpec, fitSpec } from './spec.js'
import { checkStdio, holdOutputs } from './stdio.js'
import { endCommands, newMark } from './strays.js'
import type { Task } from './task.js'
import { ConnectionLost } from './ttrpc/client.js'

/** What is decided about a task before anything is touched. */
export interface TaskPlan {
  request: CreateRequest
  binary: string
  fitted: FittedSpec
  /** What shims are shared by. */
  group: string
  options: Any | undefined
  /** Its shim is joined, and none is started. */
  sandbox: SandboxShim | undefined
}

/** containerd's runc shim takes the first of these (runtime/v2/runc/v2, groupLabels). */
const groupAnnotations = ['io.containerd.runc.v2.group', 'io.kubernetes.cri.sandbox-id']

/** Throws INVALID_ARGUMENT or NOT_FOUND. */
export function planTask(context: RuntimeContext, request: CreateRequest): TaskPlan {
  if (!request.spec) throw invalidArgument(`container ${request.id} has no spec`)
  const name = { namespace: request.namespace, id: request.sandbox }
  const sandbox = request.sandbox === '' ? undefined : context.sandboxShim(name)
  const binary = sandbox?.binary ?? resolveShim(request.runtime, context.searchPath)
  checkStdio(request)
  const fitted = fitSpec(request.spec.value, context.host, { netnsPath: request.netnsPath, realtimeBudgetUs })
  const group = sandbox?.group ?? groupAnnotations.map(name => fitted.annotations.get(name)).find(Boolean) ?? request.id
  const options = withRuntimeRoot(request.options, isRuncShim(binary), context.settings.runtimeRoot)
  return { request, binary, fitted, group, options, sandbox }
}

/** On failure nothing is left, and the error has the shim's own words. */
export async function createTask(
  context: RuntimeContext,
  task: Task,
  plan: TaskPlan,
  signal: AbortSignal,
): Promise<CreateResponse> {
  const { binary, fitted, group } = plan
  const { runtime } = plan.request
  const { ownUserNamespace } = fitted
  if (plan.request.checkpoint !== '' && isRuncShim(binary)) await requireCriu(context.searchPath)
  const bundle = context.bundles.make(task.name, fitted.json, fitted.rootGid)
  let taken: Seat | undefined
  try {
    const mark = newMark()
    task.history.record({ kind: 'made', ...task.name, runtime, binary, group, ownUserNamespace, mark })
    const { pid, seat } = await context.starts.run(async () => {
      signal.throwIfAborted()
      const held = holdOutputs(plan.request, context.settings.deadlines.readerMs, signal)
      held.catch(() => undefined) // it is awaited once the shim is there
      try {
        const seat = await joinShim(context, task, plan)
        taken = seat
        await held
        return { pid: await createContainer(context, task, plan, seat, signal), seat }
      } finally {
        held.then(
          outputs => outputs.release(),
          () => undefined,
        )
      }
    })
    task.attach(seat)
    return { pid, bundle, adjustments: fitted.adjustments }
  } catch (error) {
    await discardTask(context, task, taken, isOrderly(error) ? 'politely' : 'byForce')
    throw error
  }
}

async function joinShim(context: RuntimeContext, task: Task, { request, group, sandbox }: TaskPlan): Promise<Seat> {
  const { shimStartMs, reconnectMs } = context.settings.deadlines
  if (sandbox) {
    const place = { ...task.name, bundle: task.history.bundle, group }
    return context.shims.rejoin(place, sandbox.facts, reconnectMs)
  }
  const command = shimCommand(context, task.name, task.history, task.history.origin?.mark)
  // Only the client's own options can name a cgroup for the shim, which is all that `start` looks for.
  const { options } = request
  const input = options && options.value.length > 0 ? Any.encode(options).finish() : undefined
  try {
    return await context.shims.join(command, group, input, { startMs: shimStartMs, connectMs: reconnectMs })
  } catch (error) {
    throw prefixed('failed to start shim', error)
  }
}

async function createContainer(
  context: RuntimeContext,
  task: Task,
  { request, options }: TaskPlan,
  { shim }: Seat,
  signal: AbortSignal,
): Promise<number> {
  const { createMs } = context.settings.deadlines
  const { id, rootfs, stdin, stdout, stderr, terminal, checkpoint } = request
  try {
    // Before Create, which keeps containerd's shim from answering who it is: it may have to be killed.
    if (!shim.facts) await shim.identify(id, { deadlineMs: createMs, signal })
    if (shim.facts) task.history.record({ kind: 'shim', ...shim.facts })
    const { pid } = await shim.call(
      TaskService.create,
      {
        id,
        bundle: task.history.bundle,
        rootfs,
        stdin,
        stdout,
        stderr: terminal ? '' : stderr,
        terminal,
        checkpoint,
        parentCheckpoint: '',
        options,
      },
      { deadlineMs: createMs, signal },
    )
    // One that is restored gets its process when it is started.
    if (pid !== 0) task.exits.note({ kind: 'started', execId: '', pid })
    return pid
  } catch (error) {
    throw prefixed('failed to create shim task', error)
  }
}

/** Removes every trace of a task that is not to be. Failures are logged. */
export async function discardTask(
  context: RuntimeContext,
  task: Task,
  seat: Seat | undefined,
  how: 'politely' | 'byForce',
): Promise<void> {
  // The shim may have to live on for others.
  if (seat && how === 'byForce')
    await endCommands(seat.shim.facts?.mark ?? '', task.history.bundle, context.settings.deadlines.callMs)
  await seat?.leave(how)
  await cleanUpContainer(context, shimCommand(context, task.name, task.history))
  try {
    context.bundles.remove(task.history.bundle)
    task.history.bundle = ''
  } catch (error) {
    context.log.error({ ...task.name, err: error }, 'the bundle of a task that could not be created is left')
  }
}

/** The shim answered, with a refusal: it can be asked to end itself. */
function isOrderly(error: unknown): boolean {
  if (error instanceof Error && isLoss(error.cause)) return false
  const { code } = toStatusError(error)
  return code !== Code.DEADLINE_EXCEEDED && code !== Code.CANCELLED
}

const isLoss = (error: unknown) => error instanceof ShimLost || error instanceof ConnectionLost

/** containerd's words, which docker looks for. A lost shim is not to be mistaken for a plugin that may be asked again. */
function prefixed(prefix: string, error: unknown): StatusError {
  if (isLoss(error))
    return new StatusError(Code.UNKNOWN, `${prefix}: the shim ended before it answered`, { cause: error })
  const { code, details } = toStatusError(error)
  return new StatusError(code, `${prefix}: ${details}`, { cause: error })
}
