// What the bundle has in place of the NATS client: the part of it that the relay uses, on the simulated broker.

import type { Broker, PubAck, Stored, StreamInfo } from '../broker.js'
import { Party } from '../time.js'
import { outside } from './current.js'

export const AckPolicy = { None: 'none' }
export const DeliverPolicy = { StartSequence: 'by_start_sequence' }
export const DiscardPolicy = { Old: 'old' }
export const RetentionPolicy = { Limits: 'limits' }
export const StorageType = { File: 'file' }
export const nanos = (milliseconds: number): number => milliseconds * 1_000_000
export const credsAuthenticator = (): undefined => undefined
export const nkeyAuthenticator = (): undefined => undefined

let inboxes = 0
export const createInbox = (prefix = '_INBOX'): string => `${prefix}.${++inboxes}`

class Headers {
  readonly values = new Map<string, string>()
  code = 0

  append(name: string, value: string): void {
    this.values.set(name, value)
  }

  get(name: string): string {
    return this.values.get(name) ?? ''
  }
}

export const headers = (): Headers => new Headers()

function failure(code: string, err_code?: number): Error {
  return Object.assign(new Error(`${code}: simulated`), { code, ...(err_code && { api_error: { err_code } }) })
}

interface Answer {
  subject: string
  headers: Headers | undefined
  json(): PubAck
}

type Listener = (error: Error | null, answer: Answer) => void

export async function connect(): Promise<Connection> {
  const { broker } = outside
  if (!broker) throw failure('CONNECTION_REFUSED')
  const supervisor = broker.time.party
  await broker.time.pass(broker.delay(500), 'nats connect')
  if (!broker.up) throw failure('CONNECTION_REFUSED')
  return new Connection(broker, supervisor)
}

class Connection {
  readonly info = { max_payload: 1 << 20 }
  /** What is on its way between both; ends with the connection. */
  private readonly wire = new Party('connection')
  private readonly listeners = new Map<string, Listener>()
  private readonly ended: Promise<void>
  private end = () => {}
  private open = true
  /** A connection keeps the order of what it carries. */
  private busyUntil = 0
  private answersUntil = 0

  constructor(
    private readonly broker: Broker,
    private readonly supervisor: Party,
  ) {
    this.ended = new Promise(resolve => {
      this.end = resolve
    })
    broker.joined(this)
  }

  getServer = (): string => 'simulated'
  isClosed = (): boolean => !this.open
  closed = (): Promise<void> => this.ended

  cut(): void {
    if (!this.open) return
    this.open = false
    this.wire.alive = false
    this.broker.left(this)
    this.broker.time.after(50, this.supervisor, 'nats cut', () => this.end())
  }

  async close(): Promise<void> {
    if (!this.open) return
    this.open = false
    this.broker.left(this)
    this.broker.time.after(10, this.supervisor, 'nats closed', () => this.end())
  }

  /** Nothing is told beside the protocol. */
  status(): AsyncIterable<never> {
    const ended = this.ended
    return { [Symbol.asyncIterator]: () => ({ next: () => ended.then(() => ({ done: true, value: undefined })) }) }
  }

  subscribe(subject: string, { callback }: { callback: Listener }): { unsubscribe(): void } {
    const prefix = subject.slice(0, -1)
    this.listeners.set(prefix, callback)
    return { unsubscribe: () => void this.listeners.delete(prefix) }
  }

  publish(subject: string, _data: Uint8Array, { reply, headers: given }: { reply: string; headers: Headers }): void {
    const { broker, wire } = this
    const { time, chance } = broker
    if (!this.open) throw failure('CONNECTION_CLOSED')
    this.busyUntil = Math.max(this.busyUntil + 1, time.now + broker.delay(100))
    // A message that is lost on the way breaks nothing but what follows it.
    if (!broker.calm && chance.happens(0.0005)) return
    time.after(this.busyUntil - time.now, wire, 'nats published', () => {
      if (!broker.up) return
      const answer = broker.publish(subject, given.values)
      if (!broker.calm && chance.happens(0.0005)) return
      this.answersUntil = Math.max(this.answersUntil + 1, time.now + broker.delay(100))
      time.after(this.answersUntil - time.now, this.supervisor, 'nats acknowledged', () => {
        if (!this.open) return
        for (const [prefix, listener] of this.listeners)
          if (reply.startsWith(prefix)) listener(null, { subject: reply, headers: undefined, json: () => answer })
      })
    })
  }

  async jetstreamManager() {
    return {
      streams: {
        info: (name: string) => this.ask(() => found(this.broker.info(name), 10059)),
        add: ({ name, subjects }: { name: string; subjects: string[] }) =>
          this.ask(() => this.broker.add(name, subjects)),
        list: async function* (): AsyncGenerator<StreamInfo> {},
        getMessage: (_stream: string, query: { seq?: number; last_by_subj?: string }) =>
          this.ask(() => {
            const { stored } = this.broker
            const message = query.seq === undefined ? stored.at(-1) : stored.find(({ seq }) => seq === query.seq)
            return toMessage(found(message, 10037))
          }),
      },
      consumers: {
        add: (_stream: string, { opt_start_seq }: { opt_start_seq: number }) =>
          this.ask(() => ({
            name: `from ${opt_start_seq}`,
            num_pending: this.broker.stored.filter(({ seq }) => seq >= opt_start_seq).length,
          })),
      },
    }
  }

  jetstream() {
    return {
      consumers: {
        get: async (_stream: string, name: string) => new Consumer(this, Number(name.slice(5))),
      },
    }
  }

  /** A question and its answer. */
  async ask<T>(work: () => T): Promise<T> {
    const { broker, supervisor } = this
    await new Promise<void>(resolve => broker.time.after(broker.delay(200), supervisor, 'nats asked', resolve))
    if (!this.open || !broker.up) throw failure('CONNECTION_CLOSED')
    return work()
  }

  messagesFrom(seq: number, max: number): Promise<{ messages: Stored[]; left: number }> {
    return this.ask(() => {
      const all = this.broker.stored.filter(stored => stored.seq >= seq)
      return { messages: all.slice(0, max), left: Math.max(0, all.length - max) }
    })
  }
}

class Consumer {
  constructor(
    private readonly connection: Connection,
    private next: number,
  ) {}

  async fetch({ max_messages }: { max_messages: number }) {
    const { messages, left } = await this.connection.messagesFrom(this.next, max_messages)
    this.next = (messages.at(-1)?.seq ?? this.next - 1) + 1
    return messages.map((stored, index) => {
      const { seq, header } = toMessage(stored)
      return { seq, headers: header, info: { pending: left + messages.length - 1 - index } }
    })
  }

  delete = async (): Promise<boolean> => true
}

function toMessage({ seq, headers: values }: Stored): { seq: number; header: Headers } {
  const header = new Headers()
  for (const [name, value] of values) header.append(name, value)
  return { seq, header }
}

function found<T>(value: T | undefined, err_code: number): T {
  if (value === undefined) throw failure('404', err_code)
  return value
}
