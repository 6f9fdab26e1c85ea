// What a task's intents ask for: the runtime is called, and its answer becomes the next fact.
import type { Logger } from 'pino'
import { Code, failedPrecondition, toStatusError } from '../../../plugins/kit/errors.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'
import { isRefusal } from '../domain/decision.js'
import { containerStream } from '../domain/streams.js'
import { recordDeleted, stepTask } from '../domain/task/decide.js'
import {
  neverExited,
  type TaskCreateRequested,
  type TaskDeleteRequested,
  type TaskEvent,
  type TaskPauseRequested,
  type TaskResumeRequested,
  type TaskSignalled,
  type TaskStartRequested,
} from '../domain/task/events.js'
import type { Exit } from '../domain/values.js'
import type { Intent, Runner } from '../runner.js'
import { anyFromSmall, exitFromProto, mountToProto } from '../state/convert.js'
import type { Store } from '../state/store.js'
import { type AskAgain, settle } from './answers.js'
import type { Checkpoints } from './checkpoints.js'
import type { Networks } from './networks.js'
import type { ReadHeavy, RuntimeCalls } from './ports.js'
import { answerTo, messageOf } from './supervisor.js'

export type PhaseObserver = (phase: 'create' | 'network' | 'start' | 'delete', seconds: number) => void

/** How long the runtime may take for what normally takes milliseconds; its own deadlines are shorter. */
const createDeadlineMs = 120_000
export const startDeadlineMs = 90_000
const deleteDeadlineMs = 60_000

interface Prepared {
  spec: Any
  netnsPath: string
  /** Of a checkpoint, '' for a fresh start. */
  image: string
}

export class Tasks {
  constructor(
    private readonly runner: Runner,
    private readonly store: Store,
    private readonly runtime: RuntimeCalls,
    private readonly networks: Networks,
    private readonly checkpoints: Pick<Checkpoints, 'unpack' | 'discard'>,
    private readonly readHeavy: ReadHeavy,
    private readonly log: Logger,
    private readonly observe: PhaseObserver,
    private readonly askAgain: AskAgain,
  ) {}

  /** Network first, since the process is born into it; on failure nothing is left of either. */
  async create(intent: Intent, event: TaskCreateRequested): Promise<void> {
    const { namespace } = intent
    const { containerId: id, stdio, rootfs, checkpoint } = event
    const failed = async (reason: string) => {
      if (isDigest(checkpoint)) await this.checkpoints.discard(namespace, id)
      await this.networks.detachIfAttached(intent, id)
      await this.answer(intent, { type: 'TaskCreateFailed', containerId: id, reason })
    }
    const prepared = await this.prepare(intent, event, failed)
    await this.settle({
      call: () => this.timed('create', () => this.createProcess(namespace, event, prepared)),
      succeeded: ({ pid, bundle, adjustments }) => {
        for (const adjustment of adjustments) this.log.warn({ namespace, id }, adjustment)
        const of = { containerId: id, stdio, rootfs, checkpoint }
        return this.answer(intent, { type: 'TaskCreated', ...of, pid, bundle, adjustments })
      },
      failed,
      // Rather than to ask for it, a process that may exist is removed: its client can then try again.
      takeBack: () => this.runtime.destroy({ namespace, id }, { deadlineMs: deleteDeadlineMs }),
    })
  }

  async start(intent: Intent, { containerId: id }: TaskStartRequested): Promise<void> {
    const request = { namespace: intent.namespace, id, execId: '' }
    await this.settle({
      call: () => this.timed('start', () => this.runtime.start(request, { deadlineMs: startDeadlineMs })),
      // Its exit may have been told first; the start was then recorded with it.
      succeeded: async ({ pid }) => {
        await this.attempt(intent, { type: 'TaskStarted', containerId: id, pid })
        await this.checkpoints.discard(intent.namespace, id)
      },
      failed: reason => this.attempt(intent, { type: 'TaskStartFailed', containerId: id, reason }),
    })
  }

