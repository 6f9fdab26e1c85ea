// Which live plugin serves a (kind, id): found, waited for, replaced by a newer one, remembered when gone.
import type { Logger } from 'pino'
import { Code, notFound, StatusError } from '../../../plugins/kit/errors.js'
import { socketPath } from '../../../plugins/kit/listen.js'
import type { PluginKind } from '../../../plugins/kit/plugin.js'
import { type CallObserver, LivePlugin, type PluginFacts, type PluginState, pluginTitle } from './live.js'

/** `[proxy_plugins.NAME] type, address` of the configuration, as in containerd's. */
export interface ProxyPlugin {
  name: string
  type: 'snapshot' | 'content' | 'diff'
  /** A path or unix:///path. */
  address: string
}

export interface DirectoryOptions {
  log: Logger
  /** Plugins that the configuration names: asking for one that is not there yet waits for it. */
  expected: readonly { kind: PluginKind; id: string }[]
  /** Hears of every finished call; for metrics. */
  onCall?: CallObserver
}

export interface FindOptions {
  /** How long to wait for the plugin to come (back); 10 s unless told. */
  waitMs?: number
  signal?: AbortSignal
}

export interface PluginStatus {
  kind: PluginKind
  id: string
  version: string
  endpoint: string
  capabilities: readonly string[]
  epoch: bigint
  state: PluginState
  reason: string
  callsUnderWay: number
  lastHeardMs: number
  exports: Readonly<Record<string, string>>
}

/** What is known of one (kind, id). `newest` may be opening while `serving` still takes the calls. */
interface Slot {
  serving: LivePlugin | undefined
  newest: LivePlugin | undefined
  /** Draining ones, whose last calls are not over. */
  older: Set<LivePlugin>
  waiting: Set<(plugin: LivePlugin) => void>
}

const kindOfType = { snapshot: 'snapshotter', content: 'content', diff: 'differ' } as const

export class PluginDirectory {
  readonly #log: Logger
  readonly #onCall: CallObserver
  readonly #slots = new Map<string, Slot>()

  constructor(options: DirectoryOptions) {
    this.#log = options.log
    this.#onCall = options.onCall ?? (() => {})
    for (const { kind, id } of options.expected) this.#slot(kind, id)
  }

  /**
   * The plugin that serves this kind and id now; use it at once, since a newer one may take over later. NOT_FOUND when
   * there never was one; UNAVAILABLE when it does not come within `waitMs`.
   */
  async find(kind: PluginKind, id: string, options: FindOptions = {}): Promise<LivePlugin> {
    const slot = this.#slots.get(key(kind, id))
    if (!slot) throw notFound(pluginTitle(kind, id))
    return slot.serving ?? (await this.#wait(slot, kind, id, options))
  }

  /** Everything known, also what is gone: the newest registration of each (kind, id), and older ones that drain. */
  list(): PluginStatus[] {
    return [...this.#slots.values()].flatMap(slot => {
      const plugins = new Set([slot.newest, slot.serving, ...slot.older])
      return [...plugins].filter(plugin => plugin !== undefined).map(statusOf)
    })
  }

  /** Whether the runtime that serves now says that this task does not answer. */
  isUnresponsive(namespace: string, id: string): boolean {
    const task = taskKey(namespace, id)
    return this.#unresponsive().some(tasks => tasks.has(task))
  }

  /** How many tasks do not answer. */
  countUnresponsive(): number {
    return this.#unresponsive().reduce((sum, { size }) => sum + size, 0)
  }

