// Compares the journal's tasks with the runtime's, whenever the runtime plugin has (re)registered.
import type { Logger } from 'pino'
import { Code, StatusError } from '../../../../plugins/kit/errors.js'
import { Gate } from '../../../../plugins/kit/gate.js'
import { Status } from '../../../../proto/gen/containerd/v1/types/task.js'
import {
  type Task as ListedTask,
  Liveness,
  type StateResponse,
} from '../../../../proto/gen/purser/runtime/v1/runtime.js'
import type { Clock } from '../../clock.js'
import { type Decision, isRefusal } from '../../domain/decision.js'
import { recordExecExit, stepExec } from '../../domain/exec/decide.js'
import { execMachine } from '../../domain/exec/machine.js'
import { containerStream, execStream, taskStream } from '../../domain/streams.js'
import { recordDeleted, recordExit, stepTask } from '../../domain/task/decide.js'
import type { TaskEvent } from '../../domain/task/events.js'
import { taskMachine } from '../../domain/task/machine.js'
import { formatNanos } from '../../domain/time.js'
import type { Exit } from '../../domain/values.js'
import type { Sequence } from '../../journal/journal.js'
import type { Runner } from '../../runner.js'
import { exitFromProto } from '../../state/convert.js'
import { missing } from '../../state/losses.js'
import type { Store } from '../../state/store.js'
import type { World } from '../../state/world.js'
import type { Networks } from '../networks.js'
import type { Busy, Recovering } from '../perform.js'
import type { RuntimeCalls } from '../ports.js'
import { messageOf, ownCause } from '../supervisor.js'
import { type Action, actionFor, type Reality } from './rules.js'

/** How many tasks are looked at side by side. One that takes longer than is usual no longer counts. */
const looksMax = 16
const lookPatienceMs = 500
const taskDeadlineMs = 20_000
const killed = 137

interface Place {
  namespace: string
  id: string
}

export class TaskRecovery {
  private readonly gate = new Gate(looksMax, lookPatienceMs)

  constructor(
    private readonly runner: Runner,
    private readonly store: Store,
    private readonly runtime: RuntimeCalls,
    private readonly networks: Networks,
    private readonly busy: Busy,
    private readonly recovering: Recovering,
    private readonly clock: Clock,
    private readonly log: Logger,
  ) {}

  /** Answers whether nothing is left to be asked when every task was looked at. */
  async run(): Promise<boolean> {
    const looks: Promise<boolean>[] = []
    // What changes after the question may not be judged by its answer.
    const asked = this.store.world.sequence
    const look = (place: Place, listed?: ListedTask) =>
      looks.push(this.gate.run(() => this.reconcile(place, listed, asked)))
    const untold = new Set<string>()
    let isFirst = true
    // Each is looked at when the runtime tells of it: one whose shim is silent keeps nobody else waiting.
    for await (const { names, tasks } of this.runtime.list({}, { deadlineMs: 60_000 })) {
      if (isFirst) for (const place of this.withoutRuntime(names)) look(place)
      isFirst = false
      for (const name of names) untold.add(keyOf(name))
      for (const task of tasks) {
        untold.delete(keyOf(task))
        look(task, task)
      }
    }
    const settled = await Promise.all(looks)
    // One that went meanwhile was not looked at: the next list is without it.
    return untold.size === 0 && settled.every(isSettled => isSettled)
  }

  /** What the runtime has and the journal does not know, or does not know to have been made. */
  async orphans(): Promise<Place[]> {
    const found: Place[] = []
    for await (const { tasks } of this.runtime.list({}, { deadlineMs: 60_000 }))
      for (const listed of tasks) {
        const { namespace, id } = listed
        const { state } = this.store.world.namespace(namespace).task(id)
        if (removes(actionFor(state, realityOf(listed)))) found.push({ namespace, id })
      }
    return found
  }

  /** Tasks that the journal has and the runtime does not. */
  private withoutRuntime(names: readonly Place[]): Place[] {
    const known = new Set(names.map(keyOf))
    return [...this.store.world.namespaces]
      .flatMap(([namespace, { tasks }]) => [...tasks.keys()].map(id => ({ namespace, id })))
      .filter(place => !known.has(keyOf(place)))
  }

