// One case on one host: the calls that it makes, in a namespace of its own, and what was observed of each.
import { randomBytes } from 'node:crypto'
import { status } from '@grpc/grpc-js'
import { WriteAction, type WriteContentRequest } from '../../../proto/gen/containerd/services/content/v1/content.js'
import { EventsService } from '../../../proto/gen/containerd/services/events/v1/events.js'
import type { Envelope } from '../../../proto/gen/containerd/types/event.js'
import { Any } from '../../../proto/gen/google/protobuf/any.js'
import { Upload } from '../../harness/content.js'
import type { Host } from '../../harness/host.js'
import { digestOf } from '../../harness/image.js'
import type { CallSettings, ServerStreamMethod, UnaryMethod } from '../../harness/rpc.js'
import { Arrivals } from '../../harness/wait.js'
import { clear, removeNamespace } from './clear.js'
import { decoded, gist, type Plain, plain } from './plain.js'
import type { Standing } from './standing.js'

export interface Case {
  name: string
  steps(at: Stage): Promise<unknown>
  /** Processes are started: few such cases run at a time. */
  heavy?: boolean
}

export interface Observation {
  what: string
  /** gRPC's name of it. */
  code: string
  /** The words of a failure that a client would look for. */
  text: string
  answer: Plain
}

type Requests<Request> = { requestDeserialize(bytes: Buffer): Request }
type Unary<Request, Response> = UnaryMethod<Request, Response> & Requests<Request>
type Streaming<Request, Response> = ServerStreamMethod<Request, Response> & Requests<Request>

/** A host, opened once for all cases, with a subscription to all that happens on it. */
export interface Scene {
  host: Host
  events: Arrivals<Envelope>
  /** A directory with busybox in it, which containers have as their root. */
  rootfs: string
  standing: Standing | undefined
}

export function scene(host: Host, rootfs: string): Scene {
  const events = new Arrivals<Envelope>()
  const stream = host.rpc.stream(EventsService.subscribe, { filters: [] }, { timeoutMs: 120_000 })
  stream.on('data', (envelope: Envelope) => events.push(envelope)).on('error', () => undefined)
  return { host, events, rootfs, standing: undefined }
}

export class Stage {
  readonly seen: Observation[] = []
  readonly namespace = `d${randomBytes(5).toString('hex')}`
  readonly #uploads: Upload[] = []
  /** Of events: by chance when clients raced. */
  order: 'told' | 'chance' = 'told'
  readonly #from: number
  readonly #secret: string[] = []

  constructor(
    readonly scene: Scene,
    readonly name: string,
  ) {
    this.#from = scene.events.items.length
  }

  get host(): Host {
    return this.scene.host
  }

  get standing(): Standing {
    if (!this.scene.standing) throw new Error('there are no standing tasks')
    return this.scene.standing
  }

  /** A call whose outcome is compared. Fields that are left out have their defaults. Undefined when it failed. */
  async call<Request, Response>(
    method: Unary<Request, Response>,
    request: Partial<Request>,
    settings?: CallSettings,
  ): Promise<Response | undefined> {
    return this.watch(titleOf(method), this.do(method, request, settings))
  }

  /** A step towards what is compared: it has to succeed. */
  async do<Request, Response>(
    method: Unary<Request, Response>,
    request: Partial<Request>,
    settings?: CallSettings,
  ): Promise<Response> {
    const whole = { ...method.requestDeserialize(Buffer.alloc(0)), ...request }
    return this.host.rpc.call(method, whole, { namespace: this.namespace, ...settings })
  }

  async collect<Request, Response>(
    method: Streaming<Request, Response>,
    request: Partial<Request>,
    settings?: CallSettings,
  ): Promise<Response[] | undefined> {
    const whole = { ...method.requestDeserialize(Buffer.alloc(0)), ...request }
    return this.watch(titleOf(method), this.host.rpc.collect(method, whole, { namespace: this.namespace, ...settings }))
  }

  /** What comes of calls that are made at once: how many ended how. Which one won is chance. */
  async race(what: string, calls: Promise<unknown>[]): Promise<void> {
    const outcomes = await Promise.all(calls.map(call => call.then(() => 'OK', codeOf)))
    const counts: Record<string, number> = {}
    for (const outcome of outcomes.sort()) counts[outcome] = (counts[outcome] ?? 0) + 1
    this.see(what, counts)
  }

