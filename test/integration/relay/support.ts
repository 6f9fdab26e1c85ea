// What the relay's tests need: a journal in memory, and nats-servers of their own that can be killed and started again.
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, connect as dial } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { type ConnectionOptions, connect, type NatsConnection, nanos } from 'nats'
import pino, { type Logger } from 'pino'
import type { Entry, Journal, JournalRecord, Sequence } from '../../../services/supervisor/journal/journal.js'
import { remoteBroker } from '../../../services/supervisor/relay/broker.js'
import { type Relay, type RelayOptions, startRelay } from '../../../services/supervisor/relay/relay.js'
import type { Publication } from '../../../services/supervisor/state/publication.js'
import { type Scope, until } from '../../harness/wait.js'

export const quiet: Logger = pino({ level: process.env.RELAY_LOG ?? 'silent' })

/** A journal whose every append is durable at once. */
export class TinyJournal implements Pick<Journal, 'id' | 'last' | 'first' | 'read' | 'onDurable'> {
  readonly records: JournalRecord[] = []
  #first: Sequence = 1n
  constructor(readonly id: string = randomUUID()) {}

  readonly #listeners = new Set<(records: readonly JournalRecord[]) => void>()

  add(count: number, entry: Partial<Entry> & { correlation?: string } = {}): void {
    const added: JournalRecord[] = []
    for (let index = 0; index < count; index++) added.push(record(this.last() + BigInt(index + 1), entry))
    this.records.push(...added)
    for (const listener of this.#listeners) listener(added)
  }

  /** Retention: the records before `sequence` can no longer be read. */
  dropBefore(sequence: Sequence): void {
    this.#first = sequence
  }

  first = (): Sequence => this.#first
  last = (): Sequence => BigInt(this.records.length)

  async *read(from: Sequence): AsyncGenerator<JournalRecord> {
    for (let index = Number(from) - 1; index < this.records.length; index++) {
      const found = this.records[index]
      if (found) yield found
    }
  }

  onDurable(listener: (records: readonly JournalRecord[]) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }
}

export function record(sequence: Sequence, entry: Partial<Entry> & { correlation?: string } = {}): JournalRecord {
  return {
    sequence,
    timeUnixNano: 1_780_000_000_123_456_789n + sequence,
    node: 'n1',
    namespace: 'default',
    stream: `task/default/c${sequence}`,
    type: 'TaskStarted',
    schema: 1,
    payload: Buffer.from(JSON.stringify({ pid: Number(sequence) })),
    attachments: [],
    ends: false,
    causation: 'command',
    correlation: 'request',
    actor: { uid: 0, gid: 0, pid: 1, name: '' },
    ...entry,
  }
}

export function publication(of: JournalRecord): Publication {
  return {
    topic: '/tasks/start',
    id: of.stream.split('/')[2] ?? '',
    contentType: 'application/json',
    data: of.payload,
    type: 'io.purser.tasks.start',
  }
}

/** A program as one file that Node runs: for what has to be killed. `source` imports by absolute paths. */
export async function program(scope: Scope, source: string): Promise<string> {
  const outfile = join(await directory(scope), 'program.mjs')
  const banner = { js: "import { createRequire as make } from 'node:module'; const require = make(import.meta.url);" }
  const stdin = { contents: source, resolveDir: process.cwd(), loader: 'ts' as const }
  await build({ stdin, outfile, bundle: true, platform: 'node', format: 'esm', banner, logLevel: 'error' })
  return outfile
}

/** The absolute path of a module, quoted, as `program` needs it. `path` is relative to this folder. */
export const modulePath = (path: string): string => JSON.stringify(fileURLToPath(new URL(path, import.meta.url)))

export async function directory(scope: Scope): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'purser-relay-'))
  scope.teardown(() => rm(path, { recursive: true, force: true }))
  return path
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}

/** A nats-server with JetStream on a fixed port and store, so that it can die and come back. */
export class Nats {
  #child: ChildProcess | undefined
  constructor(
    readonly port: number,
    readonly store: string,
    readonly args: string[],
  ) {}

  get url(): string {
    return `nats://127.0.0.1:${this.port}`
  }

  async start(): Promise<void> {
    const args = ['-js', '-sd', this.store, '-a', '127.0.0.1', '-p', String(this.port), ...this.args]
    this.#child = spawn('nats-server', args, { stdio: 'ignore' })
    await until('nats-server to listen', () => canConnect(this.port))
  }

  signal(name: NodeJS.Signals): void {
    this.#child?.kill(name)
  }

  async kill(): Promise<void> {
    const child = this.#child
    this.#child = undefined
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const exit = once(child, 'exit')
    child.kill('SIGKILL')
    await exit
  }
}

export async function nats(scope: Scope, ...args: string[]): Promise<Nats> {
  const server = new Nats(await freePort(), await directory(scope), args)
  scope.teardown(() => server.kill())
  await server.start()
  return server
}

export async function client(scope: Scope, options: ConnectionOptions): Promise<NatsConnection> {
  const connection = await connect({ reconnect: false, ...options })
  scope.teardown(() => connection.close())
  return connection
}

export interface Stored {
  position: number
  subject: string
  id: string
  sequence: number
  header(name: string): string
  text: string
}

/** Everything in the stream, in its order. */
export async function stored(connection: NatsConnection, stream = 'PURSER'): Promise<Stored[]> {
  const manager = await connection.jetstreamManager()
  const { state } = await manager.streams.info(stream)
  const messages: Stored[] = []
  for (let from = state.first_seq; from <= state.last_seq; from += 200)
    messages.push(...(await Promise.all(range(from, Math.min(from + 199, state.last_seq)).map(read))))
  return messages

  async function read(position: number): Promise<Stored> {
    const message = await manager.streams.getMessage(stream, { seq: position })
    return {
      position,
      subject: message.subject,
      id: message.header.get('Nats-Msg-Id'),
      sequence: Number(message.header.get('purser-sequence')),
      header: name => message.header.get(name),
      text: Buffer.from(message.data).toString(),
    }
  }
}

/** What a relay of a test is not given, it has from here. */
export interface RelaySettings extends Partial<Omit<RelayOptions, 'journal'>> {
  url?: string
}

export async function relayTo(
  scope: Scope,
  journal: TinyJournal,
  { url = '', ...settings }: RelaySettings,
): Promise<Relay> {
  const memoryPath = join(await directory(scope), 'relay.json')
  const broker = settings.broker ?? remoteBroker({ url })
  const relay = startRelay({ journal, publication, node: 'n1', broker, log: quiet, memoryPath, ...settings })
  scope.teardown(() => relay.stop())
  return relay
}

export const caughtUp = (relay: Relay, journal: TinyJournal) =>
  until(
    'the relay to catch up',
    () => relay.status().state === 'publishing' && relay.status().cursor === journal.last(),
    {
      timeoutMs: 60_000,
    },
  )

export const sequences = (messages: Stored[]) => messages.map(message => message.sequence)

/** A stream that forgets message ids almost at once, so that nothing but the relay's own care prevents repeats. */
export async function forgetfulStream(scope: Scope, { url }: Nats, extra: Record<string, number | string> = {}) {
  const connection = await client(scope, { servers: url })
  const manager = await connection.jetstreamManager()
  await manager.streams.add({ name: 'PURSER', subjects: ['purser.>'], duplicate_window: nanos(100), ...extra })
  return { connection, manager }
}

export const range = (first: number, last: number): number[] =>
  Array.from({ length: last - first + 1 }, (_, index) => first + index)

function canConnect(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = dial(port, '127.0.0.1')
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })
}
