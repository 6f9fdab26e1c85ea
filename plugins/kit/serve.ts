// Turns plain async functions into grpc-js handlers: arguments in, promise or async iterable out, errors mapped once.
import type {
  handleServerStreamingCall,
  handleUnaryCall,
  Metadata,
  MethodDefinition,
  ServerUnaryCall,
  sendUnaryData,
} from '@grpc/grpc-js'
import { Code, StatusError, toStatusError } from './errors.js'
import { callsUnderWay } from './underWay.js'

/** What a handler may know about the call beside its request. */
export interface CallContext {
  /** Metadata `containerd-namespace`; '' when the caller named none. */
  readonly namespace: string
  readonly metadata: Metadata
  /** As the listener announced it: `pid=1,uid=0` on sockets that identify their peers, else `unknown`. */
  readonly peer: string
  /** Aborts when the caller cancels, leaves, or its deadline passes. A stream that waits must heed it. */
  readonly signal: AbortSignal
}

/** Throwing (a StatusError for what the caller should see) answers the error; see toStatusError for the rest. */
export type UnaryHandler<Request, Response> = (request: Request, context: CallContext) => Promise<Response> | Response
export type ServerStreamHandler<Request, Response> = (request: Request, context: CallContext) => AsyncIterable<Response>
export type BidiHandler<Request, Response> = (
  requests: AsyncIterable<Request>,
  context: CallContext,
) => AsyncIterable<Response>

/** What of grpc-js's call object is used when there is one response: what a handler can be called with. */
export type UnaryCall<Request> = Incoming & { readonly request: Request }
export type Unary<Request, Response> = (call: UnaryCall<Request>, callback: sendUnaryData<Response>) => void
/** What of it is used when both sides stream. */
export type BidiCall<Request, Response> = Incoming &
  Outgoing<Response> & { iterator(options: { destroyOnReturn: boolean }): AsyncIterable<Request> }
export type Bidi<Request, Response> = (call: BidiCall<Request, Response>) => void

/** A generated service, as `unary` makes its handlers: they ask no more of a call than what they use. */
export type Served<Server> = {
  [Method in keyof Server]: Server[Method] extends handleUnaryCall<infer Request, infer Response>
    ? Unary<Request, Response>
    : Server[Method]
}

/**
 * One request, one response. The types come from where it is put:
 * `const snapshots: SnapshotsServer = { stat: unary(async ({ key }, { namespace }) => …), … }`.
 */
export function unary<Request, Response>(handler: UnaryHandler<Request, Response>): Unary<Request, Response> {
  return (call, callback) => {
    const over = callsUnderWay.begin(call)
    answer(handler, call.request, new Context(call))
      .then(
        response => callback(null, response),
        error => callback(toStatusError(error)),
      )
      .finally(over)
  }
}

/** What ends a stream whose caller stopped reading. */
export interface Patience {
  /** So long not one message that waits may have gone out; at most twice that. */
  ms: number
  /** What the caller is told, should it read again: behind all that was written. */
  over(): StatusError
}

/** One request, a stream of responses; the iterable is read no faster than the caller reads. */
export function serverStream<Request, Response>(
  handler: ServerStreamHandler<Request, Response>,
  patience?: Patience,
): handleServerStreamingCall<Request, Response> {
  return call => {
    void pump(call, () => handler(call.request, new Context(call)), patience)
  }
}

/** Streams both ways. The call ends with the responses; requests that were not read by then are dropped. */
export function bidi<Request, Response>(handler: BidiHandler<Request, Response>): Bidi<Request, Response> {
  return call => {
    void pump(call, () => handler(call.iterator({ destroyOnReturn: false }), new Context(call)))
  }
}

/** The same method with its messages left as bytes: to pass on what need not be understood, on either side. */
export function raw(
  method: Pick<MethodDefinition<never, unknown>, 'path' | 'requestStream' | 'responseStream'>,
): MethodDefinition<Buffer, Buffer> {
  return {
    path: method.path,
    requestStream: method.requestStream,
    responseStream: method.responseStream,
    requestSerialize: asIs,
    requestDeserialize: asIs,
    responseSerialize: asIs,
    responseDeserialize: asIs,
  }
}

