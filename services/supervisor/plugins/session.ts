// One Register stream, from a plugin's Hello to its end: admitted, watched, drained, told to the ledger.
import { timingSafeEqual } from 'node:crypto'
import type { Metadata, ServerDuplexStream } from '@grpc/grpc-js'
import type { Logger } from 'pino'
import { Code, invalidArgument, StatusError, toStatusError, unavailable } from '../../../plugins/kit/errors.js'
import type { Lanes } from '../../../plugins/kit/lanes.js'
import type { Config, PluginKind } from '../../../plugins/kit/plugin.js'
import type { Hello, RegisterRequest, RegisterResponse } from '../../../proto/gen/purser/plugins/v1/registry.js'
import { type PluginDirectory, taskKey } from './directory.js'
import { EmissionIntake } from './intake.js'
import type { PluginLedger, PluginRef } from './ledger.js'
import type { LivePlugin, PluginFacts } from './live.js'

export interface SessionSettings {
  ledger: PluginLedger
  directory: PluginDirectory
  /** The plugin's section of the configuration, with its directories filled in. */
  configFor(kind: PluginKind, id: string): Config
  log: Logger
  /** When set, plugins have to send it as `authorization: Bearer …`. */
  token?: string
  /** How often a plugin shows a sign of life; three missed ones are a loss. */
  heartbeatMs: number
  /** How long the calls under way on a plugin that leaves may take. */
  drainMs: number
  /** One registration of a (kind, id) at a time is let in. */
  turns: Lanes
}

type Stream = ServerDuplexStream<RegisterRequest, RegisterResponse>
type Said = NonNullable<RegisterResponse['message']>

const helloTimeoutMs = 10_000
const connectTimeoutMs = 3000
const missedHeartbeats = 3

export class Session {
  plugin: LivePlugin | undefined
  readonly #stream: Stream
  readonly #settings: SessionSettings
  readonly #others: ReadonlySet<Session>
  readonly #intake: EmissionIntake
  readonly #over: Promise<void>
  #finish: () => void = () => {}
  #watchdog: NodeJS.Timeout | undefined
  #missed = 0
  #goodbye: string | undefined
  /** Why we cut the stream. */
  #reason: string | undefined
  #stopping = false

