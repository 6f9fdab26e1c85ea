// The events of a supervisor as they stand in JetStream.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { connect, DeliverPolicy, type JsMsg } from 'nats'

export interface FollowOptions {
  /** State directory of a supervisor with embedded NATS: `nats.json` in it says where and with which password. */
  state: string
  /** From the oldest event in the stream; else from now on. */
  fromStart: boolean
  signal: AbortSignal
  stream?: string
}

export interface SeenEvent {
  /** The journal's sequence. */
  sequence: string
  /** RFC 3339 with nanoseconds. */
  time: string
  namespace: string
  /** "/tasks/start" */
  topic: string
  /** The payload: JSON. */
  data: string
}

/** Ends when the signal aborts. */
export async function* followEvents(options: FollowOptions): AsyncGenerator<SeenEvent> {
  const { signal, fromStart } = options
  const { url, user, password } = await readAccess(options.state)
  const connection = await connect({ servers: url, user, pass: password })
  const close = () => void connection.close()
  signal.addEventListener('abort', close, { once: true })
  try {
    const consumer = await connection.jetstream().consumers.get(options.stream ?? 'PURSER', {
      // From the start is the default; said aloud, the client asks for it in a way that the server refuses.
      ...(!fromStart && { deliver_policy: DeliverPolicy.New }),
    })
    for await (const message of await consumer.consume()) yield seen(message)
  } finally {
    signal.removeEventListener('abort', close)
    await connection.close()
  }
}

async function readAccess(state: string): Promise<{ url: string; user: string; password: string }> {
  const path = join(state, 'nats.json')
  try {
    return JSON.parse(await readFile(path, 'utf8'))
  } catch (error) {
    throw new Error(`${path} cannot be read: is purserd running there, with nats = "embedded"? (--state DIR)`, {
      cause: error,
    })
  }
}

function seen(message: JsMsg): SeenEvent {
  const header = (name: string) => message.headers?.get(name) ?? ''
  const parts = message.subject.split('.')
  return {
    sequence: header('purser-sequence'),
    time: header('ce-time'),
    namespace: parts[2] ?? '',
    topic: `/${parts.slice(3, -1).join('/')}`,
    data: message.string(),
  }
}
