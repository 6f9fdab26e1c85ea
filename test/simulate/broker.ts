// A JetStream of one stream, as far as the relay uses it: deduplication by id, the expected last message, loss at will.
import { Chance } from './random.js'
import { Party, type Time } from './time.js'

export interface Stored {
  seq: number
  subject: string
  headers: ReadonlyMap<string, string>
  id: string
  /** When it came. */
  at: number
}

export interface StreamInfo {
  config: { name: string; subjects: string[]; max_msg_size: number; sealed: boolean; no_ack: boolean }
  created: string
  state: { first_seq: number; last_seq: number }
}

/** The broker's answer to a published message, as JetStream's JSON has it. */
export type PubAck =
  | { seq: number; duplicate: boolean }
  | { error: { code: number; err_code: number; description: string } }

/** So often it writes down what it has taken. */
export const syncMilliseconds = 200
const duplicateWindow = 120_000_000
const wrongLastMessage = 10071
const insufficientResources = 10023
const wrongLastId = 10070

export class Broker {
  readonly party = new Party('broker')
  up = true
  /** The newest event that was ever lost with the whole store: what of it the journal dropped is gone. */
  wiped = 0
  /** The newest event that it ever had. */
  taken = 0
  /** It has no room for messages. */
  full = false
  /** How many times as long as usual everything takes. */
  slowness = 1
  readonly chance: Chance
  private made = 0
  private stream: { info: StreamInfo; stored: Stored[]; ids: Map<string, { seq: number; at: number }> } | undefined
  private readonly connections = new Set<{ cut(): void }>()
  /** Nothing goes wrong any more. */
  calm = false

  constructor(
    readonly time: Time,
    seed: number,
  ) {
    this.chance = new Chance(seed, 'broker')
  }

  /** Microseconds that something takes. */
  delay(usual: number): number {
    return this.chance.delay(usual) * this.slowness
  }

  joined(connection: { cut(): void }): void {
    this.connections.add(connection)
  }

  left(connection: { cut(): void }): void {
    this.connections.delete(connection)
  }

  /** All connections break. */
  cut(): void {
    for (const connection of [...this.connections]) connection.cut()
    this.connections.clear()
  }

  /** It ends without warning, and may lose what it had not written down: it acknowledges before it does. */
  crash(): void {
    this.up = false
    this.cut()
    const { stream } = this
    if (!stream || !this.chance.happens(0.5)) return
    const synced = stream.stored.findLastIndex(({ at }) => at < this.time.now - syncMilliseconds * 1000) + 1
    for (const { id } of stream.stored.splice(Math.max(synced, stream.stored.length - this.chance.below(20))))
      stream.ids.delete(id)
    stream.info.state.last_seq = stream.stored.at(-1)?.seq ?? 0
  }

  start(): void {
    this.up = true
  }

  /** Somebody removes its store. */
  wipe(): void {
    this.wiped = Math.max(this.wiped, ...this.stored.map(({ id }) => Number(id.split('/')[1])))
    this.crash()
    this.stream = undefined
  }

  info(name: string): StreamInfo | undefined {
    return this.stream?.info.config.name === name ? this.stream.info : undefined
  }

  add(name: string, subjects: string[]): StreamInfo {
    const created = `stream ${++this.made}`
    const config = { name, subjects, max_msg_size: -1, sealed: false, no_ack: false }
    const info = { config, created, state: { first_seq: 1, last_seq: 0 } }
    this.stream = { info, stored: [], ids: new Map() }
    return info
  }

  get stored(): readonly Stored[] {
    return this.stream?.stored ?? []
  }

  publish(subject: string, headers: ReadonlyMap<string, string>): PubAck {
    const { stream, time } = this
    if (!stream) return { error: { code: 503, err_code: 10076, description: 'no stream' } }
    if (this.full)
      return { error: { code: 503, err_code: insufficientResources, description: 'insufficient resources' } }
    const id = headers.get('Nats-Msg-Id') ?? ''
    const known = stream.ids.get(id)
    if (known && time.now - known.at < duplicateWindow) return { seq: known.seq, duplicate: true }
    const expected = headers.get('Nats-Expected-Last-Msg-Id')
    if (expected !== undefined && expected !== (stream.stored.at(-1)?.id ?? ''))
      return { error: { code: 400, err_code: wrongLastId, description: 'wrong last msg ID' } }
    const expectedStream = headers.get('Nats-Expected-Stream')
    if (expectedStream !== undefined && expectedStream !== stream.info.config.name)
      return { error: { code: 400, err_code: wrongLastMessage, description: 'another stream' } }
    const seq = stream.info.state.last_seq + 1
    this.taken = Math.max(this.taken, Number(id.split('/')[1]))
    stream.stored.push({ seq, subject, headers, id, at: time.now })
    stream.ids.set(id, { seq, at: time.now })
    stream.info.state.last_seq = seq
    return { seq, duplicate: false }
  }
}
