// A connection to a supervisor, for one question.
import { credentials, Metadata } from '@grpc/grpc-js'

export interface Target {
  address: string
  namespace: string
}

const deadlineMs = 10_000

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
  Client: new (address: string, channel: ReturnType<typeof credentials.createInsecure>) => Client,
  { address }: Target,
  use: (client: Client) => Promise<Result>,
): Promise<Result> {
  const client = new Client(`unix://${address}`, credentials.createInsecure())
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
      if (error) reject(new Error(`${address}: ${error.message}`, { cause: error }))
      else resolve(response)
    })
  })
}