  see(what: string, answer: unknown): void {
    this.seen.push({ what, code: 'OK', text: '', answer: this.#plain(answer) })
  }

  async ctr(...args: string[]): Promise<void> {
    const { code, stderr } = await this.host.ctr('--namespace', this.namespace, ...args)
    this.seen.push({
      what: `ctr ${args.slice(0, 2).join(' ')}`,
      code: String(code),
      text: gist(this.#unnamed(stderr)),
      answer: null,
    })
  }

  /** An upload of which every answer is compared. */
  upload(settings: CallSettings = {}) {
    const upload = new Upload(this.host, { namespace: this.namespace, ...settings })
    this.#uploads.push(upload)
    const send = (message: Partial<WriteContentRequest>) => upload.send(message)
    const say = (message: Partial<WriteContentRequest>) => this.watch('Content/Write', send(message))
    return { send, say, end: () => upload.end(), finish: () => upload.finish(), hangUp: () => upload.hangUp() }
  }

  /** A name that is another on each host. */
  unname(text: string): void {
    this.#secret.push(text)
  }

  /** Bytes that only this case knows: blobs are shared by all namespaces. */
  bytes(text = ''): Buffer {
    return Buffer.from(`${this.name} ${this.namespace.length} ${text}`)
  }

  /** A blob in this namespace that stays; answers its digest. */
  async blob(text = '', labels: Record<string, string> = {}): Promise<string> {
    const data = this.bytes(text)
    const expected = digestOf(data)
    const { send, end } = this.upload()
    await send({
      action: WriteAction.COMMIT,
      ref: `blob-${text}`,
      total: BigInt(data.length),
      expected,
      data,
      labels: { ...kept, ...labels },
    })
    end()
    return expected
  }

  async watch<T>(what: string, answer: Promise<T>): Promise<T | undefined> {
    try {
      const response = await answer
      this.seen.push({ what, code: 'OK', text: '', answer: this.#plain(response) })
      return response
    } catch (error) {
      this.seen.push({ what, code: codeOf(error), text: gist(this.#unnamed(textOf(error))), answer: null })
      return undefined
    }
  }

  /** Removes what the case has left, and observes that nothing is left then, and what was told of it all. */
  async end(): Promise<Observation[]> {
    for (const upload of this.#uploads) upload.hangUp()
    await this.watch('clearing', clear(this.host, this.namespace))
    await this.#told()
    await this.watch('removal of the namespace', removeNamespace(this.host, this.namespace))
    return this.seen
  }

  /** Of each thing by itself, since only the order of those is promised. */
  async #told(): Promise<void> {
    const mark = Any.fromPartial({ typeUrl: 'mark', value: Buffer.from(this.namespace) })
    await this.do(EventsService.publish, { topic: '/mark', event: mark })
    const isOurs = ({ namespace }: Envelope) => namespace === this.namespace
    await this.scene.events.first('the mark', envelope => isOurs(envelope) && envelope.topic === '/mark', {
      from: this.#from,
    })
    const ours = () => this.scene.events.items.slice(this.#from).filter(isOurs)
    const count = (topic: string) => ours().filter(envelope => envelope.topic === topic).length
    // Shims tell in their own time.
    const missing = () => count('/tasks/create') > count('/tasks/delete')
    if (missing()) await this.scene.events.first('the last deletion', () => !missing()).catch(() => undefined)
    if (this.order === 'chance') return
    const told = new Map<string, Plain[]>()
    for (const { topic, event } of ours()) {
      if (topic === '/mark') continue
      const { subject, value } = decoded(event)
      const about = `${topic.split('/')[1]} ${this.#unnamed(subject)}`
      told.set(about, [...(told.get(about) ?? []), { topic, event: this.#plain(value) }])
    }
    for (const [about, events] of [...told].sort(([a], [b]) => (a < b ? -1 : 1)))
      this.seen.push({ what: `events of ${about}`, code: 'OK', text: '', answer: events })
  }

  #plain(value: unknown): Plain {
    return plain(value, text => this.#unnamed(text))
  }

  /** Text without what differs from host to host. */
  #unnamed(text: string): string {
    const { root, state, directory } = this.host
    let result = text.replaceAll(this.namespace, '<ns>')
    for (const secret of this.#secret) result = result.replaceAll(secret, '<secret>')
    if (this.scene.standing) result = result.replaceAll(this.scene.standing.namespace, '<standing>')
    for (const place of [root, state, directory])
      result = result.replace(new RegExp(`${place}[^\\s:,"]*`, 'g'), '<path>')
    return result
  }
}

/** Keeps a blob, an image's content or a snapshot from garbage collection. */
export const kept = { 'containerd.io/gc.root': 'yes' }

const titleOf = ({ path }: { path: string }) => path.split('.').at(-1) ?? path

function codeOf(error: unknown): string {
  if (typeof error === 'object' && error !== null && 'code' in error && typeof error.code === 'number')
    return status[error.code] ?? String(error.code)
  throw error
}

const textOf = (error: unknown) =>
  error instanceof Error && 'details' in error && typeof error.details === 'string' ? error.details : String(error)
