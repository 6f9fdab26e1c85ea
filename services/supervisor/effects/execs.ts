// What an exec's intents ask for.
import type { Logger } from 'pino'
import { isRefusal } from '../domain/decision.js'
import { stepExec } from '../domain/exec/decide.js'
import type {
  ExecDeleteRequested,
  ExecEvent,
  ExecRequested,
  ExecSignalled,
  ExecStartRequested,
} from '../domain/exec/events.js'
import { containerStream } from '../domain/streams.js'
import type { Intent, Runner } from '../runner.js'
import type { ReadHeavy, RuntimeCalls } from './ports.js'
import { answerTo, messageOf } from './supervisor.js'
import { startDeadlineMs } from './tasks.js'

export class Execs {
  constructor(
    private readonly runner: Runner,
    private readonly runtime: RuntimeCalls,
    private readonly readHeavy: ReadHeavy,
    private readonly log: Logger,
  ) {}

  async add(intent: Intent, event: ExecRequested): Promise<void> {
    const { namespace, sequence } = intent
    const { containerId: id, execId, stdio } = event
    try {
      const spec = await this.readHeavy({ ...event.spec, sequence: String(sequence) })
      await this.runtime.exec({
        namespace,
        id,
        execId,
        stdin: stdio.stdin,
        stdout: stdio.stdout,
        stderr: stdio.stderr,
        terminal: stdio.terminal,
        spec,
      })
    } catch (error) {
      await this.attempt(intent, { type: 'ExecAddFailed', containerId: id, execId, reason: messageOf(error) })
      throw error
    }
    await this.attempt(intent, { type: 'ExecAdded', containerId: id, execId })
  }

  async start(intent: Intent, { containerId, execId }: ExecStartRequested): Promise<void> {
    try {
      const { pid } = await this.runtime.start(
        { namespace: intent.namespace, id: containerId, execId },
        { deadlineMs: startDeadlineMs },
      )
      // Its exit may have been told first; the start was then recorded with it.
      await this.attempt(intent, { type: 'ExecStarted', containerId, execId, pid })
    } catch (error) {
      await this.attempt(intent, { type: 'ExecStartFailed', containerId, execId, reason: messageOf(error) })
      throw error
    }
  }

  async signal({ namespace }: Intent, { containerId: id, execId, signal }: ExecSignalled): Promise<void> {
    await this.runtime.kill({ namespace, id, execId, signal, all: false })
  }

  async delete(intent: Intent, { containerId: id, execId }: ExecDeleteRequested): Promise<void> {
    try {
      await this.runtime.delete({ namespace: intent.namespace, id, execId })
    } catch (error) {
      await this.attempt(intent, { type: 'ExecDeleteFailed', containerId: id, execId, reason: messageOf(error) })
      throw error
    }
    await this.attempt(intent, { type: 'ExecDeleted', containerId: id, execId })
  }

  /** The task may be gone meanwhile, and the exec with it: then there is nothing left to record. */
  private async attempt(intent: Intent, event: ExecEvent): Promise<void> {
    const { namespace } = intent
    const { containerId, execId } = event
    const outcome = await this.runner.attempt(answerTo(intent), containerStream(namespace, containerId), world =>
      stepExec(namespace, world.namespace(namespace).exec(containerId, execId), event),
    )
    if (isRefusal(outcome)) this.log.debug({ namespace, id: containerId, execId, event: event.type }, outcome.message)
  }
}
