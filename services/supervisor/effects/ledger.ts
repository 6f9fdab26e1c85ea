// The plugins' comings and goings as facts of their machines: what the registry writes into.
import type { Logger } from 'pino'
import { Code, StatusError } from '../../../plugins/kit/errors.js'
import type { Emit } from '../../../proto/gen/purser/plugins/v1/registry.js'
import { stepPlugin } from '../domain/plugin/decide.js'
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

/** How often what could not be recorded is tried again. */
const retryMs = 1000

export class Ledger {
  /** By plugin: the epoch that it was given last, recorded or not. */
  private readonly epochs = new Map<string, number>()
  /** By plugin: what a journal without writes could not take. Until it is recorded, nothing is reconciled with it. */
  private readonly late = new Map<string, PluginEvent[]>()
  private retry: NodeJS.Timeout | undefined

  constructor(
    private readonly runner: Runner,
    private readonly store: Store,
    private readonly emissions: Emissions,
    private readonly log: Logger,
  ) {}

  /** Answers the epoch: how often this plugin has registered, this time included. */
  async registered({ kind, id, version, endpoint, capabilities }: RegistrationFacts): Promise<bigint> {
    const recorded = this.store.world.plugin(kind, id).facts.epoch
    const epoch = Math.max(recorded, this.epochs.get(`${kind}/${id}`) ?? 0) + 1
    this.epochs.set(`${kind}/${id}`, epoch)
    await this.step({ type: 'PluginRegistered', kind, id, version, endpoint, capabilities, epoch })
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

  close(): void {
    clearTimeout(this.retry)
  }

  /** Plugins serve also while the journal takes no writes: running containers need them. It is recorded afterwards. */
  private async step(event: PluginEvent): Promise<void> {
    const { kind, id } = event
    const late = this.late.get(`${kind}/${id}`)
    if (late) {
      late.push(event)
      return
    }
    try {
      await this.record(event)
    } catch (error) {
      if (!isRefusedWrite(error)) throw error
      this.log.warn({ kind, id, reason: error.details }, 'the coming or going of a plugin is recorded later')
      this.late.set(`${kind}/${id}`, [...(this.late.get(`${kind}/${id}`) ?? []), event])
      this.retryLater()
    }
  }

  private retryLater(): void {
    this.retry ??= setTimeout(() => {
      this.retry = undefined
      void Promise.all([...this.late.keys()].map(plugin => this.catchUp(plugin))).then(() => {
        if (this.late.size > 0) this.retryLater()
      })
    }, retryMs).unref()
  }

  /** In the order in which it happened; what came meanwhile is behind it. */
  private async catchUp(plugin: string): Promise<void> {
    const late = this.late.get(plugin) ?? []
    try {
      for (let event = late[0]; event; event = late[0]) {
        await this.record(event)
        late.shift()
      }
      this.late.delete(plugin)
    } catch (error) {
      if (!isRefusedWrite(error))
        this.log.error({ err: error, plugin }, 'the coming or going of a plugin is not recorded')
    }
  }

  private async record(event: PluginEvent): Promise<void> {
    const { kind, id } = event
    await this.runner.run(ownCause('registration', `${kind}/${id}`), pluginStream(kind, id), world =>
      stepPlugin(world.plugin(kind, id), event),
    )
  }
}

function isRefusedWrite(error: unknown): error is StatusError {
  return error instanceof StatusError && (error.code === Code.UNAVAILABLE || error.code === Code.RESOURCE_EXHAUSTED)
}
