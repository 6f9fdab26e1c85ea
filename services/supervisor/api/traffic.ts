// The calls under way, so that this process can give way to a successor without failing one of them.
//
//   ordinary   end by themselves, and soon: the successor waits for them
//   lasting    wait for something to happen (Tasks/Wait): asked again of the successor, with nothing told to the caller
//   endless    containerd's events are gone on with, from the successor, behind the last that was told; others end, with
//              a status on which clients come back; one that looks around ends with its connection
import { EventEmitter, once } from 'node:events'
import {
  type Client,
  type ClientReadableStream,
  type handleBidiStreamingCall,
  type handleServerStreamingCall,
  type handleUnaryCall,
  Metadata,
  type MethodDefinition,
  type ServerUnaryCall,
  type ServiceDefinition,
  type ServiceError,
  type sendUnaryData,
  type UntypedHandleCall,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'
import { Code } from '../../../plugins/kit/errors.js'
import { EventsService } from '../../../proto/gen/containerd/services/events/v1/events.js'
import { TasksService } from '../../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { UpgradeService } from '../../../proto/gen/purser/upgrade/v1/upgrade.js'
import { keys } from '../feed/errors.js'

type Method = MethodDefinition<unknown, unknown>
type UnaryCall = ServerUnaryCall<unknown, unknown>
type StreamHandler = handleServerStreamingCall<unknown, unknown> & handleBidiStreamingCall<unknown, unknown>
type ServerStreamHandler = handleServerStreamingCall<unknown, unknown>
type StreamCall = Parameters<ServerStreamHandler>[0]

const lasting: ReadonlySet<string> = new Set([TasksService.wait.path])
const resumed: ReadonlySet<string> = new Set([EventsService.subscribe.path])
const endless = (path: string): boolean =>
  /\/(Subscribe|Watch\w*|ServerReflectionInfo|Stream)$/.test(path) || path === UpgradeService.run.path

/** For a successor that has just opened. */
const answerMs = 10_000
/** What is said to a successor on behalf of a caller: grpc-js and HTTP/2 have the rest. */
const notPassedOn = /^(grpc-|te$|user-agent$|content-type$|accept-encoding$|:)/

export class Traffic {
  /** By path: ordinary calls under way. */
  private readonly ordinary = new Map<string, number>()
  private readonly waiting = new Set<Lasting>()
  private readonly streams = new Set<Resumed>()
  private successor: Client | undefined
  /** The successor is there for good: its failures are the callers'. */
  passed = false
  private readonly changes = new EventEmitter()

  /** The implementation with each call counted. */
  watch(definition: ServiceDefinition, implementation: UntypedServiceImplementation): UntypedServiceImplementation {
    const watched: UntypedServiceImplementation = {}
    for (const [name, handler] of Object.entries(implementation)) {
      const method = definition[name]
      watched[name] = method ? this.watched(method, handler) : handler
    }
    return watched
  }

  /** "Content/Write", … */
  underWay(kind = any): string[] {
    return [...this.ordinary.keys()].map(path => path.split('.').at(-1) ?? path).filter(name => kind.test(name))
  }

  /** True when no ordinary call of a kind is under way any more; false when `withinMs` passed before. */
  async idle(withinMs: number, kind = any): Promise<boolean> {
    const deadline = performance.now() + withinMs
    while (this.underWay(kind).length > 0) {
      const left = deadline - performance.now()
      if (left <= 0) return false
      await this.change(left)
    }
    return true
  }

  /** Asks for everything that lasts again, of whoever serves now. Resolves when that has heard it. */
  async passTo(client: Client): Promise<void> {
    this.successor = client
    for (const call of this.waiting) call.passTo(client)
    for (const stream of this.streams) stream.passTo(client)
    if (this.waiting.size === 0) return
    // Behind them on the same connection: once this is answered, they were heard.
    await new Promise<void>((resolve, reject) => {
      const deadline = Date.now() + answerMs
      client.makeUnaryRequest('/grpc.health.v1.Health/Check', asIs, asIs, Buffer.alloc(0), { deadline }, error =>
        error ? reject(error) : resolve(),
      )
    })
  }

  /** Resolves when the last lasting call has ended. */
  async over(): Promise<void> {
    while (this.waiting.size + this.streams.size > 0) await this.change()
  }

  private watched(method: Method, handler: UntypedHandleCall): UntypedHandleCall {
    const { path } = method
    if (resumed.has(path) && isServerStream(method, handler)) return this.resumed(method, handler)
    if (endless(path)) return handler
    if (lasting.has(path) && isUnary(handler)) return this.lasting(method, handler)
    if (isUnary(handler)) {
      return (call: UnaryCall, callback: sendUnaryData<unknown>) => {
        const end = this.begin(path)
        handler(call, (...answer) => {
          end()
          callback(...answer)
        })
      }
    }
    if (!isStream(method, handler)) return handler
    return (call: Parameters<typeof handler>[0]) => {
      const end = this.begin(path)
      call.once('error', end)
      call.once('cancelled', end)
      call.once('finish', end)
      handler(call)
    }
  }

  private begin(path: string): () => void {
    this.ordinary.set(path, (this.ordinary.get(path) ?? 0) + 1)
    let over = false
    return () => {
      if (over) return
      over = true
      const left = (this.ordinary.get(path) ?? 1) - 1
      if (left > 0) this.ordinary.set(path, left)
      else this.ordinary.delete(path)
      this.changes.emit('change')
    }
  }

  private lasting(method: Method, handler: handleUnaryCall<unknown, unknown>): handleUnaryCall<unknown, unknown> {
    return (call, callback) => {
      const waiting = new Lasting(this, method, call, (...answer) => {
        this.waiting.delete(waiting)
        this.changes.emit('change')
        callback(...answer)
      })
      this.waiting.add(waiting)
      handler(call, waiting.answer)
    }
  }

  /** Its end here is no end for the caller once there is a successor: then the next one tells what comes after. */
  private resumed(method: Method, handler: ServerStreamHandler): ServerStreamHandler {
    return (call: StreamCall) => {
      const emit = call.emit.bind(call)
      Object.defineProperty(call, 'emit', {
        value: (name: string, ...values: unknown[]) => {
          const [error] = values
          const since = name === 'error' && this.successor ? sinceOf(error) : undefined
          if (since === undefined || !this.successor) return Reflect.apply(emit, call, [name, ...values])
          const stream = new Resumed(this, method, call, since, emit)
          this.streams.add(stream)
          call.once('finish', () => this.ended(stream))
          call.once('cancelled', () => this.ended(stream))
          stream.passTo(this.successor)
          return true
        },
      })
      handler(call)
    }
  }

  private ended(stream: Resumed): void {
    this.streams.delete(stream)
    stream.cancel()
    this.changes.emit('change')
  }

  private async change(withinMs?: number): Promise<void> {
    const patience = withinMs === undefined ? {} : { signal: AbortSignal.timeout(Math.ceil(withinMs)) }
    await once(this.changes, 'change', patience).catch(() => {})
  }
}

class Lasting {
  private answered = false
  private remote: { cancel(): void } | undefined

  constructor(
    private readonly traffic: Traffic,
    private readonly method: Method,
    private readonly call: UnaryCall,
    private readonly tell: sendUnaryData<unknown>,
  ) {
    call.once('cancelled', () => this.remote?.cancel())
  }

  /** The first answer counts, from here or from there. */
  readonly answer: sendUnaryData<unknown> = (...answer) => {
    if (this.answered) return
    this.answered = true
    this.tell(...answer)
  }

  /** May be called again when a successor has died before it was one: its failure is not the caller's. */
  passTo(client: Client): void {
    const { path, requestSerialize, responseDeserialize } = this.method
    const { metadata, request } = this.call
    const deadline = this.call.getDeadline()
    const remote = client.makeUnaryRequest(
      path,
      requestSerialize,
      responseDeserialize,
      request,
      passedOn(metadata),
      { deadline },
      (error, value) => {
        if (this.remote !== remote) return
        if (error?.code === Code.UNAVAILABLE && !this.traffic.passed) return
        this.answer(error, value)
      },
    )
    this.remote = remote
  }
}

/** A subscription that a successor goes on with. */
class Resumed {
  private remote: ClientReadableStream<unknown> | undefined

  constructor(
    private readonly traffic: Traffic,
    private readonly method: Method,
    private readonly call: StreamCall,
    /** The last sequence that the caller was told. */
    private since: string,
    private readonly emit: StreamCall['emit'],
  ) {}

  passTo(client: Client): void {
    const { path, requestSerialize, responseDeserialize } = this.method
    const { call } = this
    const metadata = passedOn(call.metadata)
    metadata.set(keys.since, this.since)
    const deadline = call.getDeadline()
    const remote = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, call.request, metadata, {
      deadline,
    })
    this.remote = remote
    remote.on('data', (message: unknown) => {
      this.since = sequenceOf(message) ?? this.since
      if (call.write(message)) return
      remote.pause() // no faster than the caller reads
      call.once('drain', () => remote.resume())
    })
    remote.on('error', (error: ServiceError) => {
      if (this.remote !== remote) return
      // The next successor goes on with it.
      if (error.code === Code.UNAVAILABLE && sinceOf(error) === undefined && !this.traffic.passed) return
      this.emit('error', error)
    })
    remote.on('end', () => {}) // always with a status other than OK
  }

  cancel(): void {
    this.remote?.cancel()
  }
}

