// What an exec's intents ask for.
import type { Logger } from 'pino'
import { Code, toStatusError } from '../../../plugins/kit/errors.js'
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
import { type AskAgain, settle } from './answers.js'
import type { ReadHeavy, RuntimeCalls } from './ports.js'
import { answerTo } from './supervisor.js'
import { startDeadlineMs } from './tasks.js'

export class Execs {
  constructor(
    private readonly runner: Runner,
    private readonly runtime: RuntimeCalls,
    private readonly readHeavy: ReadHeavy,
    private readonly log: Logger,
    private readonly askAgain: AskAgain,
  ) {}

  async add(intent: Intent, event: ExecRequested): Promise<void> {
    const { namespace, sequence } = intent
    const { containerId: id, execId, stdio } = event
    const of = { containerId: id, execId }
    await this.settle({
      call: async () => {
        const spec = await this.readHeavy({ ...event.spec, sequence: String(sequence) })
        const { stdin, stdout, stderr, terminal } = stdio
        await this.runtime.exec({ namespace, id, execId, stdin, stdout, stderr, terminal, spec })
      },
      succeeded: () => this.attempt(intent, { type: 'ExecAdded', ...of }),
      failed: reason => this.attempt(intent, { type: 'ExecAddFailed', ...of, reason }),
    })
  }

  async start(intent: Intent, { containerId, execId }: ExecStartRequested): Promise<void> {
    const of = { containerId, execId }
    const request = { namespace: intent.namespace, id: containerId, execId }
    await this.settle({
      call: () => this.runtime.start(request, { deadlineMs: startDeadlineMs }),
      // Its exit may have been told first; the start was then recorded with it.
      succeeded: ({ pid }) => this.attempt(intent, { type: 'ExecStarted', ...of, pid }),
      failed: reason => this.attempt(intent, { type: 'ExecStartFailed', ...of, reason }),
    })
  }

  async signal({ namespace }: Intent, { containerId: id, execId, signal }: ExecSignalled): Promise<void> {
    await this.runtime.kill({ namespace, id, execId, signal, all: false })
  }

  async delete(intent: Intent, { containerId, execId }: ExecDeleteRequested): Promise<void> {
    const of = { containerId, execId }
    await this.settle({
      call: () => this.deleteProcess(intent.namespace, containerId, execId),
      succeeded: () => this.attempt(intent, { type: 'ExecDeleted', ...of }),
      failed: reason => this.attempt(intent, { type: 'ExecDeleteFailed', ...of, reason }),
    })
  }

  private settle<Answer>(steps: Parameters<typeof settle<Answer>>[1]): Promise<void> {
    return settle(() => this.askAgain('runtime'), steps)
  }

  /** One that the runtime does not know is deleted. */
  private async deleteProcess(namespace: string, id: string, execId: string): Promise<void> {
    try {
      await this.runtime.delete({ namespace, id, execId })
    } catch (error) {
      if (toStatusError(error).code !== Code.NOT_FOUND) throw error
    }
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
