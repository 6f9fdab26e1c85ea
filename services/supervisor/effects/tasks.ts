// What a task's intents ask for: the runtime is called, and its answer becomes the next fact.
import type { Logger } from 'pino'
import { Code, failedPrecondition, StatusError } from '../../../plugins/kit/errors.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'
import { isRefusal } from '../domain/decision.js'
import { containerStream } from '../domain/streams.js'
import { recordDeleted, stepTask } from '../domain/task/decide.js'
import type {
  TaskCreateRequested,
  TaskDeleteRequested,
  TaskEvent,
  TaskPauseRequested,
  TaskResumeRequested,
  TaskSignalled,
  TaskStartRequested,
} from '../domain/task/events.js'
import type { Intent, Runner } from '../runner.js'
import { anyFromSmall, exitFromProto, mountToProto } from '../state/convert.js'
import type { Store } from '../state/store.js'
import type { Networks } from './networks.js'
import type { ReadHeavy, RuntimeCalls } from './ports.js'
import { answerTo, messageOf } from './supervisor.js'

export type PhaseObserver = (phase: 'create' | 'network' | 'start' | 'delete', seconds: number) => void

/** How long the runtime may take for what normally takes milliseconds; its own deadlines are shorter. */
const createDeadlineMs = 120_000
export const startDeadlineMs = 90_000
const deleteDeadlineMs = 60_000

export class Tasks {
  constructor(
    private readonly runner: Runner,
    private readonly store: Store,
    private readonly runtime: RuntimeCalls,
    private readonly networks: Networks,
    private readonly readHeavy: ReadHeavy,
    private readonly log: Logger,
    private readonly observe: PhaseObserver,
  ) {}

  /** Network first, since the process is born into it; on failure nothing is left of either. */
  async create(intent: Intent, event: TaskCreateRequested): Promise<void> {
    const { namespace } = intent
    const { containerId: id } = event
    try {
      const spec = await this.specOf(namespace, id)
      const netnsPath = await this.timed('network', () => this.networks.attachIfAsked(intent, id))
      const created = await this.timed('create', () => this.createProcess(namespace, event, spec, netnsPath))
      for (const adjustment of created.adjustments) this.log.warn({ namespace, id }, adjustment)
      await this.answer(intent, {
        type: 'TaskCreated',
        containerId: id,
        pid: created.pid,
        bundle: created.bundle,
        stdio: event.stdio,
        rootfs: event.rootfs,
        checkpoint: event.checkpoint,
        adjustments: created.adjustments,
      })
    } catch (error) {
      await this.networks.detachIfAttached(intent, id)
      await this.answer(intent, { type: 'TaskCreateFailed', containerId: id, reason: messageOf(error) })
      throw error
    }
  }

  async start(intent: Intent, { containerId: id }: TaskStartRequested): Promise<void> {
    const { namespace } = intent
    try {
      const { pid } = await this.timed('start', () =>
        this.runtime.start({ namespace, id, execId: '' }, { deadlineMs: startDeadlineMs }),
      )
      // Its exit may have been told first; the start was then recorded with it.
      await this.attempt(intent, { type: 'TaskStarted', containerId: id, pid })
    } catch (error) {
      await this.attempt(intent, { type: 'TaskStartFailed', containerId: id, reason: messageOf(error) })
      throw error
    }
  }

  async signal({ namespace }: Intent, { containerId: id, signal, all }: TaskSignalled): Promise<void> {
    await this.runtime.kill({ namespace, id, execId: '', signal, all })
  }

  async pause(intent: Intent, { containerId }: TaskPauseRequested): Promise<void> {
    try {
      await this.runtime.pause({ namespace: intent.namespace, id: containerId })
    } catch (error) {
      await this.attempt(intent, { type: 'TaskPauseFailed', containerId, reason: messageOf(error) })
      throw error
    }
    await this.attempt(intent, { type: 'TaskPaused', containerId })
  }

