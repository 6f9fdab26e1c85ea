// A connection to a supervisor, for one question.
import { type ClientReadableStream, credentials, Metadata, status } from '@grpc/grpc-js'
import { codeOf } from './outcome.js'

export interface Target {
  address: string
  namespace: string
}

const deadlineMs = 10_000

/** A supervisor that comes back is met at once, not after grpc's back-off. */
const channelOptions = {
  'grpc.max_receive_message_length': 16 << 20,
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 500,
}

interface Closable {
  close(): void
}

type Method<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: { deadline: number },
  callback: (error: Error | null, response: Response) => void,
) => unknown

/** Opens a client, runs `use` with it and closes it. */
export async function withClient<Client extends Closable, Result>(
  Client: new (address: string, channel: ReturnType<typeof credentials.createInsecure>, options: object) => Client,
  { address }: Target,
  use: (client: Client) => Promise<Result>,
): Promise<Result> {
  const client = new Client(`unix://${address}`, credentials.createInsecure(), channelOptions)
  try {
    return await use(client)
  } finally {
    client.close()
  }
}

/** One unary call in the target's namespace. */
export function ask<Request, Response>(
  { namespace, address }: Target,
  method: Method<Request, Response>,
  request: Request,
): Promise<Response> {
  const metadata = new Metadata()
  metadata.set('containerd-namespace', namespace)
  return new Promise((resolve, reject) => {
    method(request, metadata, { deadline: Date.now() + deadlineMs }, (error, response) => {
      if (error) reject(failure(address, error))
      else resolve(response)
    })
  })
}

type StreamMethod<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: { deadline: number },
) => ClientReadableStream<Response>

/**
 * The answers of a streaming call, until it ends or `signal` aborts, which is a quiet end. One that is to end by itself
 * has a time for that.
 */
export async function* listen<Request, Response>(
  { address }: Pick<Target, 'address'>,
  method: StreamMethod<Request, Response>,
  request: Request,
  { signal, withinMs = Number.POSITIVE_INFINITY }: { signal?: AbortSignal | undefined; withinMs?: number } = {},
): AsyncGenerator<Response> {
  const stream = method(request, new Metadata(), { deadline: Date.now() + withinMs })
  const cancel = () => stream.cancel()
  signal?.addEventListener('abort', cancel)
  try {
    if (!signal?.aborted) for await (const response of stream) yield response
  } catch (error) {
    if (!signal?.aborted) throw failure(address, error)
  } finally {
    signal?.removeEventListener('abort', cancel)
    stream.cancel()
  }
}

/** What a server says is a sentence already; that there is none needs one. */
function failure(address: string, error: unknown): Error {
  const details = error instanceof Error && 'details' in error ? String(error.details) : String(error)
  const nobody = codeOf(error) === status.UNAVAILABLE && /connect|No connection/.test(details)
  const advice = 'is purserd running there? (--address SOCKET or PURSER_ADDRESS)'
  return new Error(nobody ? `nobody answers at ${address}: ${advice}` : details, { cause: error })
}