  /** Answers whether nothing is left to be asked about it. */
  private async reconcile(place: Place, listed: ListedTask | undefined, asked: Sequence): Promise<boolean> {
    const { namespace, id } = place
    const { world } = this.store
    if (world.version(taskStream(namespace, id)) > asked) return false
    const { state } = world.namespace(namespace).task(id)
    const reality = realityOf(listed)
    const action = this.harmless(actionFor(state, reality))
    // Whoever is at work on it may be about to change what is compared here.
    if (this.busy.has(namespace, id)) return action === 'adopt' && !this.isOpen(place)
    const line = { namespace, id, journal: state, reality, action }
    if (action === 'adopt') this.log.debug(line, 'adopted a task')
    else this.log.info(line, 'the journal and the runtime differ about a task')
    const work = async () => {
      await this.act(place, action, listed?.init)
      if (reality !== 'unresponsive') await this.reconcileExecs(place)
    }
    try {
      await this.recovering.during(namespace, id, () => this.busy.during(namespace, id, work))
      return action !== 'wait' && !this.isOpen(place)
    } catch (error) {
      this.log.error({ ...line, err: error }, 'a task could not be reconciled; it is tried again')
      return false
    }
  }

  /** Something about it was asked for and is not answered. */
  private isOpen({ namespace, id }: Place): boolean {
    const here = this.store.world.namespace(namespace)
    if (taskMachine.awaitsAnswer(here.task(id).state)) return true
    return [...here.execsOf(id).values()].some(({ state }) => execMachine.awaitsAnswer(state))
  }

  /** While it is not known what the journal lost, nothing is taken for an orphan. */
  private harmless(action: Action): Action {
    return missing(this.store.world.lost) > 0 && removes(action) ? 'wait' : action
  }

  private async act(
    place: Place,
    action: ReturnType<typeof actionFor>,
    init: StateResponse | undefined,
  ): Promise<void> {
    const { id: containerId } = place
    switch (action) {
      case 'adopt':
      case 'wait':
        return
      case 'destroy':
        return this.destroy(place)
      case 'fail-create':
        await this.destroy(place)
        await this.detach(place)
        return this.step(place, { type: 'TaskCreateFailed', containerId, reason: 'the answer was lost' })
      case 'record-start':
        return this.step(place, { type: 'TaskStarted', containerId, pid: init?.pid ?? 0 })
      case 'fail-start':
        return this.step(place, { type: 'TaskStartFailed', containerId, reason: 'the answer was lost' })
      case 'record-pause':
        return this.step(place, { type: 'TaskPaused', containerId })
      case 'fail-pause':
        return this.step(place, { type: 'TaskPauseFailed', containerId, reason: 'the answer was lost' })
      case 'record-resume':
        return this.step(place, { type: 'TaskResumed', containerId })
      case 'fail-resume':
        return this.step(place, { type: 'TaskResumeFailed', containerId, reason: 'the answer was lost' })
      case 'thaw':
        await this.runtime.resume({ namespace: place.namespace, id: containerId }, { deadlineMs: taskDeadlineMs })
        return this.step(place, { type: 'TaskCheckpointFailed', containerId, reason: 'the answer was lost' })
      case 'fail-checkpoint':
        return this.step(place, { type: 'TaskCheckpointFailed', containerId, reason: 'the answer was lost' })
      case 'record-exit':
        return this.exit(place, exitFromProto(init?.exitStatus ?? killed, init?.exitedAt))
      case 'record-lost':
        return this.exit(place, this.lostNow())
      case 'delete-again':
        return this.deleteAgain(place)
    }
  }

  private async deleteAgain(place: Place): Promise<void> {
    const { namespace, id } = place
    await this.destroy(place)
    await this.detach(place)
    await this.decide(place, world => {
      const here = world.namespace(namespace)
      const task = here.task(id)
      const exit = task.facts.exit ?? this.lostNow()
      return recordDeleted(namespace, id, task, here.execsOf(id), { pid: task.facts.pid, exit })
    })
  }

  private async exit(place: Place, exit: Exit): Promise<void> {
    const { namespace, id } = place
    await this.decide(place, world => {
      const task = world.namespace(namespace).task(id)
      return recordExit(namespace, id, task, { pid: task.facts.pid, exit })
    })
  }

