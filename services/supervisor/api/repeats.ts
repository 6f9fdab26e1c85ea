// A request that bears an id is carried out once: a repeat waits for the first and is answered as that was, also by a
// supervisor that was started meanwhile. Requests without an id pass by.
//
//   RequestTaken      durable together with the first fact that the request leads to
//   RequestAnswered   the answer: durable before the caller hears it
//
// Between the two lies what a crash can cut: what became of it is then read from the journal (outcomes.ts). So is what
// ended in a failure that another try may not meet (forgettable): such an answer is never remembered.
import { createHash } from 'node:crypto'
import type {
  handleUnaryCall,
  MethodDefinition,
  ServerUnaryCall,
  ServiceDefinition,
  UntypedHandleCall,
  UntypedServiceImplementation,
} from '@grpc/grpc-js'
import type { Logger } from 'pino'
import { aborted, Code, StatusError, toStatusError, unavailable } from '../../../plugins/kit/errors.js'
import { isRefusal } from '../domain/decision.js'
import { answered, type Request, type RequestRecord, recall, reused, taken } from '../domain/request/decide.js'
import { requestStream } from '../domain/streams.js'
import { checkIdentifier } from '../domain/validate.js'
import type { Journal } from '../journal/journal.js'
import { type Runner, refusalStatus } from '../runner.js'
import { decodeEvent } from '../state/codec.js'
import type { Store, Told } from '../state/store.js'
import { causeOf } from './call.js'
import { type Outcome, outcomeOf, type Verdict } from './outcomes.js'
import { markOnce, requestIdOf } from './request.js'

export interface RepeatsDeps {
  runner: Runner
  store: Store
  journal: Journal
  log: Logger
}

type Answer = { response: Buffer } | { failure: StatusError }

/** Nobody could say yet, or nothing was begun: what is asked again may well succeed. */
const forgettable: ReadonlySet<Code> = new Set([
  Code.CANCELLED,
  Code.INVALID_ARGUMENT,
  Code.DEADLINE_EXCEEDED,
  Code.RESOURCE_EXHAUSTED,
  Code.ABORTED,
  Code.UNIMPLEMENTED,
  Code.UNAVAILABLE,
])
/** Recovery takes 20 s for a task that does not answer. */
const verdictPatienceMs = 60_000

export class Repeats {
  /** By stream; a repeat shares the answer of the first. */
  private readonly underWay = new Map<string, { request: Request; answer: Promise<Answer> }>()

  constructor(private readonly deps: RepeatsDeps) {}

  /** The implementation, with each method that changes something guarded. */
  guard(definition: ServiceDefinition, implementation: UntypedServiceImplementation): UntypedServiceImplementation {
    const guarded: UntypedServiceImplementation = { ...implementation }
    const byPath = new Map(Object.entries(definition).map(([name, { path }]) => [path, implementation[name]]))
    for (const [name, method] of Object.entries(definition)) {
      const outcome = outcomeOf(method.path)
      const handler = implementation[name]
      if (!outcome || !handler || !isUnary(handler)) continue
      const reader = outcome.by === 'reading' ? byPath.get(outcome.path) : undefined
      const readerMethod =
        outcome.by === 'reading' ? Object.values(definition).find(m => m.path === outcome.path) : undefined
      const read = reader && readerMethod && isUnary(reader) ? { handler: reader, method: readerMethod } : undefined
      guarded[name] = this.guarded({ method, handler, outcome, read })
    }
    return guarded
  }

  private guarded(guard: Guarded): handleUnaryCall<unknown, unknown> {
    const { method, handler } = guard
    return (call, callback) => {
      if (call.metadata.get('purser-request-id').length === 0) return handler(call, callback)
      this.once(guard, call).then(
        answer => {
          if ('failure' in answer) callback(answer.failure)
          else callback(null, method.responseDeserialize(answer.response))
        },
        error => callback(toStatusError(error)),
      )
    }
  }

  private async once(guard: Guarded, call: UnaryCall): Promise<Answer> {
    const { method } = guard
    const id = requestIdOf(call.metadata)
    const namespace = call.metadata.get('containerd-namespace')[0]?.toString() ?? ''
    // The handler says what is wrong with it.
    if (id === undefined || (namespace !== '' && checkIdentifier(namespace))) return run(guard, call)
    const message = method.requestSerialize(call.request)
    const name = method.path.split('.').at(-1) ?? method.path
    const fingerprint = createHash('sha256').update(`${method.path}\n`).update(message).digest('hex')
    const request: Request = { namespace, id, method: name, fingerprint }

    const stream = requestStream(namespace, id)
    const first = this.underWay.get(stream)
    if (first && first.request.fingerprint !== fingerprint) throw refusalStatus(reused(request, first.request.method))
    if (first) return first.answer
    const answer = this.answer(guard, call, request, message)
    this.underWay.set(stream, { request, answer })
    try {
      return await answer
    } finally {
      this.underWay.delete(stream)
    }
  }