/** The supervisor stops, and the failure says how far it came. */
function sinceOf(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error) || !('metadata' in error)) return undefined
  if (error.code !== Code.UNAVAILABLE || !(error.metadata instanceof Metadata)) return undefined
  return error.metadata.get(keys.sequence)[0]?.toString()
}

function sequenceOf(message: unknown): string | undefined {
  if (typeof message !== 'object' || message === null || !('sequence' in message)) return undefined
  return typeof message.sequence === 'bigint' && message.sequence > 0n ? String(message.sequence) : undefined
}

function passedOn(metadata: Metadata): Metadata {
  const passed = new Metadata()
  for (const key of Object.keys(metadata.getMap())) {
    if (!notPassedOn.test(key)) for (const value of metadata.get(key)) passed.add(key, value)
  }
  return passed
}

const isUnary = (handler: UntypedHandleCall): handler is handleUnaryCall<unknown, unknown> => handler.length === 2
const isServerStream = (method: Method, handler: UntypedHandleCall): handler is ServerStreamHandler =>
  !method.requestStream && isStream(method, handler)
const isStream = ({ responseStream }: Method, handler: UntypedHandleCall): handler is StreamHandler =>
  responseStream && handler.length === 1
const any = /./
const asIs = (bytes: Buffer) => bytes