  private async reconcileExecs({ namespace, id }: Place): Promise<void> {
    const unsettled = [...this.store.world.namespace(namespace).execsOf(id)].filter(
      ([, { state }]) => state !== 'added' && state !== 'stopped',
    )
    for (const [execId] of unsettled) await this.reconcileExec({ namespace, id }, execId)
  }

  private async reconcileExec(place: Place, execId: string): Promise<void> {
    const { namespace, id } = place
    const stream = execStream(namespace, id, execId)
    const asked = this.store.world.version(stream)
    const real = await this.stateOf(place, execId)
    await this.decide(place, world => {
      if (world.version(stream) !== asked) return { facts: [] } // it went on meanwhile
      const exec = world.namespace(namespace).exec(id, execId)
      const step = (event: Parameters<typeof stepExec>[2]) => stepExec(namespace, exec, event)
      const reason = 'the answer was lost'
      const of = { containerId: id, execId }
      switch (exec.state) {
        case 'adding':
          return real ? step({ type: 'ExecAdded', ...of }) : step({ type: 'ExecAddFailed', ...of, reason })
        case 'deleting':
          return real ? step({ type: 'ExecDeleteFailed', ...of, reason }) : step({ type: 'ExecDeleted', ...of })
        case 'starting':
          if (real?.status === Status.RUNNING) return step({ type: 'ExecStarted', ...of, pid: real.pid })
          if (real?.status === Status.CREATED) return step({ type: 'ExecStartFailed', ...of, reason })
          return recordExecExit(namespace, id, execId, exec, this.endOf(real, exec.facts.pid))
        case 'running':
          if (real?.status === Status.RUNNING) return { facts: [] }
          return recordExecExit(namespace, id, execId, exec, this.endOf(real, exec.facts.pid))
        default:
          return { facts: [] }
      }
    })
  }

  private endOf(real: StateResponse | undefined, pid: number): { pid: number; exit: Exit } {
    const known = real && real.status === Status.STOPPED
    const exit = known ? exitFromProto(real.exitStatus, real.exitedAt) : this.lostNow()
    return { pid: pid || (real?.pid ?? 0), exit }
  }

  private async stateOf({ namespace, id }: Place, execId: string): Promise<StateResponse | undefined> {
    try {
      return await this.runtime.state({ namespace, id, execId }, { deadlineMs: taskDeadlineMs })
    } catch (error) {
      if (error instanceof StatusError && error.code === Code.NOT_FOUND) return undefined
      throw error
    }
  }

  private async destroy({ namespace, id }: Place): Promise<void> {
    await this.runtime.destroy({ namespace, id }, { deadlineMs: taskDeadlineMs })
  }

  private async detach({ namespace, id }: Place): Promise<void> {
    const event = { type: 'NetworkDetachRequested', containerId: id, network: '' } as const
    await this.networks.detachIfAttached({ namespace, sequence: 0n, event, cause: ownCause('recovery') }, id)
  }

  private step(place: Place, event: TaskEvent): Promise<void> {
    const { namespace, id } = place
    return this.decide(place, world => stepTask(namespace, world.namespace(namespace).task(id), event))
  }

  private async decide({ namespace, id }: Place, decide: (world: World) => Decision): Promise<void> {
    const outcome = await this.runner.attempt(ownCause('recovery'), containerStream(namespace, id), decide)
    if (isRefusal(outcome)) this.log.debug({ namespace, id, reason: messageOf(outcome.message) }, 'already reconciled')
  }

  private lostNow(): Exit {
    return { status: killed, at: formatNanos(this.clock.now()) }
  }
}

const keyOf = ({ namespace, id }: Place): string => `${namespace}/${id}`

const removes = (action: Action) => action === 'destroy' || action === 'fail-create'

function realityOf(listed: ListedTask | undefined): Reality {
  if (!listed) return 'absent'
  if (listed.liveness === Liveness.LIVENESS_UNRESPONSIVE) return 'unresponsive'
  if (listed.liveness !== Liveness.LIVENESS_ALIVE || !listed.init) return 'dead'
  switch (listed.init.status) {
    case Status.CREATED:
      return 'created'
    case Status.RUNNING:
      return 'running'
    case Status.PAUSED:
    case Status.PAUSING:
      return 'paused'
    case Status.STOPPED:
      return 'stopped'
    default:
      return 'dead'
  }
}
