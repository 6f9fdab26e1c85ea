// One task: its processes in their shim, and what is left of it when the shim is gone.
import { setImmediate as afterReplies } from 'node:timers/promises'
import {
  type DeleteResponse,
  type ExecProcessRequest,
  type StateResponse,
  TaskService,
  type WaitResponse,
} from '../../proto/gen/containerd/task/v2/shim.js'
import { Status } from '../../proto/gen/containerd/v1/types/task.js'
import type { Timestamp } from '../../proto/gen/google/protobuf/timestamp.js'
import { Code, failedPrecondition, notFound, StatusError, toStatusError } from '../kit/errors.js'
import { identify, isAlive, type ProcessIdentity, signalProcess } from '../kit/identity.js'
import type { TaskName } from './bundle.js'
import { cleanUpContainer, shimCommand } from './cleanup.js'
import type { RuntimeContext } from './context.js'
import { within } from './deadline.js'
import { Exits } from './exits.js'
import type { Exit, History } from './history.js'
import { type CallLimits, type Shim, ShimLost, type TaskMethod } from './shim.js'
import type { Seat } from './shims.js'
import { holdOutputs } from './stdio.js'
import { endCommands, endMarked } from './strays.js'

/** 128 + SIGKILL: what containerd reports when nobody can know better. */
const killedStatus = 137
const sigkill = 9

/** A shim that has not taken a signal by then waits for something else. */
const lockedMs = 2000

export class Task {
  readonly name: TaskName
  readonly history: History
  readonly exits: Exits
  readonly #context: RuntimeContext
  #seat: Seat | undefined
  #init: ProcessIdentity | undefined
  #startsUnderWay = 0
  /** The clean-up after a shim that died; resolves when only the bundle is left. */
  #dead: Promise<void> | undefined
  /** Resolves when the shim is gone too. */
  #ended: Promise<void> | undefined
  #retired: Promise<void> = Promise.resolve()

  constructor(name: TaskName, history: History, context: RuntimeContext) {
    this.name = name
    this.history = history
    this.#context = context
    this.exits = new Exits(name, history, context)
  }

  /** From here on the task is in that shim, and if the shim dies this task cleans up after itself. */
  attach(seat: Seat): void {
    this.#seat = seat
    const pid = this.history.processes.get('')?.pid
    if (pid) this.#init = identify(pid)
    void seat.shim.lost.then(() => this.bury())
  }

  /** The task has no shim any more: what is left of its container is ended, unless all of it is being removed. */
  bury(): void {
    if (!this.isEnded) this.#dead ??= this.#buryContainer()
  }

  /** Where it is, while it lives. */
  get shim(): Shim | undefined {
    return this.#dead || this.isEnded ? undefined : this.#seat?.shim
  }

  get isDead(): boolean {
    return this.#dead !== undefined
  }

  get isEnded(): boolean {
    return this.#ended !== undefined
  }

