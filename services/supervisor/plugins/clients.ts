// Calls to plugins: promises and async iterables with a deadline each, errors as StatusError, calls counted.

import {
  type ClientDuplexStream,
  type CallOptions as GrpcCallOptions,
  Metadata,
  type MethodDefinition,
  type ServiceDefinition,
} from '@grpc/grpc-js'
import type { CallOptions, Calls } from '../../../plugins/kit/calls.js'
import { Code, StatusError, toStatusError } from '../../../plugins/kit/errors.js'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import type { PluginKind } from '../../../plugins/kit/plugin.js'
import type { FindOptions, PluginDirectory } from './directory.js'
import type { LivePlugin } from './live.js'

/** Finds the plugin anew for each call, so that a replacement between two calls goes unnoticed. */
export type PluginSource = () => Promise<LivePlugin>

/** The part of a generated service definition that a caller needs. */
interface Method<Request, Response> {
  path: string
  requestSerialize(request: Request): Buffer
  responseDeserialize(bytes: Buffer): Response
}
type UnaryMethod<Request, Response> = Method<Request, Response> & { requestStream: false; responseStream: false }
type ServerStreamMethod<Request, Response> = Method<Request, Response> & { requestStream: false; responseStream: true }

/** `await call(plugin, SnapshotsService.prepare, { … }, { namespace })` */
export function call<Request, Response>(
  plugin: LivePlugin,
  method: UnaryMethod<Request, Response>,
  request: Request,
  options: CallOptions = {},
): Promise<Response> {
  return new Promise((resolve, reject) => {
    const end = plugin.begin(method.path)
    const underWay = plugin.client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      metadataOf(options),
      grpcOptions(options),
      (error, response) => {
        forget()
        failpoint('plugin.answered', method.path)
        if (response !== undefined && !error) {
          end(Code.OK)
          resolve(response)
          return
        }
        const failure = explain(plugin, method.path, error, options)
        end(failure.code)
        reject(failure)
      },
    )
    const forget = cancelledBy(options.signal, underWay)
  })
}

/** Ends the call when the loop over it ends. */
export async function* stream<Request, Response>(
  plugin: LivePlugin,
  method: ServerStreamMethod<Request, Response>,
  request: Request,
  options: CallOptions = {},
): AsyncGenerator<Response, void, undefined> {
  const end = plugin.begin(method.path)
  const underWay = plugin.client.makeServerStreamRequest(
    method.path,
    method.requestSerialize,
    method.responseDeserialize,
    request,
    metadataOf(options),
    grpcOptions(options),
  )
  underWay.on('error', () => {}) // the iteration tells it
  const forget = cancelledBy(options.signal, underWay)
  let code: Code = Code.OK
  try {
    yield* underWay
  } catch (error) {
    const failure = explain(plugin, method.path, error, options)
    code = failure.code
    throw failure
  } finally {
    forget()
    underWay.cancel()
    end(code)
  }
}

/** A stream both ways, with grpc-js's own interface: whoever opens it reads, writes, and cancels it in the end. */
export function duplex<Request, Response>(
  plugin: LivePlugin,
  method: Method<Request, Response>,
  options: CallOptions = {},
): ClientDuplexStream<Request, Response> {
  const end = plugin.begin(method.path)
  const underWay = plugin.client.makeBidiStreamRequest(
    method.path,
    method.requestSerialize,
    method.responseDeserialize,
    metadataOf(options),
    grpcOptions(options),
  )
  const forget = cancelledBy(options.signal, underWay)
  underWay.once('status', ({ code }) => {
    forget()
    end(code)
  })
  return underWay
}

/** The answered function ends that. */
function cancelledBy(signal: AbortSignal | undefined, call: { cancel(): void }): () => void {
  const cancel = () => call.cancel()
  if (signal?.aborted) cancel()
  else signal?.addEventListener('abort', cancel, { once: true })
  return () => signal?.removeEventListener('abort', cancel)
}

export function pluginSource(
  directory: PluginDirectory,
  kind: PluginKind,
  id: string,
  options: FindOptions = {},
): PluginSource {
  return () => directory.find(kind, id, options)
}

/** `pluginClient(source, SnapshotsService).prepare({ … })` */
export function pluginClient<Service extends ServiceDefinition>(source: PluginSource, service: Service): Calls<Service>
export function pluginClient(source: PluginSource, service: ServiceDefinition): object {
  return Object.fromEntries(
    Object.entries(service).flatMap(([name, method]): [string, unknown][] => {
      if (isUnary(method)) return [[name, unaryOf(source, method)]]
      return isServerStream(method) ? [[name, streamOf(source, method)]] : []
    }),
  )
}

const isUnary = (method: MethodDefinition<unknown, unknown>): method is UnaryMethod<unknown, unknown> & typeof method =>
  !method.requestStream && !method.responseStream

const isServerStream = (
  method: MethodDefinition<unknown, unknown>,
): method is ServerStreamMethod<unknown, unknown> & typeof method => !method.requestStream && method.responseStream

function unaryOf<Request, Response>(source: PluginSource, method: UnaryMethod<Request, Response>) {
  return async (request: Request, options?: CallOptions): Promise<Response> =>
    call(await source(), method, request, options)
}

function streamOf<Request, Response>(source: PluginSource, method: ServerStreamMethod<Request, Response>) {
  return async function* (request: Request, options?: CallOptions): AsyncGenerator<Response, void, undefined> {
    yield* stream(await source(), method, request, options)
  }
}

const defaultDeadlineMs = 30_000

function grpcOptions({ deadlineMs = defaultDeadlineMs }: CallOptions): GrpcCallOptions {
  return { deadline: deadlineMs === Number.POSITIVE_INFINITY ? deadlineMs : Date.now() + deadlineMs }
}

function metadataOf({ namespace }: CallOptions): Metadata {
  const metadata = new Metadata()
  if (namespace) metadata.set('containerd-namespace', namespace)
  return metadata
}

/** A plugin's own refusals travel on in its words; what happened to the call itself is told with the plugin's name. */
function explain(plugin: LivePlugin, path: string, error: unknown, options: CallOptions): StatusError {
  const failure = toStatusError(error ?? 'the plugin sent no response')
  const method = path.slice(path.lastIndexOf('/') + 1)
  switch (failure.code) {
    case Code.DEADLINE_EXCEEDED: {
      const seconds = (options.deadlineMs ?? defaultDeadlineMs) / 1000
      return restate(failure, `${plugin.title} did not answer ${method} within ${seconds} s: deadline exceeded`)
    }
    case Code.UNAVAILABLE:
      return restate(failure, `${plugin.title} went away during ${method}: ${failure.details}: unavailable`)
    default:
      return failure
  }
}

function restate(failure: StatusError, message: string): StatusError {
  return new StatusError(failure.code, message, { cause: failure })
}