  async signal({ namespace }: Intent, { containerId: id, signal, all }: TaskSignalled): Promise<void> {
    await this.runtime.kill({ namespace, id, execId: '', signal, all })
  }

  async pause(intent: Intent, { containerId }: TaskPauseRequested): Promise<void> {
    await this.settle({
      call: () => this.runtime.pause({ namespace: intent.namespace, id: containerId }),
      succeeded: () => this.attempt(intent, { type: 'TaskPaused', containerId }),
      failed: reason => this.attempt(intent, { type: 'TaskPauseFailed', containerId, reason }),
    })
  }

  async resume(intent: Intent, { containerId }: TaskResumeRequested): Promise<void> {
    await this.settle({
      call: () => this.runtime.resume({ namespace: intent.namespace, id: containerId }),
      succeeded: () => this.attempt(intent, { type: 'TaskResumed', containerId }),
      failed: reason => this.attempt(intent, { type: 'TaskResumeFailed', containerId, reason }),
    })
  }

  /** The task counts as deleted only when it holds no address any more. */
  async delete(intent: Intent, { containerId: id }: TaskDeleteRequested): Promise<void> {
    const { namespace } = intent
    await this.settle({
      call: () => this.timed('delete', () => this.deleteProcess(namespace, id)),
      succeeded: async ended => {
        await this.checkpoints.discard(namespace, id)
        await this.networks.detachIfAttached(intent, id)
        await this.runner.run(answerTo(intent), containerStream(namespace, id), world => {
          const here = world.namespace(namespace)
          const task = here.task(id)
          const exit = task.facts.exit ?? ended
          return recordDeleted(namespace, id, task, here.execsOf(id), { pid: task.facts.pid, exit })
        })
      },
      failed: reason => this.attempt(intent, { type: 'TaskDeleteFailed', containerId: id, reason }),
    })
  }

  private settle<Answer>(steps: Parameters<typeof settle<Answer>>[1]): Promise<void> {
    return settle(() => this.askAgain('runtime'), steps)
  }

  /** What the process is made of. The runtime has not been asked yet: any failure is one for sure. */
  private async prepare(
    intent: Intent,
    { containerId: id, checkpoint }: TaskCreateRequested,
    failed: (reason: string) => Promise<void>,
  ): Promise<Prepared> {
    try {
      const spec = await this.specOf(intent.namespace, id)
      const image = isDigest(checkpoint) ? await this.checkpoints.unpack(intent.namespace, id, checkpoint) : checkpoint
      const netnsPath = await this.timed('network', () => this.networks.attachIfAsked(intent, id))
      return { spec, netnsPath, image }
    } catch (error) {
      await failed(messageOf(error)).catch(() => this.askAgain('runtime'))
      throw error
    }
  }

  /** How it ended, as far as the runtime knows. One that it does not know is deleted. */
  private async deleteProcess(namespace: string, id: string): Promise<Exit> {
    try {
      const deleted = await this.runtime.delete({ namespace, id, execId: '' }, { deadlineMs: deleteDeadlineMs })
      return exitFromProto(deleted.exitStatus, deleted.exitedAt)
    } catch (error) {
      if (toStatusError(error).code !== Code.NOT_FOUND) throw error
      return neverExited
    }
  }

  private createProcess(namespace: string, event: TaskCreateRequested, { spec, netnsPath, image }: Prepared) {
    const { containerId: id, stdio, runtime } = event
    return this.runtime.create(
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
        checkpoint: image,
        options: event.options ? anyFromSmall(event.options) : undefined,
        netnsPath,
        sandbox: this.store.world.namespace(namespace).container(id).facts.record?.sandbox ?? '',
      },
      { deadlineMs: createDeadlineMs },
    )
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

const isDigest = (checkpoint: string): boolean => checkpoint !== '' && !checkpoint.startsWith('/')
