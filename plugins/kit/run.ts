// A plugin's life beside a supervisor: open, register, serve, come back after a break, leave in peace.

import { setTimeout as sleep } from 'node:timers/promises'
import { type ClientDuplexStream, credentials, Metadata } from '@grpc/grpc-js'
import type { Logger } from 'pino'
import type { Welcome } from '../../proto/gen/purser/plugins/v1/registry.js'
import {
  type RegisterRequest,
  type RegisterResponse,
  RegistryClient,
  type TaskName,
} from '../../proto/gen/purser/plugins/v1/registry.js'
import { EmissionQueue } from './emissions.js'
import { toStatusError } from './errors.js'
import { failpoint } from './failpoint.js'
import { socketPath, watchFor } from './listen.js'
import type { PluginDefinition } from './plugin.js'
import { messageLimits } from './serve.js'
import { OpenFailed, Serving } from './serving.js'
import { callsUnderWay } from './underWay.js'

export interface RunOptions {
  /** The registry's socket: unix:///path. */
  registry: string
  /** Where this plugin will serve: unix:///path. */
  endpoint: string
  log: Logger
  /** Sent as `authorization: Bearer …` to a registry that asks for one. */
  token?: string
  /** Aborting it is the same as stop(). */
  signal?: AbortSignal
  /** Called before each try to register. */
  onRegistering?(): void
  /** Called when the plugin has registered, and when that registration has ended. */
  onRegistered?(isRegistered: boolean): void
  /** Calls of a supervisor that is gone do not end: nobody knows what they still do. */
  onStuck?(): void
  /** How long calls under way, and the supervisor's answer to Goodbye, may take when the plugin leaves. */
  graceMs?: number
}

export interface RunningPlugin {
  readonly kind: string
  readonly id: string
  /** Resolves when the plugin has left: stopped, or replaced by a newer one. Rejects with OpenFailed. */
  readonly done: Promise<void>
  /** Finishes what is under way, says Goodbye and closes; resolves as `done`. */
  stop(reason?: string): Promise<void>
}

/** Resolves when the plugin serves and is registered; rejects with OpenFailed, or when it was stopped before. */
export async function runPlugin(definition: PluginDefinition, options: RunOptions): Promise<RunningPlugin> {
  const life = new PluginLife(definition, options)
  await Promise.race([life.ready, life.done.then(() => Promise.reject(new Error('the plugin was stopped')))])
  return life
}

type Said = NonNullable<RegisterRequest['message']>
type Stream = ClientDuplexStream<RegisterRequest, RegisterResponse>

const protocol = { protocolMin: 1, protocolMax: 1 }
const firstRetryMs = 500
const lastRetryMs = 2000
/** Long, because a newer plugin may have to wait until an older one has left its store. */
const welcomeTimeoutMs = 60_000
const emissionsFlushMs = 5000
const abandonedPatienceMs = 500

class PluginLife implements RunningPlugin {
  readonly ready: Promise<void>
  readonly done: Promise<void>
  readonly #definition: PluginDefinition
  readonly #options: RunOptions
  readonly #graceMs: number
  readonly #log: Logger
  readonly #emissions = new EmissionQueue()
  readonly #leaving = new AbortController()
  #serving: Serving | undefined
  /** The stream on which Ready was said. */
  #registered: Stream | undefined
  #becameReady: () => void = () => {}
  #unresponsive: TaskName[] = []

  constructor(definition: PluginDefinition, options: RunOptions) {
    this.#definition = definition
    this.#options = options
    this.#graceMs = options.graceMs ?? 10_000
    this.#log = options.log
    this.ready = new Promise(resolve => {
      this.#becameReady = resolve
    })
    this.done = this.#live()
    this.done.catch(() => {}) // runPlugin and stop tell it
    if (options.signal?.aborted) void this.stop()
    else options.signal?.addEventListener('abort', () => void this.stop(), { once: true })
  }

  get kind(): string {
    return this.#definition.kind
  }

  get id(): string {
    return this.#definition.id
  }

  stop(reason = 'stopped'): Promise<void> {
    if (!this.#leaving.signal.aborted) {
      this.#leaving.abort(new Error(`the plugin leaves: ${reason}`))
      void this.#sayGoodbye(reason)
    }
    return this.done
  }