  async resume(intent: Intent, { containerId }: TaskResumeRequested): Promise<void> {
    try {
      await this.runtime.resume({ namespace: intent.namespace, id: containerId })
    } catch (error) {
      await this.attempt(intent, { type: 'TaskResumeFailed', containerId, reason: messageOf(error) })
      throw error
    }
    await this.attempt(intent, { type: 'TaskResumed', containerId })
  }

  /** The task counts as deleted only when it holds no address any more. */
  async delete(intent: Intent, { containerId: id }: TaskDeleteRequested): Promise<void> {
    const { namespace } = intent
    try {
      const deleted = await this.timed('delete', () =>
        this.runtime.delete({ namespace, id, execId: '' }, { deadlineMs: deleteDeadlineMs }),
      )
      await this.networks.detachIfAttached(intent, id)
      await this.runner.run(answerTo(intent), containerStream(namespace, id), world => {
        const here = world.namespace(namespace)
        const task = here.task(id)
        const exit = task.facts.exit ?? exitFromProto(deleted.exitStatus, deleted.exitedAt)
        return recordDeleted(namespace, id, task, here.execsOf(id), { pid: task.facts.pid, exit })
      })
    } catch (error) {
      await this.attempt(intent, { type: 'TaskDeleteFailed', containerId: id, reason: messageOf(error) })
      throw error
    }
  }

  private async createProcess(namespace: string, event: TaskCreateRequested, spec: Any, netnsPath: string) {
    const { containerId: id, stdio, runtime, checkpoint } = event
    try {
      return await this.runtime.create(
        {
          namespace,
          id,
          runtime,
          spec,
          rootfs: event.rootfs.map(mountToProto),
          stdin: stdio.stdin,
          stdout: stdio.stdout,
          stderr: stdio.stderr,
          terminal: stdio.terminal,
          checkpoint,
          options: event.options ? anyFromSmall(event.options) : undefined,
          netnsPath,
        },
        { deadlineMs: createDeadlineMs },
      )
    } catch (error) {
      if (isInDoubt(error)) await this.takeBack(namespace, id)
      throw error
    }
  }

  /** The answer was lost on the way, so a process may exist: it is removed, now or when the runtime is back. */
  private async takeBack(namespace: string, id: string): Promise<void> {
    try {
      await this.runtime.destroy({ namespace, id }, { deadlineMs: deleteDeadlineMs })
    } catch (error) {
      this.log.warn(
        { err: error, namespace, id },
        'the remains of a failed create are removed when the runtime is back',
      )
    }
  }

  private async specOf(namespace: string, id: string): Promise<Any> {
    const heavy = this.store.world.namespace(namespace).container(id).facts.record?.spec
    if (!heavy) throw failedPrecondition(`container "${id}" has no spec`)
    return this.readHeavy(heavy)
  }

  private async answer(intent: Intent, event: TaskEvent): Promise<void> {
    const { namespace } = intent
    await this.runner.run(answerTo(intent), containerStream(namespace, event.containerId), world =>
      stepTask(namespace, world.namespace(namespace).task(event.containerId), event),
    )
  }

  /** As `answer`, when the task may have gone on without it (an exit came first). */
  private async attempt(intent: Intent, event: TaskEvent): Promise<void> {
    const { namespace } = intent
    const outcome = await this.runner.attempt(answerTo(intent), containerStream(namespace, event.containerId), world =>
      stepTask(namespace, world.namespace(namespace).task(event.containerId), event),
    )
    if (isRefusal(outcome)) this.log.debug({ namespace, id: event.containerId, event: event.type }, outcome.message)
  }

  private async timed<T>(phase: Parameters<PhaseObserver>[0], work: () => Promise<T>): Promise<T> {
    const begun = process.hrtime.bigint()
    const result = await work()
    this.observe(phase, Number(process.hrtime.bigint() - begun) / 1e9)
    return result
  }
}

/** The runtime's process, not the container, failed to answer: nobody knows what was done. */
function isInDoubt(error: unknown): boolean {
  return error instanceof StatusError && [Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED].includes(error.code)
}
