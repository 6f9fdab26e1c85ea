// All tasks of this plugin: made, found again after a restart, listed, removed.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { type StateResponse as ShimState, TaskService } from '../../proto/gen/containerd/task/v2/shim.js'
import type {
  CreateRequest,
  CreateResponse,
  ListResponse,
  StateResponse,
  StatsResponse,
  Task as TaskInfo,
  TaskStats,
} from '../../proto/gen/purser/runtime/v1/runtime.js'
import { Liveness } from '../../proto/gen/purser/runtime/v1/runtime.js'
import { alreadyExists, Code, failedPrecondition, notFound, StatusError } from '../kit/errors.js'
import { Gate } from '../kit/gate.js'
import { isAlive } from '../kit/identity.js'
import { checkSegment, type TaskName } from './bundle.js'
import type { RuntimeContext } from './context.js'
import { createTask, discardTask, planTask, type TaskPlan } from './create.js'
import { within } from './deadline.js'
import { History } from './history.js'
import { endMarked } from './strays.js'
import { Task } from './task.js'

interface Creation {
  task: Task
  abort: AbortController
  /** Settles when the task is there, or nothing of it is left. Never rejects. */
  settled: Promise<void>
}

/** Bundles taken up at once when the plugin opens. */
const restoresMax = 16

/** Shims that are asked at once for the list, which nobody waits for as clients do; a silent one soon counts no more. */
const looksMax = 16
const lookPatienceMs = 500

/** A shim that does not answer is asked again after this, about exits that it may know of. */
const askAgainMs = 5000

export class Tasks {
  readonly #context: RuntimeContext
  readonly #tasks = new Map<string, Task>()
  readonly #creations = new Map<string, Creation>()
  /** What has to be over before a task of that name can be made. */
  readonly #clearing = new Map<string, Promise<void>>()
  /** Tasks whose shim is being asked what happened meanwhile, and what it says of the init process. */
  readonly #comparing = new Map<Task, Promise<StateResponse | undefined>>()
  /** Tasks that are deleted while their shim is still on its way out. */
  readonly #ending = new Set<Promise<void>>()
  #closed = false

  constructor(context: RuntimeContext) {
    this.#context = context
  }