  get #left(): boolean {
    return this.#leaving.signal.aborted
  }

  async #live(): Promise<void> {
    let retryMs = firstRetryMs
    try {
      while (!this.#left) {
        // A registry that opens meanwhile need not wait until we try again.
        const registry = watchFor(socketPath(this.#options.registry))
        try {
          this.#options.onRegistering?.()
          const wasReady = await this.#register()
          if (this.#left) break
          retryMs = wasReady ? firstRetryMs : Math.min(retryMs * 2, lastRetryMs)
          await this.#pause(retryMs * (0.8 + 0.4 * Math.random()), registry.made)
        } finally {
          registry.close()
        }
      }
    } finally {
      await this.#serving?.close(this.#graceMs)
      this.#emissions.close('it left')
    }
  }

  /** Until it is time for another try. */
  async #pause(ms: number, sooner: Promise<void>): Promise<void> {
    const over = new AbortController()
    const signal = AbortSignal.any([this.#leaving.signal, over.signal])
    await Promise.race([sleep(ms, undefined, { signal }).catch(() => {}), sooner])
    over.abort()
  }

  /** One Register stream from Hello to its end. True when Ready was said on it. */
  async #register(): Promise<boolean> {
    // A channel of its own for each try: a shared one would add its own delay after a failure.
    const client = new RegistryClient(this.#options.registry, credentials.createInsecure(), {
      ...messageLimits,
      'grpc.use_local_subchannel_pool': 1,
      'grpc.service_config_disable_resolution': 1,
    })
    const stream = client.register(this.#metadata())
    stream.on('error', () => {}) // told by the iteration; one that comes after it changes nothing
    const heartbeat = new Repeat(() => say(stream, { $case: 'heartbeat', value: {} }))
    const patience = setTimeout(() => stream.cancel(), welcomeTimeoutMs)
    try {
      say(stream, { $case: 'hello', value: this.#hello() })
      for await (const { message } of answersOf(stream)) {
        switch (message?.$case) {
          case 'welcome':
            clearTimeout(patience)
            heartbeat.every(intervalMs(message.value))
            await this.#open(stream, message.value)
            break
          case 'ack':
            failpoint('emission.acknowledged')
            this.#emissions.acknowledge(message.value.id, message.value.sequence)
            break
          case 'drain':
            void this.stop(message.value.reason)
            break
        }
      }
      if (!this.#left) this.#log.warn('the supervisor ended the registration: registering again')
    } catch (error) {
      if (error instanceof OpenFailed) throw await this.#giveUp(stream, error)
      if (!this.#left) this.#log.warn({ reason: toStatusError(error).details }, 'no registration: trying again')
    } finally {
      clearTimeout(patience)
      heartbeat.stop()
      this.#emissions.disconnect()
      stream.cancel()
      client.close()
    }
    const wasReady = this.#registered === stream
    this.#registered = undefined
    if (wasReady) this.#options.onRegistered?.(false)
    return wasReady
  }

  async #open(stream: Stream, welcome: Welcome): Promise<void> {
    const config = welcome.config ?? {}
    if (this.#serving && !this.#serving.isConfiguredBy(config)) {
      this.#log.info('the configuration changed: opening anew')
      await this.#serving.close(this.#graceMs)
      this.#serving = undefined
    }
    if (this.#serving) await this.#finishAbandoned()
    this.#serving ??= await Serving.open(this.#definition, config, {
      endpoint: this.#options.endpoint,
      log: this.#log,
      emissions: this.#emissions,
      tellUnresponsive: tasks => {
        this.#unresponsive = [...tasks]
        if (this.#registered) this.#sayUnresponsive(this.#registered)
      },
      leaving: this.#leaving.signal,
    })
    failpoint('plugin.opened')
    say(stream, { $case: 'ready', value: { exports: this.#serving.exports } })
    this.#registered = stream
    this.#options.onRegistered?.(true)
    if (this.#unresponsive.length > 0) this.#sayUnresponsive(stream)
    this.#emissions.connect(emit => say(stream, { $case: 'emit', value: emit }))
    this.#log.info({ lease: welcome.lease, epoch: welcome.epoch.toString() }, 'open for calls')
    this.#becameReady()
    if (this.#left) void this.#sayGoodbye('stopped')
  }

  #sayUnresponsive(stream: Stream): void {
    say(stream, { $case: 'unresponsive', value: { tasks: this.#unresponsive } })
  }

  /**
   * Calls that a supervisor made which is gone now: its successor compares what it knows with what it finds here, so
   * they have to be over before it looks.
   */
  async #finishAbandoned(): Promise<void> {
    while (!(await callsUnderWay.abandonedOver(abandonedPatienceMs))) {
      this.#log.warn('calls of a supervisor that is gone are still under way: they have to end first')
      this.#options.onStuck?.()
    }
  }

  /**
   * The supervisor stops sending calls when it hears Goodbye, waits for those under way and ends the stream: until
   * then the socket goes on serving, so that no call meets a closed door.
   */
  async #sayGoodbye(reason: string): Promise<void> {
    const stream = this.#registered
    if (!stream) return
    await bounded(this.#emissions.idle(), emissionsFlushMs)
    say(stream, { $case: 'goodbye', value: { reason } })
    await sleep(this.#graceMs, undefined, { ref: false })
    stream.cancel()
  }

  /** The reason travels to the supervisor, which shows it to whoever asks for this plugin. */
  async #giveUp(stream: Stream, error: OpenFailed): Promise<OpenFailed> {
    say(stream, { $case: 'goodbye', value: { reason: error.message } })
    stream.resume()
    await bounded(new Promise(resolve => stream.once('end', resolve)), 1000)
    return error
  }

  #hello() {
    const { kind, id, version, capabilities } = this.#definition
    return { kind, id, version, capabilities, endpoint: this.#options.endpoint, ...protocol }
  }

  #metadata(): Metadata {
    const metadata = new Metadata()
    if (this.#options.token) metadata.set('authorization', `Bearer ${this.#options.token}`)
    return metadata
  }
}

/** Leaving the loop must not end the stream: there may be a Goodbye to say. */
function answersOf(stream: Stream): AsyncIterable<RegisterResponse> {
  return stream.iterator({ destroyOnReturn: false })
}

function say(stream: Stream, message: Said): void {
  if (!stream.destroyed && !stream.writableEnded) stream.write({ message })
}

/** A timer that can be set later and stops with its owner. */
class Repeat {
  #timer: NodeJS.Timeout | undefined

  constructor(readonly action: () => void) {}

  every(ms: number): void {
    this.stop()
    this.#timer = setInterval(this.action, ms)
  }

  stop(): void {
    clearInterval(this.#timer)
  }
}

function intervalMs({ heartbeatInterval }: Welcome): number {
  const ms = heartbeatInterval ? Number(heartbeatInterval.seconds) * 1000 + heartbeatInterval.nanos / 1_000_000 : 5000
  return Math.max(20, ms)
}

async function bounded(promise: Promise<unknown>, ms: number): Promise<void> {
  const waiting = new AbortController()
  await Promise.race([promise, sleep(ms, undefined, { signal: waiting.signal }).catch(() => {})])
  waiting.abort()
}
