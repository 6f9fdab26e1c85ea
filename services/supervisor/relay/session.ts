// One connection to the broker, from login to its end: find the place, then publish in order.
import { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { TLSSocket } from 'node:tls'
import type { ConnectionOptions, JetStreamManager, NatsConnection } from 'nats'
import type { JournalRecord, Sequence } from '../journal/journal.js'
import type { Publication } from '../state/publication.js'
import { Refused } from './ack.js'
import type { Broker } from './broker.js'
import { SessionEnded } from './ended.js'
import { follow, RecordsDropped, type Source } from './follow.js'
import { message, type Origin, type Place } from './message.js'
import { Outbox } from './outbox.js'
import { type Memory, type Recovery, recover } from './recovery.js'
import { ensureStream, type Stream, type StreamSettings } from './stream.js'
import { subtree } from './subject.js'

/** The broker's default, should it not say. */
const payloadBytesMax = 1 << 20
const closeTimeoutMs = 2_000

export interface SessionOptions {
  journal: Source
  publication(record: JournalRecord): Publication
  origin: Origin
  broker: Broker
  stream: StreamSettings
  answerTimeoutMs: number
  /** Looks that often whether the stream is still there when nothing is under way. */
  idleCheckMs: number
  memory: Memory | undefined
  on: SessionEvents
}

export interface SessionEvents {
  connected(server: string): void
  recovered(stream: Stream, recovery: Recovery): void
  /** Events that the journal dropped before they could be published. */
  dropped(error: RecordsDropped): void
  /** An event went out without its data, which is larger than the broker takes. */
  omitted(sequence: Sequence, bytes: number): void
  settled(memory: Memory, duplicate: boolean): void
}

/** Publishes until something fails, which it throws, or until `signal` aborts. It leaves nothing open. */
export async function runSession(options: SessionOptions, signal: AbortSignal): Promise<void> {
  const endpoint = await options.broker.endpoint(signal)
  const connection = await dial(endpoint, options, signal)
  try {
    options.on.connected(connection.getServer())
    const publisher = await abortable(prepare(connection, endpoint.inboxPrefix, options, signal), signal)
    await publisher(signal)
  } finally {
    connection.close().catch(() => undefined)
    await deadline(connection.closed(), closeTimeoutMs)
  }
}

/**
 * What the kernel still holds for a broker that is cut off would be sent when the way is open again, minutes later:
 * behind the back of the next session, and perhaps after the stream has forgotten the messages' ids. The client keeps
 * its socket to itself, and TLS the one below it; where it is not found (another version), the stream's duplicate window
 * has to do.
 */
function reset(connection: NatsConnection): void {
  const socket = at(connection, 'protocol', 'transport', 'socket')
  const plain = socket instanceof TLSSocket ? at(socket, '_parent') : socket
  if (plain instanceof Socket && !plain.destroyed) plain.resetAndDestroy()
}

function at(thing: unknown, ...path: string[]): unknown {
  return path.reduce(
    (value, name) => (typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined),
    thing,
  )
}

async function dial(
  endpoint: ConnectionOptions,
  { origin, answerTimeoutMs }: SessionOptions,
  signal: AbortSignal,
): Promise<NatsConnection> {
  const { connect } = await import('./nats.js')
  // The client's own reconnecting stays off: what it had buffered for a lost connection it would send on the next one,
  // behind the back of the recovery that decides what is still to be sent.
  const connecting = connect({
    ...endpoint,
    name: `purser-${origin.node}`,
    reconnect: false,
    timeout: answerTimeoutMs,
    pingInterval: answerTimeoutMs,
    maxPingOut: 2,
    noAsyncTraces: true,
  })
  try {
    return await abortable(connecting, signal)
  } catch (error) {
    connecting.then(late => late.close()).catch(() => undefined)
    throw error
  }
}

type Publisher = (signal: AbortSignal) => Promise<void>

async function prepare(
  connection: NatsConnection,
  inboxPrefix: string | undefined,
  options: SessionOptions,
  signal: AbortSignal,
): Promise<Publisher> {
  const { origin, memory, on } = options
  const timeout = options.answerTimeoutMs
  const manager = await connection.jetstreamManager({ timeout })
  const client = connection.jetstream({ timeout })
  const stream = await ensureStream(manager, options.stream, subtree(origin.node))
  const recovery = await recover({ manager, client, stream, origin, memory, signal })
  on.recovered(stream, recovery)
  const { createInbox, headers } = await import('./nats.js')

  return async stop => {
    const end = new AbortController()
    const outbox = new Outbox({
      connection,
      newHeaders: headers,
      inbox: createInbox(inboxPrefix),
      stream: stream.name,
      recovery,
      ackTimeoutMs: timeout,
      onSettled: (place, duplicate) =>
        on.settled({ stream: stream.name, created: stream.created, ...place }, duplicate),
      onFailed: error =>
        end.abort(connection.isClosed() ? new SessionEnded('the connection to the broker was lost') : error),
    })
    const lost = () => end.abort(new SessionEnded('the connection to the broker was lost'))
    connection.closed().then(lost, lost)
    void watchRefusals(connection, error => end.abort(error))
    const idle = setInterval(() => {
      if (outbox.idle) checkStream(manager, stream, outbox.settled).catch((error: unknown) => end.abort(error))
    }, options.idleCheckMs)
    const either = AbortSignal.any([stop, end.signal])
    try {
      await pump(
        outbox,
        Math.min(connection.info?.max_payload ?? payloadBytesMax, stream.messageBytesMax),
        options,
        either,
      )
      // What is on its way may arrive; when something failed, or takes long, the next session finds out.
      await outbox.drained(AbortSignal.any([end.signal, AbortSignal.timeout(closeTimeoutMs)]))
      if (!stop.aborted) throw end.signal.reason
    } finally {
      clearInterval(idle)
      outbox.close()
      if (!outbox.idle) reset(connection)
    }
  }
}

/** Sends everything that the journal has and gets, until `signal` aborts. */
async function pump(outbox: Outbox, bytesMax: number, options: SessionOptions, signal: AbortSignal): Promise<void> {
  const { journal, origin, publication, on } = options
  let next = outbox.settled.sequence + 1n
  while (!signal.aborted) {
    try {
      for await (const records of follow(journal, next, signal)) {
        for (const record of records) {
          next = record.sequence + 1n
          if (outbox.skips(record.sequence)) continue
          // Waiting for nothing would cost a write to the socket for each message.
          if (!outbox.hasRoom) await outbox.room(signal)
          if (signal.aborted) return
          const event = publication(record)
          const outgoing = message(record, event, origin, outbox.settled, bytesMax)
          if (outgoing.data !== event.data) on.omitted(record.sequence, event.data.length)
          outbox.send(outgoing)
        }
      }
    } catch (error) {
      if (!(error instanceof RecordsDropped)) throw error
      await outbox.drained(signal)
      on.dropped(error)
      next = error.first
      outbox.jump(next - 1n)
    }
  }
}

/** A message that the login may not publish is not answered: the broker tells of it beside the protocol. */
async function watchRefusals(connection: NatsConnection, refused: (error: Refused) => void): Promise<void> {
  for await (const { type, data, permissionContext } of connection.status()) {
    if (type !== 'error' || permissionContext === undefined) continue
    const { operation, subject } = permissionContext
    refused(new Refused(`${operation} to ${subject} is not allowed`, String(data), { err_code: 0 }))
  }
}

/** An idle relay would not notice that its stream is gone. */
async function checkStream(manager: JetStreamManager, stream: Stream, settled: Place): Promise<void> {
  const { created, state } = await manager.streams.info(stream.name)
  if (created !== stream.created) throw new SessionEnded(`the stream ${stream.name} was made anew`)
  if (state.last_seq < settled.position) throw new SessionEnded(`the stream ${stream.name} lost its newest messages`)
}

/** Rejects when `signal` aborts, whatever the promise does later. */
async function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  let abort = () => {}
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(signal.reason)
    signal.addEventListener('abort', abort)
    if (signal.aborted) abort()
  })
  try {
    return await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

async function deadline(promise: Promise<unknown>, milliseconds: number): Promise<void> {
  const timer = new AbortController()
  try {
    await Promise.race([promise, sleep(milliseconds, undefined, { signal: timer.signal })])
  } finally {
    timer.abort()
  }
}