  /** Throws NOT_FOUND, or FAILED_PRECONDITION while the task is being made. */
  get({ namespace, id }: TaskName): Task {
    const key = keyOf({ namespace, id })
    const task = this.#tasks.get(key)
    if (task) return task
    if (this.#creations.has(key)) throw failedPrecondition(`task ${id} is still being created`)
    throw notFound(`task ${id}`)
  }

  get all(): Iterable<Task> {
    return this.#tasks.values()
  }

  /** Also one that is still being made: it may exit before its Create is answered. */
  find(name: TaskName): Task | undefined {
    const key = keyOf(name)
    return this.#tasks.get(key) ?? this.#creations.get(key)?.task
  }

  async create(request: CreateRequest): Promise<CreateResponse> {
    const name = { namespace: request.namespace, id: request.id }
    const key = keyOf(name)
    const history = new History(this.#context.bundles.path(name))
    if (this.#tasks.has(key) || this.#creations.has(key)) throw alreadyExists(`task ${request.id}`)
    const plan = planTask(this.#context, request)
    const task = new Task(name, history, this.#context)
    const abort = new AbortController()
    const created = this.#make(key, task, plan, abort.signal)
    const ignore = () => undefined
    this.#creations.set(key, { task, abort, settled: created.then(ignore, ignore) })
    return created
  }

  /** Of the init process it removes the task. */
  async delete(name: TaskName, execId: string) {
    const task = this.get(name)
    try {
      return await task.delete(execId)
    } finally {
      if (task.isEnded) this.#remove(task)
    }
  }

  async destroy(name: TaskName): Promise<void> {
    const key = keyOf(name)
    checkSegment(name.namespace, 'namespace')
    checkSegment(name.id, 'id')
    const creation = this.#creations.get(key)
    creation?.abort.abort(new StatusError(Code.CANCELLED, `task ${name.id} was destroyed while it was created`))
    await creation?.settled
    await this.#clearing.get(key)
    const task = this.#tasks.get(key)
    if (!task) return
    await task.destroy()
    this.#remove(task)
  }

  /** Many in one message when many are known; those whose shim is silent come when its time is up. */
  async *list(): AsyncGenerator<ListResponse> {
    const creating = [...this.#creations.values()].map(({ task }) => task)
    const all = [...this.#tasks.values(), ...creating]
    yield { names: all.map(({ name: { namespace, id } }) => ({ namespace, id })), tasks: [] }
    const gate = new Gate(looksMax, lookPatienceMs)
    const describe = (task: Task) => gate.run(() => this.#describe(task, creating.includes(task)))
    for await (const tasks of asTheyCome(all.map(describe)))
      yield { names: [], tasks: tasks.filter(task => task !== undefined) }
  }

  /** Many in one message when many have answered; those that do not answer are left out. */
  async *stats(namespace: string, ids: readonly string[]): AsyncGenerator<StatsResponse> {
    const stats = async (id: string): Promise<TaskStats | undefined> => {
      try {
        const { stats } = await this.get({ namespace, id }).call(TaskService.stats, { id })
        return { id, stats }
      } catch (error) {
        this.#context.log.debug({ namespace, id, err: error }, 'no metrics of a task')
        return undefined
      }
    }
    for await (const tasks of asTheyCome(ids.map(stats))) yield { tasks: tasks.filter(task => task !== undefined) }
  }

  /**
   * Takes up every bundle of an earlier run. Resolves when each is in its shim again, or known to have none; what the
   * shims say, and what has to be cleaned up, comes behind that.
   */
  async restore(): Promise<void> {
    const { bundles } = this.#context
    const found: Task[] = []
    for (const { namespace, id, bundle } of bundles.list()) {
      const history = History.read(bundle)
      if (history.removed) bundles.retire(bundle)
      else found.push(new Task({ namespace, id }, history, this.#context))
    }
    const next = found.values()
    const worker = async () => {
      for (const task of next) await this.#restoreTask(task, found)
    }
    await Promise.all(Array.from({ length: restoresMax }, worker))
    // Only now is it known which shims have others in them.
    for (const bundle of bundles.listEnded()) this.#resumeEnd(bundle)
  }

  /** Gives up what is being made, and waits for what is being removed, but not for long. What runs, runs on. */
  async close(deadlineMs: number): Promise<void> {
    this.#closed = true
    const creations = [...this.#creations.values()]
    for (const { abort } of creations) abort.abort(new StatusError(Code.CANCELLED, 'the runtime plugin stops'))
    const made = creations.map(({ settled }) => settled)
    const pending = Promise.all([...made, ...this.#clearing.values(), ...this.#ending])
    await within(pending, deadlineMs, 'removing what was deleted').catch((error: unknown) => {
      this.#context.log.warn({ err: error }, 'what is left will be removed when the plugin opens next')
    })
  }

  async #make(key: string, task: Task, plan: TaskPlan, signal: AbortSignal): Promise<CreateResponse> {
    try {
      await this.#clearing.get(key)
      const response = await createTask(this.#context, task, plan, signal)
      this.#tasks.set(key, task)
      return response
    } finally {
      this.#creations.delete(key)
    }
  }

  async #restoreTask(task: Task, all: Task[]): Promise<void> {
    const { name, history } = task
    const key = keyOf(name)
    // Its creation was never answered.
    if (!history.shim || !history.origin) return this.#behind(key, this.#discard(task, all))
    this.#tasks.set(key, task)
    if (!isAlive(history.shim.process)) return task.bury()
    try {
      const { reconnectMs } = this.#context.settings.deadlines
      const place = { ...name, bundle: history.bundle, group: history.origin.group }
      task.attach(await this.#context.shims.rejoin(place, history.shim, reconnectMs))
    } catch (error) {
      this.#context.log.warn({ ...name, err: error }, 'a shim lives but takes no connection; it counts as dead')
      return task.bury()
    }
    const compared = this.#reconcile(task).finally(() => this.#comparing.delete(task))
    this.#comparing.set(task, compared)
  }

  /** Asks the shim what happened meanwhile; one that does not answer in time is asked again behind our back. */
  async #reconcile(task: Task): Promise<StateResponse | undefined> {
    try {
      const init = await task.reconcile({ deadlineMs: this.#context.settings.deadlines.reconnectMs })
      task.exits.repeatUntold()
      if (init) return toState(init)
      // The shim has no such container: it was deleted just before, or its creation never finished.
      this.#tasks.delete(keyOf(task.name))
      this.#behind(keyOf(task.name), task.history.processes.has('') ? task.end('politely') : task.destroy())
      return undefined
    } catch (error) {
      if (task.isDead || this.#closed) return undefined
      this.#context.log.warn({ ...task.name, err: error }, 'a shim does not answer; it will be asked again')
      setTimeout(() => void (this.#closed || task.isEnded || this.#reconcile(task)), askAgainMs).unref()
      return undefined
    }
  }

  async #discard(task: Task, all: Task[]): Promise<void> {
    const { bundle, origin } = task.history
    // A shim leaves this file. Without its history a container that may run cannot be ended, so its bundle stays.
    if (!origin && existsSync(join(bundle, 'address')))
      return this.#context.log.error({ ...task.name, bundle }, 'a bundle has lost its history: end its shim by hand')
    const mark = origin?.mark ?? ''
    const isOthers = all.some(({ history }) => history.shim?.mark === mark)
    if (!isOthers) await endMarked(mark, this.#context.settings.deadlines.callMs)
    await discardTask(this.#context, task, undefined, 'byForce')
  }

  /** A task whose removal was cut short: its shim may still be there, and an exit untold. */
  #resumeEnd(bundle: string): void {
    const history = History.read(bundle)
    const { namespace, id } = history.origin ?? { namespace: '', id: '' }
    const task = new Task({ namespace, id }, history, this.#context)
    this.#behind(keyOf({ namespace, id }), task.finishEnd())
  }

  /** Undefined for one that turns out to be none. */
  async #describe(task: Task, isCreating: boolean): Promise<TaskInfo | undefined> {
    const { namespace, id } = task.name
    const info = { namespace, id, bundle: task.history.bundle }
    if (isCreating) return { ...info, liveness: Liveness.LIVENESS_ALIVE, init: undefined }
    const compared = this.#comparing.get(task)
    if (compared) {
      const init = await compared
      if (init) return { ...info, liveness: Liveness.LIVENESS_ALIVE, init }
      if (task.isEnded) return undefined
      if (!task.isDead) return { ...info, liveness: Liveness.LIVENESS_UNRESPONSIVE, init: undefined }
    }
    try {
      const init = toState(await task.state(''))
      return { ...info, liveness: task.isDead ? Liveness.LIVENESS_DEAD : Liveness.LIVENESS_ALIVE, init }
    } catch (error) {
      const silent = error instanceof StatusError && error.code === Code.DEADLINE_EXCEEDED
      const alive = silent ? Liveness.LIVENESS_UNRESPONSIVE : Liveness.LIVENESS_ALIVE
      return { ...info, liveness: task.isDead ? Liveness.LIVENESS_DEAD : alive, init: undefined }
    }
  }

  /** Out of sight; its shim may still be on its way out. */
  #remove(task: Task): void {
    const key = keyOf(task.name)
    if (this.#tasks.get(key) === task) this.#tasks.delete(key)
    const ended = task.end('politely')
    this.#behind(key, task.retired)
    this.#ending.add(ended)
    void ended.finally(() => this.#ending.delete(ended))
  }

  /** Goes on behind the caller's back, and a new task of that name waits for it. */
  #behind(key: string, work: Promise<void>): void {
    const before = this.#clearing.get(key)
    const all: Promise<void> = Promise.allSettled([before, work]).then(() => {
      if (this.#clearing.get(key) === all) this.#clearing.delete(key)
    })
    this.#clearing.set(key, all)
  }
}

export function toState({ pid, status, exitStatus, exitedAt }: ShimState): StateResponse {
  return { pid, status, exitStatus, exitedAt }
}

/** What has been resolved since the last time, together; ends when all have. None of them may reject. */
async function* asTheyCome<T>(promises: readonly Promise<T>[]): AsyncGenerator<T[]> {
  let come: T[] = []
  let wake = () => {}
  for (const promise of promises)
    void promise.then(value => {
      come.push(value)
      wake()
    })
  for (let left = promises.length; left > 0; ) {
    if (come.length === 0)
      await new Promise<void>(resolve => {
        wake = resolve
      })
    await setImmediate() // those that are as good as there come along
    const batch = come
    come = []
    left -= batch.length
    yield batch
  }
}

const keyOf = ({ namespace, id }: TaskName): string => `${namespace}/${id}`
