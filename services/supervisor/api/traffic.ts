// The calls under way, so that this process can give way to a successor without failing one of them.
//
//   ordinary   end by themselves, and soon: the successor waits for them
//   lasting    wait for something to happen (Tasks/Wait): asked again of the successor, with nothing told to the caller
//   streams    without an end of their own (subscriptions): ended, with a status on which clients subscribe again
import { EventEmitter, once } from 'node:events'
import {
  type Client,
  type handleBidiStreamingCall,
  type handleServerStreamingCall,
  type handleUnaryCall,
  Metadata,
  type MethodDefinition,
  type ServerUnaryCall,
  type ServiceDefinition,
  type sendUnaryData,
  type UntypedHandleCall,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'
import { Code } from '../../../plugins/kit/errors.js'
import { EventsService } from '../../../proto/gen/containerd/services/events/v1/events.js'
import { TasksService } from '../../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { HealthService } from '../../../proto/gen/grpc/health/v1/health.js'
import { UpgradeService } from '../../../proto/gen/purser/upgrade/v1/upgrade.js'

type Method = MethodDefinition<unknown, unknown>
type UnaryCall = ServerUnaryCall<unknown, unknown>

const lasting: ReadonlySet<string> = new Set([TasksService.wait.path])
const endless: ReadonlySet<string> = new Set([
  EventsService.subscribe.path,
  HealthService.watch.path,
  UpgradeService.run.path,
])

/** What is said to a successor on behalf of a caller: grpc-js and HTTP/2 have the rest. */
const notPassedOn = /^(grpc-|te$|user-agent$|content-type$|accept-encoding$|:)/

export class Traffic {
  /** By path: ordinary calls under way. */
  private readonly ordinary = new Map<string, number>()
  private readonly waiting = new Set<Lasting>()
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
    for (const call of this.waiting) call.passTo(client)
    if (this.waiting.size === 0) return
    // Behind them on the same connection: once this is answered, they were heard.
    await new Promise<void>((resolve, reject) => {
      client.makeUnaryRequest('/grpc.health.v1.Health/Check', asIs, asIs, Buffer.alloc(0), error =>
        error ? reject(error) : resolve(),
      )
    })
  }

  /** Resolves when the last lasting call has ended. */
  async over(): Promise<void> {
    while (this.waiting.size > 0) await this.change()
  }

  private watched(method: Method, handler: UntypedHandleCall): UntypedHandleCall {
    const { path } = method
    if (endless.has(path)) return handler
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

function passedOn(metadata: Metadata): Metadata {
  const passed = new Metadata()
  for (const key of Object.keys(metadata.getMap())) {
    if (!notPassedOn.test(key)) for (const value of metadata.get(key)) passed.add(key, value)
  }
  return passed
}

const isUnary = (handler: UntypedHandleCall): handler is handleUnaryCall<unknown, unknown> => handler.length === 2
const isStream = (
  { responseStream }: Method,
  handler: UntypedHandleCall,
): handler is handleServerStreamingCall<unknown, unknown> & handleBidiStreamingCall<unknown, unknown> =>
  responseStream && handler.length === 1
const any = /./
const asIs = (bytes: Buffer) => bytes
