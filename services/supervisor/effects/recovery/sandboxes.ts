// Compares the journal's sandboxes with the runtime's, whenever the runtime plugin has (re)registered.
import type { Logger } from 'pino'
import { Code, StatusError } from '../../../../plugins/kit/errors.js'
import { type Sandbox as Listed, Liveness } from '../../../../proto/gen/purser/runtime/v1/runtime.js'
import type { Clock } from '../../clock.js'
import type { Decision } from '../../domain/decision.js'
import { recordSandboxExit, recordSandboxRemoved, stepSandbox } from '../../domain/sandbox/decide.js'
import { sandboxMachine } from '../../domain/sandbox/machine.js'
import { sandboxStream } from '../../domain/streams.js'
import type { Runner } from '../../runner.js'
import { exitFromProto } from '../../state/convert.js'
import { missing } from '../../state/losses.js'
import type { Store } from '../../state/store.js'
import type { World } from '../../state/world.js'
import { type Busy, type Recovering, sandboxKey } from '../perform.js'
import type { RuntimeCalls } from '../ports.js'
import { startedFact, unseenExit } from '../sandboxes.js'
import { ownCause } from '../supervisor.js'

interface Place {
  namespace: string
  id: string
}

export class SandboxRecovery {
  constructor(
    private readonly runner: Runner,
    private readonly store: Store,
    private readonly runtime: RuntimeCalls,
    private readonly busy: Busy,
    private readonly recovering: Recovering,
    private readonly clock: Clock,
    private readonly log: Logger,
  ) {}

  /** Answers whether nothing is left to be asked. */
  async run(): Promise<boolean> {
    const asked = this.store.world.sequence
    const listed = await this.list()
    const known = new Set(listed.map(keyOf))
    const recorded = [...this.store.world.namespaces].flatMap(([namespace, { sandboxLives }]) =>
      [...sandboxLives.keys()].map(id => ({ namespace, id })),
    )
    const looks = [
      ...listed.map(sandbox => this.reconcile(sandbox, sandbox, asked)),
      ...recorded.filter(place => !known.has(keyOf(place))).map(place => this.reconcile(place, undefined, asked)),
    ]
    return (await Promise.all(looks)).every(isSettled => isSettled)
  }

  /** What the runtime has and the journal does not know. */
  async orphans(): Promise<Place[]> {
    return (await this.list()).filter(place => this.recorded(this.store.world, place).state === 'absent')
  }

  /** A runtime of another make need not know sandboxes. */
  private async list(): Promise<Listed[]> {
    try {
      return (await this.runtime.listSandboxes({})).sandboxes
    } catch (error) {
      if (error instanceof StatusError && error.code === Code.UNIMPLEMENTED) return []
      throw error
    }
  }

  /** Answers whether nothing is left to be asked about it. */
  private async reconcile(place: Place, listed: Listed | undefined, asked: bigint): Promise<boolean> {
    const { namespace, id } = place
    const { world } = this.store
    // What changes after the question may not be judged by its answer.
    if (world.version(sandboxStream(namespace, id)) > asked) return false
    const key = sandboxKey(id)
    if (this.busy.has(namespace, key)) return false
    const { state } = this.recorded(world, place)
    try {
      const work = () => this.busy.during(namespace, key, () => this.act(place, listed))
      await this.recovering.during(namespace, key, work)
      return !sandboxMachine.awaitsAnswer(this.recorded(world, place).state)
    } catch (error) {
      this.log.error(
        { namespace, id, journal: state, err: error },
        'a sandbox could not be reconciled; it is tried again',
      )
      return false
    }
  }

  private async act(place: Place, listed: Listed | undefined): Promise<void> {
    const { namespace, id: sandboxId } = place
    const reason = 'the answer was lost'
    const { state } = this.recorded(this.store.world, place)
    const isAlive = listed !== undefined && listed.liveness !== Liveness.LIVENESS_DEAD
    switch (state) {
      case 'absent':
        // While it is not known what the journal lost, nothing is taken for an orphan.
        if (listed && missing(this.store.world.lost) === 0) await this.destroy(place)
        return
      case 'creating':
        await this.destroy(place)
        return this.decide(place, world =>
          stepSandbox(namespace, this.recorded(world, place), { type: 'SandboxCreateFailed', sandboxId, reason }),
        )
      case 'removing':
        await this.destroy(place)
        return this.decide(place, world =>
          recordSandboxRemoved(namespace, sandboxId, this.recorded(world, place), unseenExit(this.clock)),
        )
      case 'stopped':
        return
      default: {
        const started = listed?.started && startedFact(sandboxId, listed.started)
        if (!isAlive || listed.exitedAt) {
          const exit = listed?.exitedAt ? exitFromProto(listed.exitStatus, listed.exitedAt) : unseenExit(this.clock)
          return this.decide(place, world =>
            recordSandboxExit(namespace, sandboxId, this.recorded(world, place), exit, started),
          )
        }
        if (state !== 'starting') return
        return this.decide(place, world =>
          stepSandbox(
            namespace,
            this.recorded(world, place),
            started ?? { type: 'SandboxStartFailed', sandboxId, reason },
          ),
        )
      }
    }
  }

  private async destroy({ namespace, id }: Place): Promise<void> {
    await this.runtime.destroySandbox({ namespace, id })
  }

  private async decide({ namespace, id }: Place, decide: (world: World) => Decision): Promise<void> {
    await this.runner.attempt(ownCause('recovery'), sandboxStream(namespace, id), decide)
  }

  private recorded(world: World, { namespace, id }: Place) {
    return world.namespace(namespace).sandbox(id)
  }
}

const keyOf = ({ namespace, id }: Place): string => `${namespace}/${id}`