  constructor(stream: Stream, settings: SessionSettings, others: ReadonlySet<Session>) {
    this.#stream = stream
    this.#settings = settings
    this.#others = others
    this.#over = new Promise(resolve => {
      this.#finish = resolve
    })
    this.#intake = new EmissionIntake({
      journal: emission => settings.ledger.emitted(this.#ref(), emission),
      acknowledge: (id, sequence) => this.#say({ $case: 'ack', value: { id, sequence } }),
      log: settings.log,
    })
  }

  async run(): Promise<void> {
    let reason = 'the stream ended without a goodbye'
    try {
      this.#authorise(this.#stream.metadata)
      this.#watch(helloTimeoutMs, 'no Hello came')
      for await (const request of this.#stream.iterator({ destroyOnReturn: false })) await this.#hear(request)
    } catch (error) {
      reason = toStatusError(error).details
      this.#fail(error)
    } finally {
      clearInterval(this.#watchdog)
      this.#intake.close()
      await this.#ended(reason)
      if (!this.#stream.cancelled) this.#stream.end()
      this.#finish()
    }
  }

  /** New calls go elsewhere or wait; those under way finish; then the plugin is asked to leave. */
  async drain(reason: string): Promise<void> {
    const { plugin } = this
    if (!plugin) return
    this.#settings.directory.retire(plugin, reason)
    await this.#tell('draining', this.#settings.ledger.draining(this.#ref(), reason))
    if (!(await plugin.idle(this.#settings.drainMs)))
      this.#settings.log.warn({ ...names(plugin), calls: plugin.callsUnderWay }, 'draining though calls are under way')
    this.#say({ $case: 'drain', value: { reason } })
    const patience = setTimeout(() => this.#cut('it did not leave when it was asked to'), this.#settings.drainMs)
    await this.#over
    clearTimeout(patience)
  }

  supervisorStops(): void {
    this.#stopping = true
    this.#fail(new StatusError(Code.UNAVAILABLE, 'the supervisor stops: register again when it is back'))
  }

  async #hear({ message }: RegisterRequest): Promise<void> {
    this.#missed = 0
    if (this.plugin) this.plugin.lastHeardMs = Date.now()
    switch (message?.$case) {
      case 'hello':
        return this.#welcome(message.value)
      case 'ready':
        // Not waited for: heartbeats behind it must be heard.
        this.#ready(this.#registered(), message.value.exports).catch(error => this.#cut(toStatusError(error).details))
        return
      case 'heartbeat':
        return
      case 'emit':
        this.#registered()
        this.#intake.take(message.value)
        if (this.#intake.isFull)
          throw new StatusError(Code.RESOURCE_EXHAUSTED, 'too many events without an answer: wait for Ack')
        return
      case 'unresponsive':
        this.#registered().unresponsive = new Set(
          message.value.tasks.map(({ namespace, id }) => taskKey(namespace, id)),
        )
        return
      case 'goodbye':
        void this.#farewell(message.value.reason)
        return
      case undefined:
        return // of a newer protocol
    }
  }

  async #welcome(hello: Hello): Promise<void> {
    if (this.plugin) throw invalidArgument('a second Hello on one stream')
    const { configFor, log, heartbeatMs, turns } = this.#settings
    const facts = factsOf(hello, this.#stream.getPeer())
    clearInterval(this.#watchdog) // it hears nothing before Welcome and need not send heartbeats: we are silent, not it
    const plugin = await turns.run(`${facts.kind}/${facts.id}`, () => this.#admit(facts))
    this.#watch(heartbeatMs, `no sign of life for ${(missedHeartbeats * heartbeatMs) / 1000} s`)
    log.info({ ...names(plugin), version: facts.version, endpoint: facts.endpoint }, 'a plugin registers')
    this.#say({
      $case: 'welcome',
      value: {
        lease: `${facts.kind}.${facts.id}.${plugin.epoch}`,
        config: configFor(facts.kind, facts.id),
        epoch: plugin.epoch,
        protocol,
        heartbeatInterval: { seconds: BigInt(Math.floor(heartbeatMs / 1000)), nanos: (heartbeatMs % 1000) * 1_000_000 },
      },
    })
  }

  /**
   * A plugin of capability `exclusive` owns its store alone: the older one must have left before the newer one opens.
   * Calls wait meanwhile. A registration from the same endpoint is the same plugin after a break.
   */
  async #admit(facts: PluginFacts): Promise<LivePlugin> {
    const rivals = [...this.#others].filter(
      other => other !== this && other.plugin?.kind === facts.kind && other.plugin.id === facts.id,
    )
    await Promise.all(
      rivals.map(async rival => {
        if (rival.plugin?.facts.endpoint === facts.endpoint) {
          rival.#cut('it registered again')
          await rival.#over
        } else if (facts.capabilities.includes('exclusive')) {
          await rival.drain(`replaced by version ${facts.version}`)
        }
      }),
    )
    if (this.#stream.cancelled) throw new StatusError(Code.CANCELLED, 'the plugin left before its Welcome')
    const { epoch } = await this.#settings.ledger.registered(facts)
    this.plugin = this.#settings.directory.add(facts, epoch)
    return this.plugin
  }

  async #ready(plugin: LivePlugin, exports: Record<string, string>): Promise<void> {
    if (!(await plugin.connect(connectTimeoutMs)))
      throw unavailable(`it said Ready, but nobody answers on ${plugin.facts.endpoint}`)
    if (plugin.state !== 'opening') return // it was lost or asked to leave meanwhile
    await this.#tell('ready', this.#settings.ledger.ready(this.#ref(), exports))
    const replaced = this.#settings.directory.ready(plugin, exports)
    this.#settings.log.info(names(plugin), 'a plugin serves')
    if (!replaced) return
    const session = [...this.#others].find(other => other.plugin === replaced)
    void session?.drain(replaced.reason)
  }

  /** It wants to leave: no new calls; when those under way are over, the end of the stream tells it so. */
  async #farewell(reason: string): Promise<void> {
    const { plugin } = this
    if (!plugin || this.#goodbye !== undefined) return
    this.#goodbye = reason
    this.#settings.directory.retire(plugin, reason)
    await plugin.idle(this.#settings.drainMs)
    this.#stream.end()
  }

  async #ended(reason: string): Promise<void> {
    const { plugin } = this
    if (!plugin) return
    const { directory, ledger, log } = this.#settings
    if (this.#goodbye !== undefined) {
      directory.end(plugin, 'left', this.#goodbye)
      log.info({ ...names(plugin), reason: this.#goodbye }, 'a plugin left')
      await this.#tell('left', ledger.left(this.#ref(), this.#goodbye))
      return
    }
    const why = this.#reason ?? reason
    directory.end(plugin, 'lost', why)
    if (this.#stopping) return
    log.warn({ ...names(plugin), reason: why }, 'a plugin is lost: its calls wait until it is back')
    await this.#tell('lost', ledger.lost(this.#ref(), why))
  }

  /** Ticks are counted, not time: when our own process was stalled, the plugin must not pay for it. */
  #watch(everyMs: number, reason: string): void {
    clearInterval(this.#watchdog)
    this.#missed = 0
    this.#watchdog = setInterval(() => {
      this.#missed++
      if (this.#missed > missedHeartbeats) this.#cut(reason)
    }, everyMs)
  }

  /** Ends the stream from our side. */
  #cut(reason: string): void {
    this.#reason ??= reason
    this.#fail(new StatusError(Code.ABORTED, `the supervisor gave up this registration: ${reason}`))
  }

  #fail(error: unknown): void {
    if (this.#stream.cancelled || this.#stream.writableEnded) return
    this.#stream.emit('error', toStatusError(error)) // grpc-js sends its code and details, then ends the call
  }

  #say(message: Said): void {
    if (!this.#stream.cancelled && !this.#stream.writableEnded) this.#stream.write({ message })
  }

  #registered(): LivePlugin {
    if (!this.plugin) throw invalidArgument('a plugin has to say Hello first')
    return this.plugin
  }

  #ref(): PluginRef {
    const { kind, id, epoch } = this.#registered()
    return { kind, id, epoch }
  }

  /** The directory is right without the journal: a full disk must not keep plugins from serving. */
  async #tell(fact: string, promise: Promise<void>): Promise<void> {
    try {
      await promise
    } catch (error) {
      const reason = toStatusError(error).details
      this.#settings.log.error(
        { ...(this.plugin && names(this.plugin)), fact, reason },
        'a fact about a plugin was not journaled',
      )
    }
  }

  #authorise(metadata: Metadata): void {
    const { token } = this.#settings
    if (token === undefined) return
    const given = Buffer.from(metadata.get('authorization')[0]?.toString() ?? '')
    const wanted = Buffer.from(`Bearer ${token}`)
    if (given.length !== wanted.length || !timingSafeEqual(given, wanted))
      throw new StatusError(Code.UNAUTHENTICATED, 'this registry asks for a token: send "authorization: Bearer …"')
  }
}

const kinds: readonly PluginKind[] = ['snapshotter', 'content', 'differ', 'runtime', 'network']
const protocol = 1

function factsOf(hello: Hello, peer: string): PluginFacts {
  const kind = kinds.find(known => known === hello.kind)
  if (!kind) throw invalidArgument(`plugin kind "${hello.kind}" is none of ${kinds.join(', ')}`)
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(hello.id))
    throw invalidArgument(`plugin id "${hello.id}" is not made of up to 63 letters, digits, ".", "_" and "-"`)
  if (!hello.endpoint.startsWith('unix:///')) throw invalidArgument(`endpoint "${hello.endpoint}" is not unix:///path`)
  if (hello.protocolMin > protocol || hello.protocolMax < protocol)
    throw new StatusError(
      Code.FAILED_PRECONDITION,
      `the plugin speaks registry protocol ${hello.protocolMin} to ${hello.protocolMax}, this supervisor ${protocol}`,
    )
  const { id, version, endpoint, capabilities } = hello
  return { kind, id, version, endpoint, capabilities, peer }
}

function names(plugin: LivePlugin) {
  return { kind: plugin.kind, plugin: plugin.id, epoch: plugin.epoch.toString() }
}
