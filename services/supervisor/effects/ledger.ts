// The plugins' comings and goings as facts of their machines: what the registry writes into.
import type { Logger } from 'pino'
import { Code, StatusError } from '../../../plugins/kit/errors.js'
import type { Emit } from '../../../proto/gen/purser/plugins/v1/registry.js'
import type { Decision } from '../domain/decision.js'
import { type Plugin, stepPlugin } from '../domain/plugin/decide.js'
import type { PluginEvent } from '../domain/plugin/events.js'
import { pluginStream } from '../domain/streams.js'
import type { Sequence } from '../journal/journal.js'
import type { Runner } from '../runner.js'
import type { Store } from '../state/store.js'
import type { Emissions, PluginName } from './emissions.js'
import { ownCause } from './supervisor.js'

export interface RegistrationFacts extends PluginName {
  version: string
  endpoint: string
  capabilities: readonly string[]
}

export class Ledger {
  /** Of registrations that a journal without writes could not take. */
  private unrecorded = 0

  constructor(
    private readonly runner: Runner,
    private readonly store: Store,
    private readonly emissions: Emissions,
    private readonly log: Logger,
  ) {}

  /** Answers the epoch: how often this plugin has registered, this time included. */
  async registered({ kind, id, version, endpoint, capabilities }: RegistrationFacts): Promise<bigint> {
    const known = this.store.world.plugin(kind, id).facts.epoch
    let epoch = known + ++this.unrecorded
    await this.record(kind, id, plugin => {
      epoch = plugin.facts.epoch + 1
      return stepPlugin(plugin, { type: 'PluginRegistered', kind, id, version, endpoint, capabilities, epoch })
    })
    return BigInt(epoch)
  }

  ready({ kind, id }: PluginName, epoch: bigint): Promise<void> {
    return this.step({ type: 'PluginReady', kind, id, epoch: Number(epoch) })
  }

  draining({ kind, id }: PluginName, epoch: bigint, reason: string): Promise<void> {
    return this.step({ type: 'PluginDraining', kind, id, epoch: Number(epoch), reason })
  }

  lost({ kind, id }: PluginName, epoch: bigint, reason: string): Promise<void> {
    return this.step({ type: 'PluginLost', kind, id, epoch: Number(epoch), reason })
  }

  left({ kind, id }: PluginName, epoch: bigint, reason: string): Promise<void> {
    return this.step({ type: 'PluginLeft', kind, id, epoch: Number(epoch), reason })
  }

  emitted(plugin: PluginName, emission: Emit): Promise<Sequence> {
    return this.emissions.record(plugin, emission)
  }

  /** No plugin outlives its stream: whoever was there when the supervisor ended has to register again. */
  async loseAll(reason: string): Promise<void> {
    const live = [...this.store.world.plugins].filter(([, { state }]) =>
      ['opening', 'ready', 'draining'].includes(state),
    )
    await Promise.all(
      live.map(([key, { facts }]) => {
        const [kind = '', id = ''] = key.split('/')
        return this.lost({ kind, id }, BigInt(facts.epoch), reason)
      }),
    )
  }

  private step(event: PluginEvent): Promise<void> {
    return this.record(event.kind, event.id, plugin => stepPlugin(plugin, event))
  }

  /** Plugins serve also while the journal takes no writes: running containers need them. */
  private async record(kind: string, id: string, decide: (plugin: Plugin) => Decision): Promise<void> {
    try {
      await this.runner.run(ownCause('registration', `${kind}/${id}`), pluginStream(kind, id), world =>
        decide(world.plugin(kind, id)),
      )
    } catch (error) {
      const isRefusedWrite =
        error instanceof StatusError && (error.code === Code.UNAVAILABLE || error.code === Code.RESOURCE_EXHAUSTED)
      if (!isRefusedWrite) throw error
      this.log.warn({ kind, id, reason: error.details }, 'the coming or going of a plugin could not be recorded')
    }
  }
}
