// Purser's events as they arrive in JetStream, read as any listener of the embedded nats-server may.
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { connect, DeliverPolicy, type JsMsg } from 'nats'
import type { Host } from './host.js'
import { Arrivals, type Scope, until } from './wait.js'

export interface RelayedEvent {
  subject: string
  /** `<journal>/<sequence>` */
  id: string
  /** The journal's sequence. */
  sequence: bigint
  headers: Record<string, string>
  data: unknown
}

/** Everything that is in the stream and everything that comes; ends with the scope. */
export async function listen(scope: Scope, host: Host, fromStart = true): Promise<Arrivals<RelayedEvent>> {
  const { url, user, password } = await access(host)
  const connection = await connect({
    servers: url,
    user,
    pass: password,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 100,
  })
  scope.teardown(() => connection.close())
  const consumer = await until('the stream PURSER', () => {
    const start = { deliver_policy: fromStart ? DeliverPolicy.All : DeliverPolicy.New }
    return connection
      .jetstream()
      .consumers.get('PURSER', start)
      .catch(() => undefined)
  })
  const messages = await consumer.consume()
  const events = new Arrivals<RelayedEvent>()
  void (async () => {
    for await (const message of messages) events.push(relayed(message))
  })()
  return events
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
    sequence: BigInt(headers['purser-sequence'] ?? '0'),
    headers,
    data: JSON.parse(message.string()),
  }
}