  #unresponsive(): ReadonlySet<string>[] {
    return [...this.#slots.values()].flatMap(({ serving }) =>
      serving?.unresponsive.size ? [serving.unresponsive] : [],
    )
  }

  /** A plugin has said Hello. It takes no calls before `ready`. */
  add(facts: PluginFacts, epoch: bigint): LivePlugin {
    const slot = this.#slot(facts.kind, facts.id)
    const plugin = new LivePlugin(facts, epoch, this.#onCall)
    if (!slot.newest || slot.newest.epoch < epoch) slot.newest = plugin
    return plugin
  }

  /**
   * New calls go to this plugin from now on. Answers the one it replaces, which drains: calls under way on it finish.
   * An older registration than the serving one is not let in.
   */
  ready(plugin: LivePlugin, exports: Record<string, string>): LivePlugin | undefined {
    const slot = this.#slot(plugin.kind, plugin.id)
    plugin.exports = exports
    if (plugin.state !== 'opening') return undefined
    const replaced = slot.serving
    if (replaced && replaced.epoch > plugin.epoch) {
      this.retire(plugin, `registration ${replaced.epoch} is newer`)
      return plugin
    }
    plugin.state = 'ready'
    slot.serving = plugin
    if (replaced) this.retire(replaced, `replaced by registration ${plugin.epoch}, version ${plugin.facts.version}`)
    for (const wake of slot.waiting) wake(plugin)
    slot.waiting.clear()
    return replaced
  }

  /** It takes no new calls; those under way go on. Until another is ready, callers wait. */
  retire(plugin: LivePlugin, reason: string): void {
    if (plugin.state === 'lost' || plugin.state === 'left') return
    const slot = this.#slot(plugin.kind, plugin.id)
    plugin.state = 'draining'
    plugin.reason = reason
    slot.older.add(plugin)
    if (slot.serving === plugin) slot.serving = undefined
  }

  /** It is gone: its stream broke (`lost`), or it said Goodbye (`left`). */
  end(plugin: LivePlugin, state: 'lost' | 'left', reason: string): void {
    if (plugin.state === 'lost' || plugin.state === 'left') return
    const slot = this.#slot(plugin.kind, plugin.id)
    plugin.state = state
    plugin.reason = reason
    slot.older.delete(plugin)
    if (slot.serving === plugin) slot.serving = undefined
    plugin.close()
  }

  /** A plugin that serves by itself and never registers: ready whenever its socket answers. */
  addProxy({ name, type, address }: ProxyPlugin): void {
    const endpoint = `unix://${socketPath(address)}`
    const kind = kindOfType[type]
    const facts = { kind, id: name, version: 'proxy', endpoint, capabilities: [], peer: 'configuration' }
    const plugin = this.add(facts, 0n)
    plugin.reason = nobodyAnswers(plugin)
    void this.#followProxy(plugin)
  }

  close(): void {
    for (const slot of this.#slots.values()) {
      for (const plugin of [slot.newest, slot.serving, ...slot.older]) plugin?.close()
    }
  }

  async #followProxy(plugin: LivePlugin): Promise<void> {
    const slot = this.#slot(plugin.kind, plugin.id)
    for await (const up of plugin.connectivity()) {
      plugin.lastHeardMs = Date.now()
      if (up && plugin.state === 'opening') {
        this.ready(plugin, {})
        this.#log.info({ kind: plugin.kind, plugin: plugin.id }, 'the proxy plugin answers')
      } else if (!up && plugin.state === 'ready') {
        plugin.state = 'opening'
        plugin.reason = nobodyAnswers(plugin)
        if (slot.serving === plugin) slot.serving = undefined
        this.#log.warn({ kind: plugin.kind, plugin: plugin.id, endpoint: plugin.facts.endpoint }, plugin.reason)
      }
    }
  }

  #wait(slot: Slot, kind: PluginKind, id: string, { waitMs = 10_000, signal }: FindOptions): Promise<LivePlugin> {
    return new Promise((resolve, reject) => {
      const done = () => {
        clearTimeout(timer)
        slot.waiting.delete(arrived)
        signal?.removeEventListener('abort', aborted)
      }
      const arrived = (plugin: LivePlugin) => {
        done()
        resolve(plugin)
      }
      const aborted = () => {
        done()
        reject(new StatusError(Code.CANCELLED, `the caller left while waiting for the ${pluginTitle(kind, id)}`))
      }
      const timer = setTimeout(() => {
        done()
        reject(missing(slot, kind, id))
      }, waitMs)
      slot.waiting.add(arrived)
      if (signal?.aborted) aborted()
      else signal?.addEventListener('abort', aborted, { once: true })
    })
  }

  #slot(kind: PluginKind, id: string): Slot {
    const known = this.#slots.get(key(kind, id))
    if (known) return known
    const slot: Slot = { serving: undefined, newest: undefined, older: new Set(), waiting: new Set() }
    this.#slots.set(key(kind, id), slot)
    return slot
  }
}

export const taskKey = (namespace: string, id: string): string => `${namespace}/${id}`

function key(kind: PluginKind, id: string): string {
  return `${kind}/${id}`
}

function statusOf(plugin: LivePlugin): PluginStatus {
  const { facts, epoch, state, reason, callsUnderWay, lastHeardMs, exports } = plugin
  const { kind, id, version, endpoint, capabilities } = facts
  return { kind, id, version, endpoint, capabilities, epoch, state, reason, callsUnderWay, lastHeardMs, exports }
}

function missing(slot: Slot, kind: PluginKind, id: string): StatusError {
  const advice = 'see the log of the plugin, start it again, or choose another'
  return new StatusError(
    Code.UNAVAILABLE,
    `${pluginTitle(kind, id)} is not running (${whyMissing(slot.newest)}): ${advice}: unavailable`,
  )
}

function nobodyAnswers(plugin: LivePlugin): string {
  return `nobody answers on ${plugin.facts.endpoint}`
}

function whyMissing(newest: LivePlugin | undefined): string {
  if (!newest) return 'it never registered'
  if (newest.state === 'opening') return newest.reason || 'it is still opening'
  return `${newest.state}: ${newest.reason}`
}
