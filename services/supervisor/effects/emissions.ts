// What plugins emit: ends of processes become facts of their lifecycles, everything else is remembered as it is.
import type { Logger } from 'pino'
import { invalidArgument } from '../../../plugins/kit/errors.js'
import { SandboxExit } from '../../../proto/gen/containerd/events/sandbox.js'
import { TaskExit, TaskOOM } from '../../../proto/gen/containerd/events/task.js'
import type { Emit } from '../../../proto/gen/purser/plugins/v1/registry.js'
import { isRefusal } from '../domain/decision.js'
import { recordExecExit } from '../domain/exec/decide.js'
import { stepPlugin } from '../domain/plugin/decide.js'
import { recordSandboxExit } from '../domain/sandbox/decide.js'
import { containerStream, pluginStream, sandboxStream, taskStream } from '../domain/streams.js'
import { recordExit, stepTask } from '../domain/task/decide.js'
import { checkTopic } from '../domain/validate.js'
import type { Sequence } from '../journal/journal.js'
import type { Runner } from '../runner.js'
import { exitFromProto, smallFromAny, timestampFromProto } from '../state/convert.js'
import type { Store } from '../state/store.js'
import { answered } from './answers.js'
import { ownCause } from './supervisor.js'

export interface PluginName {
  kind: string
  id: string
}

/** An exit can overtake the answer to Create; it waits for that, but not for ever. */
const creationWaitMs = 120_000

export class Emissions {
  constructor(
    private readonly runner: Runner,
    private readonly store: Store,
    private readonly log: Logger,
  ) {}

  /** Answers the sequence once it is durable, 0 when it told nothing new. Throws INVALID_ARGUMENT for nonsense. */
  async record(plugin: PluginName, emission: Emit): Promise<Sequence> {
    if (plugin.kind === 'runtime' && emission.topic === '/tasks/exit') return this.exit(plugin, emission)
    if (plugin.kind === 'runtime' && emission.topic === '/sandboxes/exit') return this.sandboxExit(plugin, emission)
    if (plugin.kind === 'runtime' && emission.topic === '/tasks/oom') return this.outOfMemory(plugin, emission)
    return this.remember(plugin, emission)
  }

  private async exit(plugin: PluginName, { namespace, event }: Emit): Promise<Sequence> {
    const exited = TaskExit.decode(event?.value ?? Buffer.alloc(0))
    const { containerId, id, pid } = exited
    const report = { pid, exit: exitFromProto(exited.exitStatus, exited.exitedAt) }
    await answered(this.store, () => this.creation(namespace, containerId), { withinMs: creationWaitMs })
    const cause = ownCause('exit', `${plugin.kind}/${plugin.id}`)
    const outcome = await this.runner.attempt(cause, containerStream(namespace, containerId), world => {
      const here = world.namespace(namespace)
      return id === containerId || id === ''
        ? recordExit(namespace, containerId, here.task(containerId), report)
        : recordExecExit(namespace, containerId, id, here.exec(containerId, id), report)
    })
    return this.sequenceOf(outcome)
  }

  /** It can overtake the answer to Start, or to Create when the shim dies: it waits for that. */
  private async sandboxExit(plugin: PluginName, { namespace, event }: Emit): Promise<Sequence> {
    const { sandboxId, exitStatus, exitedAt } = SandboxExit.decode(event?.value ?? Buffer.alloc(0))
    const stateNow = () => this.store.world.namespace(namespace).sandbox(sandboxId).state
    const open = () => (['creating', 'starting'].includes(stateNow()) ? sandboxStream(namespace, sandboxId) : undefined)
    await answered(this.store, open, { withinMs: creationWaitMs })
    const cause = ownCause('exit', `${plugin.kind}/${plugin.id}`)
    const outcome = await this.runner.attempt(cause, sandboxStream(namespace, sandboxId), world => {
      const exit = exitFromProto(exitStatus, exitedAt)
      return recordSandboxExit(namespace, sandboxId, world.namespace(namespace).sandbox(sandboxId), exit)
    })
    return this.sequenceOf(outcome)
  }

  private async outOfMemory(plugin: PluginName, { namespace, event }: Emit): Promise<Sequence> {
    const { containerId } = TaskOOM.decode(event?.value ?? Buffer.alloc(0))
    const cause = ownCause('out of memory', `${plugin.kind}/${plugin.id}`)
    const outcome = await this.runner.attempt(cause, containerStream(namespace, containerId), world =>
      stepTask(namespace, world.namespace(namespace).task(containerId), { type: 'TaskOutOfMemory', containerId }),
    )
    return this.sequenceOf(outcome)
  }

  private async remember(plugin: PluginName, emission: Emit): Promise<Sequence> {
    const objection = checkTopic(emission.topic)
    if (objection) throw invalidArgument(objection)
    const { kind, id } = plugin
    const outcome = await this.runner.run(ownCause('emission', `${kind}/${id}`), pluginStream(kind, id), world =>
      stepPlugin(
        world.plugin(kind, id),
        {
          type: 'PluginEmitted',
          kind,
          id,
          emissionId: emission.id,
          topic: emission.topic,
          at: emission.timestamp ? timestampFromProto(emission.timestamp) : null,
          event: emission.event ? smallFromAny(emission.event) : null,
        },
        emission.namespace,
      ),
    )
    return outcome.sequence
  }

  private creation(namespace: string, containerId: string): string | undefined {
    const { state } = this.store.world.namespace(namespace).task(containerId)
    return state === 'creating' ? taskStream(namespace, containerId) : undefined
  }

  private sequenceOf(outcome: Awaited<ReturnType<Runner['attempt']>>): Sequence {
    if (!isRefusal(outcome)) return outcome.sequence
    this.log.debug(outcome.message)
    return 0n
  }
}