  private async answer(guard: Guarded, call: UnaryCall, request: Request, message: Buffer): Promise<Answer> {
    const { namespace, id } = request
    const found = recall(this.deps.store.world.requests.get(namespace, id), request)
    if (isRefusal(found)) throw refusalStatus(found)
    if (found.is === 'answered') {
      const { code, message, sequence } = found.answer
      if (code !== Code.OK) return { failure: new StatusError(code, message) }
      return { response: await this.remembered(request, sequence) }
    }
    if (found.is === 'open') {
      const verdict = await this.settle(guard, call, request, found.record, message)
      if (verdict === 'unknown') throw notKnown(request)
      if (verdict !== 'undone') return this.remember(call, request, verdict)
    }
    markOnce(call.metadata, { fact: taken(request), taken: false })
    return this.remember(call, request, await run(guard, call))
  }

  /** An answer that cannot be written down is given all the same: a repeat will find it in the facts. */
  private async remember(call: UnaryCall, request: Request, answer: Answer): Promise<Answer> {
    const failure = 'failure' in answer ? answer.failure : undefined
    if (failure && forgettable.has(failure.code)) return answer
    const fact = answered(request, {
      code: failure?.code ?? Code.OK,
      message: failure?.details ?? '',
      response: 'response' in answer ? answer.response : undefined,
    })
    const { once: _, ...cause } = causeOf({ metadata: call.metadata, peer: call.getPeer() }, request.method)
    try {
      await this.deps.runner.run(cause, fact.stream, () => ({ facts: [fact] }))
    } catch (error) {
      this.deps.log.warn({ err: error, request: request.id }, 'an answer could not be remembered')
    }
    return answer
  }

  private async remembered(request: Request, sequence: string): Promise<Buffer> {
    try {
      return Buffer.from(await this.deps.journal.attachment(BigInt(sequence), 0))
    } catch (error) {
      if (!(error instanceof RangeError)) throw error
      throw aborted(
        `${request.method} with the request id ${JSON.stringify(request.id)} was carried out, but the journal no longer keeps its answer: read what it made`,
      )
    }
  }

  private async settle(
    { outcome, read }: Guarded,
    call: UnaryCall,
    request: Request,
    record: RequestRecord,
    message: Buffer,
  ): Promise<Verdict> {
    switch (outcome.by) {
      case 'repetition':
        return 'undone'
      case 'itself':
        return { response: outcome.response }
      case 'reading': {
        if (!read) return 'unknown'
        const answer = await run(read, asking(call, read.method.requestDeserialize(outcome.ask(message))))
        if (!('failure' in answer)) return answer
        if (answer.failure.code === Code.NOT_FOUND) return 'unknown' // removed since
        throw answer.failure
      }
      case 'facts':
        return this.verdict(outcome, request, record, message)
    }
  }

  /** Listens before it reads, so that no fact falls between. */
  private async verdict(
    outcome: Extract<Outcome, { by: 'facts' }>,
    { namespace, id }: Request,
    { sequence }: RequestRecord,
    message: Buffer,
  ): Promise<Verdict> {
    const { store, journal } = this.deps
    const stream = outcome.stream(namespace, message)
    const { promise: later, stop } = firstOf(store, stream, told => outcome.verdict(told))
    try {
      for await (const record of journal.read(BigInt(sequence))) {
        if (record.stream !== stream && record.correlation !== id) continue
        const verdict = outcome.verdict({ record, event: decodeEvent(record) })
        if (verdict) return verdict
      }
      return outcome.wait ? await later : 'unknown'
    } catch (error) {
      if (error instanceof RangeError) return 'unknown' // the journal no longer keeps what came of it
      throw error
    } finally {
      stop()
    }
  }
}

interface Guarded {
  method: MethodDefinition<unknown, unknown>
  handler: handleUnaryCall<unknown, unknown>
  outcome: Outcome
  /** For `reading`. */
  read: Called | undefined
}

type Called = Pick<Guarded, 'method' | 'handler'>
type UnaryCall = ServerUnaryCall<unknown, unknown>

const isUnary = (handler: UntypedHandleCall): handler is handleUnaryCall<unknown, unknown> => handler.length === 2

function run({ method, handler }: Called, call: UnaryCall): Promise<Answer> {
  return new Promise(resolve => {
    handler(call, (error, value) => {
      if (error) resolve({ failure: toStatusError(error) })
      else resolve({ response: method.responseSerialize(value) })
    })
  })
}

/** The same caller with another question. */
function asking(call: UnaryCall, request: unknown): UnaryCall {
  return Object.create(call, { request: { value: request } })
}

function firstOf(store: Store, stream: string, verdict: (told: Told) => Verdict | undefined) {
  let stop = (): void => {}
  const promise = new Promise<Verdict>((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(unavailable('the supervisor is still finding out what became of this request; ask again with the same id'))
    }, verdictPatienceMs)
    const forget = store.subscribeStream(stream, told => {
      const found = verdict(told)
      if (found) resolve(found)
    })
    stop = () => {
      clearTimeout(timer)
      forget()
    }
  })
  promise.catch(() => {}) // whoever waits sees it
  return { promise, stop }
}

function notKnown({ id, method, namespace }: Request): StatusError {
  return aborted(
    `the supervisor ended while it worked on ${method} with the request id ${JSON.stringify(id)}, and nothing tells whether it took effect: see what there is now in namespace ${JSON.stringify(namespace)} (or the events with that id), then ask again with a new id`,
  )
}
