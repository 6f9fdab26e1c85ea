// Purser's events as they arrive in JetStream, read as any listener of the embedded nats-server may.
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { connect, consumerOpts, type JsMsg, type NatsConnection } from 'nats'
import type { Host } from './host.js'
import { Arrivals, type Scope, until } from './wait.js'

export interface RelayedEvent {
  subject: string
  /** `<journal>/<sequence>` */
  id: string
  /** The journal's sequence. */
  sequence: bigint
  /** Its place in the stream. */
  position: number
  headers: Record<string, string>
  data: Record<string, unknown>
}

/**
 * What is in the stream, from a position on, and everything that comes; ends with the scope. A server that was about to
 * end, as that of a supervisor which was just killed, is followed by the next one.
 */
export async function listen(scope: Scope, host: Host, from = 1): Promise<Arrivals<RelayedEvent>> {
  const events = new Arrivals<RelayedEvent>()
  let connection: NatsConnection | undefined
  let isOver = false
  let next = from
  scope.teardown(async () => {
    isOver = true
    await connection?.close()
  })
  const open = (): Promise<AsyncIterable<JsMsg>> =>
    until('the stream PURSER', async () => {
      const opened = await tryConnect(host)
      connection = opened
      if (isOver) {
        await opened?.close()
        return nothing()
      }
      // An ordered push consumer: for a pull consumer, this client and Debian's nats-server 2.9 speak different dialects.
      const options = consumerOpts().orderedConsumer().startSequence(next)
      try {
        return await opened?.jetstream().subscribe('purser.>', options)
      } catch {
        await opened?.close()
        return undefined
      }
    })
  const follow = async (messages: AsyncIterable<JsMsg>): Promise<void> => {
    for await (const message of messages) {
      if (isOver) return
      next = message.seq + 1
      events.push(relayed(message))
    }
    if (!isOver) await follow(await open())
  }
  const subscription = await open()
  follow(subscription).catch(() => undefined) // whoever waits for an event tells that none came
  return events
}

async function* nothing(): AsyncGenerator<JsMsg> {}

/** Port and password may be those of a server that is no more, until the new one has written its own. */
async function tryConnect(host: Host): Promise<NatsConnection | undefined> {
  const { url, user, password } = await access(host)
  return connect({ servers: url, user, pass: password, reconnect: false }).catch(() => undefined)
}

interface Access {
  url: string
  user: string
  password: string
}

/** What the supervisor leaves for listeners, readable for its own user only. */
export async function access(host: Host): Promise<Access> {
  const path = join(host.state, 'nats.json')
  return until(path, () => {
    try {
      if ((statSync(path).mode & 0o777) !== 0o600) throw new Error(`${path} holds a password and others can read it`)
      return JSON.parse(readFileSync(path, 'utf8'))
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
      throw error
    }
  })
}

function relayed(message: JsMsg): RelayedEvent {
  const headers: Record<string, string> = {}
  for (const [name, values] of message.headers ?? []) headers[name] = values[0] ?? ''
  return {
    subject: message.subject,
    id: headers['Nats-Msg-Id'] ?? '',
    position: message.seq,
    sequence: BigInt(headers['purser-sequence'] ?? '0'),
    headers,
    data: JSON.parse(message.string()),
  }
}
