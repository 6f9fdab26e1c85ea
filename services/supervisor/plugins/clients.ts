// Calls to plugins: promises and async iterables with a deadline each, errors as StatusError, calls counted.

import { type ClientDuplexStream, type CallOptions as GrpcCallOptions, Metadata } from '@grpc/grpc-js'
import { Code, StatusError, toStatusError } from '../../../plugins/kit/errors.js'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import type { PluginKind } from '../../../plugins/kit/plugin.js'
import { raw } from '../../../plugins/kit/serve.js'
import { ContentService } from '../../../proto/gen/containerd/services/content/v1/content.js'
import { DiffService } from '../../../proto/gen/containerd/services/diff/v1/diff.js'
import { SnapshotsService } from '../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import { NetworkService } from '../../../proto/gen/purser/network/v1/network.js'
import { RuntimeService } from '../../../proto/gen/purser/runtime/v1/runtime.js'
import type { FindOptions, PluginDirectory } from './directory.js'
import type { LivePlugin } from './live.js'

export interface CallOptions {
  /** Travels as metadata `containerd-namespace`. */
  namespace?: string
  /** Further metadata. */
  metadata?: Readonly<Record<string, string>>
  /** 30 s unless told; Infinity for what may take as long as it likes, such as waiting for an exit. */
  deadlineMs?: number
  signal?: AbortSignal
}

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
        options.signal?.removeEventListener('abort', cancel)
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
    const cancel = () => underWay.cancel()
    if (options.signal?.aborted) cancel()
    else options.signal?.addEventListener('abort', cancel, { once: true })
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
  const cancel = () => underWay.cancel()
  if (options.signal?.aborted) cancel()
  else options.signal?.addEventListener('abort', cancel, { once: true })
  let code: Code = Code.OK
  try {
    yield* underWay
  } catch (error) {
    const failure = explain(plugin, method.path, error, options)
    code = failure.code
    throw failure
  } finally {
    options.signal?.removeEventListener('abort', cancel)
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
  const cancel = () => underWay.cancel()
  if (options.signal?.aborted) cancel()
  else options.signal?.addEventListener('abort', cancel, { once: true })
  underWay.once('status', ({ code }) => {
    options.signal?.removeEventListener('abort', cancel)
    end(code)
  })
  return underWay
}

/** A source for the clients below. */
export function pluginSource(
  directory: PluginDirectory,
  kind: PluginKind,
  id: string,
  options: FindOptions = {},
): PluginSource {
  return () => directory.find(kind, id, options)
}

export type SnapshotsClient = ReturnType<typeof snapshotsClient>
export function snapshotsClient(source: PluginSource) {
  const service = SnapshotsService
  return {
    prepare: unaryOf(source, service.prepare),
    view: unaryOf(source, service.view),
    mounts: unaryOf(source, service.mounts),
    commit: unaryOf(source, service.commit),
    remove: unaryOf(source, service.remove),
    stat: unaryOf(source, service.stat),
    update: unaryOf(source, service.update),
    list: streamOf(source, service.list),
    usage: unaryOf(source, service.usage),
    cleanup: unaryOf(source, service.cleanup),
  }
}

export type ContentClient = ReturnType<typeof contentClient>
export function contentClient(source: PluginSource) {
  const service = ContentService
  return {
    info: unaryOf(source, service.info),
    update: unaryOf(source, service.update),
    list: streamOf(source, service.list),
    delete: unaryOf(source, service.delete),
    read: streamOf(source, service.read),
    status: unaryOf(source, service.status),
    listStatuses: unaryOf(source, service.listStatuses),
    write: duplexOf(source, service.write),
    abort: unaryOf(source, service.abort),
    /** Messages as bytes, to be passed on as they are; of a read, write the one request and end. */
    rawRead: duplexOf(source, raw(service.read)),
    rawWrite: duplexOf(source, raw(service.write)),
  }
}

export type DiffClient = ReturnType<typeof diffClient>
export function diffClient(source: PluginSource) {
  return { apply: unaryOf(source, DiffService.apply), diff: unaryOf(source, DiffService.diff) }
}

export type RuntimeClient = ReturnType<typeof runtimeClient>
export function runtimeClient(source: PluginSource) {
  const service = RuntimeService
  return {
    create: unaryOf(source, service.create),
    start: unaryOf(source, service.start),
    exec: unaryOf(source, service.exec),
    delete: unaryOf(source, service.delete),
    destroy: unaryOf(source, service.destroy),
    kill: unaryOf(source, service.kill),
    pause: unaryOf(source, service.pause),
    resume: unaryOf(source, service.resume),
    resizePty: unaryOf(source, service.resizePty),
    closeIo: unaryOf(source, service.closeIo),
    update: unaryOf(source, service.update),
    checkpoint: unaryOf(source, service.checkpoint),
    pids: unaryOf(source, service.pids),
    stats: unaryOf(source, service.stats),
    state: unaryOf(source, service.state),
    list: streamOf(source, service.list),
  }
}

export type NetworkClient = ReturnType<typeof networkClient>
export function networkClient(source: PluginSource) {
  const service = NetworkService
  return {
    attach: unaryOf(source, service.attach),
    check: unaryOf(source, service.check),
    detach: unaryOf(source, service.detach),
    list: unaryOf(source, service.list),
    networks: unaryOf(source, service.networks),
  }
}

function unaryOf<Request, Response>(source: PluginSource, method: UnaryMethod<Request, Response>) {
  return async (request: Request, options?: CallOptions): Promise<Response> =>
    call(await source(), method, request, options)
}

function streamOf<Request, Response>(source: PluginSource, method: ServerStreamMethod<Request, Response>) {
  return async function* (request: Request, options?: CallOptions): AsyncGenerator<Response, void, undefined> {
    yield* stream(await source(), method, request, options)
  }
}

function duplexOf<Request, Response>(source: PluginSource, method: Method<Request, Response>) {
  return async (options?: CallOptions): Promise<ClientDuplexStream<Request, Response>> =>
    duplex(await source(), method, options)
}

const defaultDeadlineMs = 30_000

function grpcOptions({ deadlineMs = defaultDeadlineMs }: CallOptions): GrpcCallOptions {
  return { deadline: deadlineMs === Number.POSITIVE_INFINITY ? deadlineMs : Date.now() + deadlineMs }
}

function metadataOf({ namespace, metadata: more }: CallOptions): Metadata {
  const metadata = new Metadata()
  if (namespace) metadata.set('containerd-namespace', namespace)
  for (const name in more) metadata.set(name, more[name] ?? '')
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
