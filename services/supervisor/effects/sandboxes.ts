// What a sandbox's intents ask for: the runtime is called, and its answer becomes the next fact.
import type { Logger } from 'pino'
import type { StartSandboxResponse } from '../../../proto/gen/purser/runtime/v1/runtime.js'
import type { Clock } from '../clock.js'
import { isRefusal } from '../domain/decision.js'
import { recordSandboxRemoved, stepSandbox } from '../domain/sandbox/decide.js'
import type {
  SandboxCreateRequested,
  SandboxEvent,
  SandboxShutdownRequested,
  SandboxStarted,
  SandboxStartRequested,
  SandboxStopRequested,
} from '../domain/sandbox/events.js'
import { sandboxStream } from '../domain/streams.js'
import { formatInstant, formatNanos } from '../domain/time.js'
import type { Exit } from '../domain/values.js'
import type { Intent, Runner } from '../runner.js'
import { anyFromSmall, mountToProto } from '../state/convert.js'
import { type AskAgain, settle } from './answers.js'
import type { ReadHeavy, RuntimeCalls } from './ports.js'
import { answerTo } from './supervisor.js'

/** As for tasks: longer than the runtime's own deadlines. */
const callDeadlineMs = 120_000

/** What containerd says of a sandbox whose end nobody saw. */
const unknownStatus = 255

export class Sandboxes {
  constructor(
    private readonly runner: Runner,
    private readonly runtime: RuntimeCalls,
    private readonly readHeavy: ReadHeavy,
    private readonly clock: Clock,
    private readonly log: Logger,
    private readonly askAgain: AskAgain,
  ) {}

  async create(intent: Intent, event: SandboxCreateRequested): Promise<void> {
    const { namespace, sequence } = intent
    const { sandboxId: id, runtime, rootfs, options, netnsPath, annotations } = event
    await this.settle({
      call: async () => {
        const place = event.spec && { ...event.spec, sequence: event.spec.sequence || String(sequence) }
        await this.runtime.createSandbox(
          {
            ...{ namespace, id, runtime: runtime.name, netnsPath, annotations: { ...annotations } },
            spec: place ? await this.readHeavy(place) : undefined,
            rootfs: rootfs.map(mountToProto),
            runtimeOptions: runtime.options ? anyFromSmall(runtime.options) : undefined,
            options: options ? anyFromSmall(options) : undefined,
          },
          { deadlineMs: callDeadlineMs },
        )
      },
      succeeded: () => this.answer(intent, { type: 'SandboxCreated', sandboxId: id }),
      failed: reason => this.answer(intent, { type: 'SandboxCreateFailed', sandboxId: id, reason }),
      takeBack: () => this.runtime.destroySandbox({ namespace, id }, { deadlineMs: callDeadlineMs }),
    })
  }

  async start(intent: Intent, { sandboxId: id }: SandboxStartRequested): Promise<void> {
    await this.settle({
      call: () => this.runtime.startSandbox({ namespace: intent.namespace, id }, { deadlineMs: callDeadlineMs }),
      succeeded: started => this.answer(intent, startedFact(id, started)),
      failed: reason => this.answer(intent, { type: 'SandboxStartFailed', sandboxId: id, reason }),
    })
  }

  async stop({ namespace }: Intent, { sandboxId: id, timeoutSeconds }: SandboxStopRequested): Promise<void> {
    const deadlineMs = callDeadlineMs + timeoutSeconds * 1000
    await this.runtime.stopSandbox({ namespace, id, timeoutSecs: timeoutSeconds }, { deadlineMs })
  }

  async shutdown(intent: Intent, { sandboxId: id }: SandboxShutdownRequested): Promise<void> {
    const { namespace } = intent
    await this.settle({
      call: () => this.runtime.destroySandbox({ namespace, id }, { deadlineMs: callDeadlineMs }),
      succeeded: async () => {
        await this.runner.run(answerTo(intent), sandboxStream(namespace, id), world =>
          recordSandboxRemoved(namespace, id, world.namespace(namespace).sandbox(id), unseenExit(this.clock)),
        )
      },
      failed: reason => this.answer(intent, { type: 'SandboxShutdownFailed', sandboxId: id, reason }),
    })
  }

  private settle<Answer>(steps: Parameters<typeof settle<Answer>>[1]): Promise<void> {
    return settle(() => this.askAgain('runtime'), steps)
  }

  /** Its life may have gone on without the answer: an exit came first. */
  private async answer(intent: Intent, event: SandboxEvent): Promise<void> {
    const { namespace } = intent
    const { sandboxId: id } = event
    const outcome = await this.runner.attempt(answerTo(intent), sandboxStream(namespace, id), world =>
      stepSandbox(namespace, world.namespace(namespace).sandbox(id), event),
    )
    if (isRefusal(outcome)) this.log.debug({ namespace, id, event: event.type }, outcome.message)
  }
}

export const unseenExit = (clock: Clock): Exit => ({ status: unknownStatus, at: formatNanos(clock.now()) })

export function startedFact(sandboxId: string, { pid, createdAt, address, version }: StartSandboxResponse) {
  const fact: SandboxStarted = {
    ...{ type: 'SandboxStarted', sandboxId, pid, address, version },
    createdAt: createdAt ? formatInstant(createdAt) : '',
  }
  return fact
}
