// One registration of a plugin as the supervisor sees it: its state, its channel, and the calls under way on it.
import { Client, connectivityState, credentials } from '@grpc/grpc-js'
import type { Code } from '../../../plugins/kit/errors.js'
import type { PluginKind } from '../../../plugins/kit/plugin.js'
import { messageLimits } from '../../../plugins/kit/serve.js'

export interface PluginFacts {
  kind: PluginKind
  id: string
  version: string
  /** unix:///path */
  endpoint: string
  capabilities: readonly string[]
  /** Who registered: `pid=1,uid=0,gid=0`, or `configuration` for a proxy plugin. */
  peer: string
}

/** Only `ready` takes new calls. `lost` and `left` are ends. */
export type PluginState = 'opening' | 'ready' | 'draining' | 'lost' | 'left'

export interface CallObservation {
  kind: PluginKind
  id: string
  /** `/containerd.services.snapshots.v1.Snapshots/Prepare` */
  method: string
  code: Code
  seconds: number
}

export type CallObserver = (observation: CallObservation) => void

export class LivePlugin {
  state: PluginState = 'opening'
  /** Why it is draining, lost or gone. */
  reason = ''
  exports: Readonly<Record<string, string>> = {}
  /** The tasks of a runtime plugin that do not answer now, by namespace and id. */
  unresponsive: ReadonlySet<string> = new Set()
  /** Milliseconds since 1970 of the last sign of life. */
  lastHeardMs = Date.now()
  /** Made with the registration, so that the first call finds it connected. */
  readonly client: Client
  readonly #observe: CallObserver
  #underWay = 0
  readonly #idleWaiters = new Set<() => void>()
  #closed = false

  constructor(
    readonly facts: PluginFacts,
    /** Counts the registrations of this kind and id; 0 for a proxy plugin, which never registers. */
    readonly epoch: bigint,
    observe: CallObserver,
  ) {
    this.#observe = observe
    this.client = new Client(facts.endpoint, credentials.createInsecure(), channelOptions)
  }

  get kind(): PluginKind {
    return this.facts.kind
  }

  get id(): string {
    return this.facts.id
  }

  /** For people: `snapshotter plugin "overlayfs"`. */
  get title(): string {
    return pluginTitle(this.facts.kind, this.facts.id)
  }

  get callsUnderWay(): number {
    return this.#underWay
  }

  /** Counts a call until the answered function is called with its outcome. */
  begin(method: string): (code: Code) => void {
    const started = performance.now()
    let over = false
    this.#underWay++
    return code => {
      if (over) return
      over = true
      this.#underWay--
      this.#observe({ kind: this.kind, id: this.id, method, code, seconds: (performance.now() - started) / 1000 })
      if (this.#underWay === 0) this.#wakeIdle()
    }
  }

  /** Resolves when no call is under way; false when `withinMs` passed before. */
  async idle(withinMs: number): Promise<boolean> {
    if (this.#underWay === 0) return true
    return new Promise(resolve => {
      const done = (idle: boolean) => {
        clearTimeout(timer)
        this.#idleWaiters.delete(wake)
        resolve(idle)
      }
      const wake = () => done(true)
      const timer = setTimeout(() => done(false), withinMs)
      if (this.#closed) timer.unref() // nobody waits for the afterlife of a plugin that is gone
      this.#idleWaiters.add(wake)
    })
  }

  /** Opens the connection ahead of the first call. Resolves early when it cannot be had. */
  connect(withinMs: number): Promise<boolean> {
    return new Promise(resolve => this.client.waitForReady(Date.now() + withinMs, error => resolve(!error)))
  }

  /** Resolves with true when the connection is up, false when it is not; then waits for the next change of that. */
  async *connectivity(): AsyncGenerator<boolean> {
    const channel = this.client.getChannel()
    while (!this.#closed) {
      const state = channel.getConnectivityState(true)
      if (state === connectivityState.SHUTDOWN) return
      if (state !== connectivityState.CONNECTING) yield state === connectivityState.READY
      await new Promise<void>(resolve => channel.watchConnectivityState(state, Date.now() + 60_000, () => resolve()))
    }
  }

  /** New calls are refused by now; those under way are let go on, then the channel closes. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    // A lost plugin may have been just slow: its answers are still welcome.
    void this.idle(afterlifeMs).then(() => this.client.close())
  }

  #wakeIdle(): void {
    for (const wake of this.#idleWaiters) wake()
  }
}

export function pluginTitle(kind: string, id: string): string {
  return `${kind} plugin "${id}"`
}

const afterlifeMs = 60_000

const channelOptions = {
  ...messageLimits,
  'grpc.enable_channelz': 0,
  'grpc.service_config_disable_resolution': 1,
  'grpc.use_local_subchannel_pool': 1,
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 1000,
  'grpc.client_idle_timeout_ms': 2 ** 31 - 1,
  // Blobs come in messages of up to 1 MiB; with the default window of 64 KiB each would take many round trips.
  'grpc-node.flow_control_window': 4 << 20,
}
