// gRPC calls as a test writes them: one method of proto/gen, one request, one promise or stream.
import {
  Client,
  type ClientDuplexStream,
  type ClientReadableStream,
  credentials,
  Metadata,
  type ServiceError,
} from '@grpc/grpc-js'

interface Method<Request, Response> {
  path: string
  requestSerialize(value: Request): Buffer
  responseDeserialize(value: Buffer): Response
}
export interface UnaryMethod<Request, Response> extends Method<Request, Response> {
  requestStream: false
  responseStream: false
}
export interface ServerStreamMethod<Request, Response> extends Method<Request, Response> {
  requestStream: false
  responseStream: true
}
export interface DuplexMethod<Request, Response> extends Method<Request, Response> {
  requestStream: true
  responseStream: true
}

export interface CallSettings {
  /** Default: "default". '' sends none. */
  namespace?: string
  /** Further metadata. */
  metadata?: Record<string, string>
  timeoutMs?: number
}

/** A connection to one server. Failures reject with grpc-js' ServiceError: test its `code` and `details`. */
export class Rpc {
  readonly #client: Client

  constructor(socket: string) {
    this.#client = new Client(`unix://${socket}`, credentials.createInsecure(), {
      'grpc.max_receive_message_length': 64 * 1024 * 1024,
      // A restarted server is met at once, not after grpc's back-off.
      'grpc.initial_reconnect_backoff_ms': 50,
      'grpc.max_reconnect_backoff_ms': 200,
    })
  }

  call<Request, Response>(
    method: UnaryMethod<Request, Response>,
    request: Request,
    settings: CallSettings = {},
  ): Promise<Response> {
    return new Promise((resolve, reject) => {
      const reply = (error: ServiceError | null, response?: Response) =>
        error === null && response !== undefined ? resolve(response) : reject(error)
      const { path, requestSerialize, responseDeserialize } = method
      this.#client.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, ...options(settings), reply)
    })
  }

  stream<Request, Response>(
    method: ServerStreamMethod<Request, Response>,
    request: Request,
    settings: CallSettings = {},
  ): ClientReadableStream<Response> {
    const { path, requestSerialize, responseDeserialize } = method
    return this.#client.makeServerStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      request,
      ...options(settings),
    )
  }

  /** All messages of a stream. */
  async collect<Request, Response>(
    method: ServerStreamMethod<Request, Response>,
    request: Request,
    settings: CallSettings = {},
  ): Promise<Response[]> {
    const messages: Response[] = []
    for await (const message of this.stream(method, request, settings)) messages.push(message)
    return messages
  }

  duplex<Request, Response>(
    method: DuplexMethod<Request, Response>,
    settings: CallSettings = {},
  ): ClientDuplexStream<Request, Response> {
    const { path, requestSerialize, responseDeserialize } = method
    return this.#client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize, ...options(settings))
  }

  /** Resolves when it is connected: right after a server's start it may still be waiting to try again. */
  connected(timeoutMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#client.waitForReady(Date.now() + timeoutMs, error => (error ? reject(error) : resolve()))
    })
  }

  close(): void {
    this.#client.close()
  }
}

function options({ namespace = 'default', metadata = {}, timeoutMs = 20_000 }: CallSettings) {
  const sent = new Metadata()
  if (namespace !== '') sent.set('containerd-namespace', namespace)
  for (const [key, value] of Object.entries(metadata)) sent.set(key, value)
  return [sent, { deadline: Date.now() + timeoutMs }] as const
}