const asIs = (bytes: Buffer) => bytes

/** Messages of containerd's content service reach 1 MiB and more; the default of 4 MiB is too small for extensions. */
export const messageLimits = {
  'grpc.max_receive_message_length': 16 << 20,
  'grpc.max_send_message_length': 16 << 20,
} as const

/** Async, so that a handler that throws before its first await is answered like any other. */
async function answer<Request, Response>(
  handler: UnaryHandler<Request, Response>,
  request: Request,
  context: CallContext,
): Promise<Response> {
  return handler(request, context)
}

/** What the streams of both directions have in common: the writing half. */
interface Outgoing<Response> {
  readonly cancelled: boolean
  write(response: Response, wentOut?: () => void): boolean
  end(): unknown
  emit(event: 'error', error: StatusError): boolean
  once(event: WakeUp, listener: () => void): unknown
  off(event: WakeUp, listener: () => void): unknown
}

type WakeUp = 'drain' | 'cancelled' | 'close'

/** As many messages, however large, are held for a caller that may stop reading. grpc-js would hold 16. */
const aheadMax = 4

async function pump<Response>(
  call: Outgoing<Response>,
  open: () => AsyncIterable<Response>,
  patience?: Patience,
): Promise<void> {
  const over = callsUnderWay.begin(call)
  let written = 0
  let out = 0
  let advance = () => {}
  const wentOut = () => {
    out++
    advance()
  }
  try {
    for await (const response of open()) {
      if (call.cancelled) return
      written++
      const hasRoom = call.write(response, patience && wentOut)
      if (hasRoom && !(patience && written - out > aheadMax)) continue
      await writable(
        call,
        patience,
        () => out,
        go => {
          advance = go
        },
      )
    }
    call.end()
  } catch (error) {
    call.emit('error', toStatusError(error)) // grpc-js sends its code and details, then ends the call
  } finally {
    over()
  }
}

/** Resolves when the caller has read enough, or will never read again; rejects when patience is over. */
function writable(
  call: Pick<Outgoing<never>, 'cancelled' | 'once' | 'off'>,
  patience: Patience | undefined,
  out: () => number,
  onAdvance: (go: () => void) => void,
): Promise<void> {
  if (call.cancelled) return Promise.resolve()
  return new Promise((resolve, reject) => {
    let before = out()
    const look = () => {
      if (out() === before) return done(() => reject(patience?.over()))
      before = out()
    }
    const timer = patience && setInterval(look, patience.ms)
    const done = (settle: () => void) => {
      clearInterval(timer)
      for (const event of wakeUps) call.off(event, go)
      settle()
    }
    const go = () => done(resolve)
    for (const event of wakeUps) call.once(event, go)
    onAdvance(go)
  })
}

const wakeUps: readonly WakeUp[] = ['drain', 'cancelled', 'close']

type Incoming = Pick<ServerUnaryCall<unknown, unknown>, 'metadata' | 'cancelled' | 'getPeer'> & {
  once(event: 'cancelled', listener: () => void): unknown
}

/** Costs nothing until asked: most handlers need neither the namespace nor the signal. */
class Context implements CallContext {
  readonly #call: Incoming
  #aborter: AbortController | undefined

  constructor(call: Incoming) {
    this.#call = call
  }

  get metadata(): Metadata {
    return this.#call.metadata
  }

  get namespace(): string {
    return this.#call.metadata.get('containerd-namespace')[0]?.toString() ?? ''
  }

  get peer(): string {
    return this.#call.getPeer()
  }

  get signal(): AbortSignal {
    if (this.#aborter) return this.#aborter.signal
    const aborter = new AbortController()
    const abort = () => aborter.abort(new StatusError(Code.CANCELLED, 'the caller cancelled the call'))
    if (this.#call.cancelled) abort()
    else this.#call.once('cancelled', abort)
    this.#aborter = aborter
    return aborter.signal
  }
}