  /** Whatever the shim answers. When the shim has died, what is known of the task is all settled before this fails. */
  async call<Request, Response>(
    method: TaskMethod<Request, Response>,
    request: Request,
    limits: CallLimits = { deadlineMs: this.#context.settings.deadlines.callMs },
  ): Promise<Response> {
    if (this.#seat && !this.#dead) {
      try {
        return await this.#seat.shim.call(method, request, limits)
      } catch (error) {
        if (!(error instanceof ShimLost)) throw error
        this.bury()
      }
    }
    if (this.isEnded) throw notFound(`task ${this.name.id}`)
    await this.#dead
    throw failedPrecondition(`the shim of task ${this.name.id} is gone: delete the task`)
  }

  async state(execId: string): Promise<StateResponse> {
    const recorded = () => this.#recordedState(execId)
    if (this.#dead) return within(this.#dead.then(recorded), this.#deadlines.callMs, 'cleaning up after a dead shim')
    try {
      return await this.call(TaskService.state, { id: this.name.id, execId })
    } catch (error) {
      if (this.isDead) return recorded()
      throw error
    }
  }

  async start(execId: string): Promise<number> {
    const { startMs, readerMs } = this.#context.settings.deadlines
    const process = this.history.processes.get(execId)
    // A shim opens the outputs of an added process only now.
    const stdio = execId === '' ? undefined : process?.stdio
    const held = stdio && (await holdOutputs(stdio, readerMs))
    this.#startsUnderWay += 1
    const settled = execId === '' ? undefined : this.exits.starting(execId)
    try {
      const { pid } = await this.call(TaskService.start, { id: this.name.id, execId }, { deadlineMs: startMs })
      if (this.history.processes.get(execId)?.pid !== pid) this.exits.note({ kind: 'started', execId, pid })
      if (execId === '') this.#init ??= identify(pid)
      return pid
    } catch (error) {
      if (isDeadline(error)) await this.#giveUpStart(execId)
      throw error
    } finally {
      this.#startsUnderWay -= 1
      settled?.()
      held?.release()
    }
  }

  /** Adds a process without starting it. */
  async exec(request: Omit<ExecProcessRequest, 'id'>): Promise<void> {
    await this.call(TaskService.exec, { ...request, id: this.name.id })
    const { execId, stdin, stdout, stderr, terminal } = request
    this.exits.note({ kind: 'added', execId, stdio: { stdin, stdout, stderr, terminal } })
  }

  async kill(execId: string, signal: number, all: boolean): Promise<void> {
    // While a start hangs, containerd's shim holds the lock that Kill needs; the init process is known to us as well.
    const init = execId === '' && this.#startsUnderWay > 0 ? this.#init : undefined
    const deadlineMs = init ? lockedMs : this.#deadlines.callMs
    try {
      await this.call(TaskService.kill, { id: this.name.id, execId, signal, all }, { deadlineMs })
    } catch (error) {
      if (this.isDead) throw notFound('process already finished')
      if (!init || !isDeadline(error)) throw error
      signalProcess(init, signal)
    }
  }

  /** Answers how the process ended. Of the init process it removes the task, shim and bundle as well. */
  async delete(execId: string): Promise<DeleteResponse> {
    const response = await this.#deleteProcess(execId)
    const exit = exitOf(response)
    if (exit) this.exits.reportSoon(execId, exit) // in case its event never came
    if (execId === '') this.end('politely')
    else this.exits.note({ kind: 'removed', execId })
    return response
  }

  /** Removes the task, whatever its shim says or does not say. An obedient shim may still be on its way out then. */
  async destroy(): Promise<void> {
    if (this.isEnded) return
    if (!this.#dead && (await this.#destroyByShim())) {
      this.end('politely')
      return
    }
    if (!this.#dead) await this.#forceEnd()
    await this.#dead
    await this.end('byForce')
  }

  /** Gives the task's place free (see `retired`). Resolves when the shim is gone too. */
  end(how: 'politely' | 'byForce'): Promise<void> {
    this.#ended ??= this.#end(how)
    return this.#ended
  }

  /** Resolves when a new task can have the name of this one, which has ended. */
  get retired(): Promise<void> {
    return this.#retired
  }

  /**
   * Compares what is known of the processes with what the shim says: exits may have happened unheard. Answers the init
   * process; undefined when the shim does not know the task.
   */
  async reconcile(limits: CallLimits): Promise<StateResponse | undefined> {
    const init = await this.#ask('', limits)
    if (init === undefined) return undefined
    for (const execId of this.history.processes.keys()) {
      if (execId === '' || this.history.processes.get(execId)?.exit) continue
      if ((await this.#ask(execId, limits)) === undefined) this.exits.note({ kind: 'removed', execId })
    }
    return init
  }

  /** Undefined when the shim has no such process. */
  async #ask(execId: string, limits: CallLimits): Promise<StateResponse | undefined> {
    try {
      const state = await this.call(TaskService.state, { id: this.name.id, execId }, limits)
      if (execId === '' && state.pid !== 0 && !this.history.processes.get('')?.pid)
        this.exits.note({ kind: 'started', execId, pid: state.pid })
      const exit = exitOf(state)
      if (state.status !== Status.STOPPED) void this.#awaitExit(execId, state.pid)
      else if (exit) this.exits.reportSoon(execId, exit)
      return state
    } catch (error) {
      if (error instanceof StatusError && error.code === Code.NOT_FOUND) return undefined
      throw error
    }
  }

  /** A shim tells its first event after our restart a second late, since it finds its old connection broken. */
  async #awaitExit(execId: string, pid: number): Promise<void> {
    try {
      const exit = await this.call(TaskService.wait, { id: this.name.id, execId }, { deadlineMs: 0 })
      const seen = exitOf({ ...exit, pid })
      if (seen) this.exits.reportSoon(execId, seen)
    } catch (error) {
      this.#context.log.debug({ ...this.name, execId, err: error }, 'an exit has to be learned from its event')
    }
  }

  async #deleteProcess(execId: string): Promise<DeleteResponse> {
    try {
      return await this.call(TaskService.delete, { id: this.name.id, execId })
    } catch (error) {
      const goneInShim = toStatusError(error).code === Code.NOT_FOUND
      if (!this.isDead && !goneInShim) throw error
      // Deleted before, or the shim died: what was written down is the answer.
      const exit = this.history.processes.get(execId)?.exit
      if (!exit && execId === '') this.end('politely')
      if (!exit) throw this.isDead ? notFound(`process ${execId || this.name.id}`) : error
      return { pid: exit.pid, exitStatus: exit.status, exitedAt: exit.at }
    }
  }

  /** An init process that does not start leaves nothing to work with; an added one must not cost the others. */
  async #giveUpStart(execId: string): Promise<void> {
    this.#context.log.error({ ...this.name, execId }, 'a process did not start in time; it is ended')
    // The OCI runtime was told this name for the process's pid file (containerd-shim-runc-v2), nothing else has it.
    const pidFile = `${this.history.bundle}/${execId}.pid`
    if (execId !== '') return endCommands(this.history.shim?.mark ?? '', pidFile, this.#deadlines.callMs)
    await this.#forceEnd()
  }

  async #forceEnd(): Promise<void> {
    if (!this.#seat?.sole) return this.#endContainer() // the shim has others, and lives on for them
    await this.#seat.shim.kill()
    this.bury()
    await this.#dead
  }

  /** The shim is gone and its container may still run: ends that, and tells the exits that nobody has seen. */
  async #buryContainer(): Promise<void> {
    this.#context.log.warn(this.name, 'the shim is gone without its task; what is left of the container is ended')
    const { origin, shim, bundle } = this.history
    await endMarked(shim?.mark ?? '', this.#deadlines.callMs)
    await this.#endContainer()
    if (this.#seat) await this.#seat.leave('byForce')
    else if (origin && shim)
      await this.#context.shims.removeSocket({ ...this.name, bundle, group: origin.group }, shim.address)
  }

  async #endContainer(): Promise<void> {
    const response = await cleanUpContainer(this.#context, shimCommand(this.#context, this.name, this.history))
    const at = response?.exitedAt ?? now()
    for (const [execId, process] of this.history.processes) {
      const pid = process.pid || (execId === '' && response?.pid) || 0
      if (!process.exit && pid !== 0) this.exits.reportSoon(execId, { pid, status: killedStatus, at })
    }
  }

  /** Kill, wait, delete: gives the true exit status. Answers false when the shim does not play along. */
  async #destroyByShim(): Promise<boolean> {
    const { id } = this.name
    const limits = { deadlineMs: Math.min(this.#deadlines.callMs, this.#startsUnderWay > 0 ? lockedMs : 5000) }
    try {
      await this.call(TaskService.kill, { id, execId: '', signal: sigkill, all: true }, limits).catch(unlessNotFound)
      const exit: WaitResponse = await this.call(TaskService.wait, { id, execId: '' }, limits)
      const response = await this.call(TaskService.delete, { id, execId: '' }, limits)
      const seen = exitOf({ ...response, exitStatus: exit.exitStatus, exitedAt: exit.exitedAt })
      if (seen) this.exits.reportSoon('', seen)
      return true
    } catch (error) {
      this.#context.log.debug({ ...this.name, err: error }, 'a shim did not end its task; force is used')
      return false
    }
  }

  /** A crash before it is written down does no harm: the shim then says that there is no such container. */
  async #end(how: 'politely' | 'byForce'): Promise<void> {
    this.#retired = afterReplies().then(() => this.#retire()) // Delete is answered first
    await this.#retired
    await this.#seat?.leave(how)
    void this.#removeBundle()
  }

  #retire(): void {
    this.exits.note({ kind: 'removed', execId: '' })
    try {
      this.history.bundle = this.#context.bundles.retire(this.history.bundle)
    } catch (error) {
      this.#context.log.error({ ...this.name, err: error }, 'the bundle of a deleted task could not be moved away')
    }
  }

  /** After a restart: what `end` did not come to. The shim is shut down unless others are in it. */
  async finishEnd(): Promise<void> {
    const { origin, shim, bundle } = this.history
    this.exits.repeatUntold()
    if (origin && shim) {
      const { shims, log } = this.#context
      const place = { ...this.name, bundle, group: origin.group }
      try {
        const seat = isAlive(shim.process) ? await shims.rejoin(place, shim, this.#deadlines.reconnectMs) : undefined
        if (seat) await seat.leave('politely')
        else await shims.removeSocket(place, shim.address)
      } catch (error) {
        log.warn({ ...this.name, err: error }, 'the shim of a deleted task could not be shut down')
      }
    }
    void this.#removeBundle()
  }

  /** Not before every exit is told, since it is written down there. */
  async #removeBundle(): Promise<void> {
    await this.exits.allTold()
    try {
      this.#context.bundles.remove(this.history.bundle)
      this.history.bundle = ''
    } catch (error) {
      this.#context.log.error({ ...this.name, err: error }, 'the bundle of a deleted task could not be removed')
    }
  }

  #recordedState(execId: string): StateResponse {
    const process = this.history.processes.get(execId)
    if (!process?.exit) throw notFound(`process ${execId || this.name.id}`)
    const { id } = this.name
    const { pid, status, at } = process.exit
    const { bundle } = this.history
    return { id, bundle, pid, status: Status.STOPPED, ...process.stdio, exitStatus: status, exitedAt: at, execId }
  }

  get #deadlines() {
    return this.#context.settings.deadlines
  }
}

/** Undefined for a process that never ran: its time is then absent, or Go's zero time in the year 1. */
function exitOf({ pid, exitStatus, exitedAt }: DeleteResponse): Exit | undefined {
  if (pid === 0 || !exitedAt || exitedAt.seconds <= 0n) return undefined
  return { pid, status: exitStatus, at: exitedAt }
}

function now(): Timestamp {
  const milliseconds = Date.now()
  return { seconds: BigInt(Math.floor(milliseconds / 1000)), nanos: (milliseconds % 1000) * 1_000_000 }
}

function unlessNotFound(error: unknown): void {
  if (!(error instanceof StatusError && error.code === Code.NOT_FOUND)) throw error
}

const isDeadline = (error: unknown) => error instanceof StatusError && error.code === Code.DEADLINE_EXCEEDED
