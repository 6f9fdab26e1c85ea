// Streams that clients have opened beside their calls, found by name: what a transfer sends and receives there.
import { alreadyExists, Code, notFound, StatusError, unavailable } from '../../../plugins/kit/errors.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'

/** More than any client has transfers under way. */
const perNamespaceMax = 1024

export class Streams {
  readonly #open = new Map<string, Map<string, Stream>>()

  /** Throws ALREADY_EXISTS while the name is in use, as containerd does. */
  open(namespace: string, id: string, incoming: AsyncIterator<Any>, signal: AbortSignal): Stream {
    const here = this.#open.get(namespace) ?? new Map<string, Stream>()
    if (here.has(id)) throw alreadyExists(`stream ${JSON.stringify(id)}`)
    if (here.size >= perNamespaceMax)
      throw new StatusError(Code.RESOURCE_EXHAUSTED, `namespace "${namespace}" has ${perNamespaceMax} open streams`)
    this.#open.set(namespace, here)
    const stream = new Stream(incoming, signal, () => {
      here.delete(id)
      if (here.size === 0) this.#open.delete(namespace)
    })
    here.set(id, stream)
    return stream
  }

  get(namespace: string, id: string): Stream {
    const stream = this.#open.get(namespace)?.get(id)
    if (!stream) throw notFound(`stream ${JSON.stringify(id)}`)
    return stream
  }
}

/** One of them. Nothing is held for who does not read: `send` waits until the client has taken what came before. */
export class Stream {
  readonly #incoming: AsyncIterator<Any>
  readonly #over = new AbortController()
  readonly #forget: () => void
  #waiting: { message: Any; taken(): void }[] = []
  #wake = (): void => {}
  #closing = false

  constructor(incoming: AsyncIterator<Any>, signal: AbortSignal, forget: () => void) {
    this.#incoming = incoming
    this.#forget = forget
    if (signal.aborted) this.end()
    else signal.addEventListener('abort', () => this.end(), { once: true, signal: this.#over.signal })
  }

  /** Aborts when the stream has ended, from whichever side. */
  get over(): AbortSignal {
    return this.#over.signal
  }

  /** Resolves when the message is on its way. Rejects with UNAVAILABLE when the stream has ended. */
  send(message: Any): Promise<void> {
    if (this.#closing || this.over.aborted) return Promise.reject(ended())
    return new Promise((resolve, reject) => {
      const gone = () => reject(ended())
      this.over.addEventListener('abort', gone, { once: true })
      const taken = () => {
        this.over.removeEventListener('abort', gone)
        resolve()
      }
      this.#waiting.push({ message, taken })
      this.#wake()
    })
  }

  /**
   * The client's next message; undefined when it has said its last, or when it has gone: HTTP/2 may tell the one before
   * the other, so that who reads has to know by itself what is whole. Rejects once the stream has ended.
   */
  async receive(): Promise<Any | undefined> {
    if (this.over.aborted) throw ended()
    let gone = (): void => {}
    const broken = new Promise<never>((_, reject) => {
      gone = () => reject(ended())
    })
    this.over.addEventListener('abort', gone, { once: true })
    try {
      const next = await Promise.race([this.#incoming.next(), broken])
      return next.done ? undefined : next.value
    } finally {
      this.over.removeEventListener('abort', gone)
    }
  }

  /** The client hears what was sent, then the end. */
  close(): void {
    this.#closing = true
    this.#wake()
  }

  /** For who carries the messages to the client. */
  async *outgoing(): AsyncGenerator<Any> {
    while (!this.over.aborted) {
      const next = this.#waiting.shift()
      if (next) {
        next.taken()
        yield next.message
      } else if (this.#closing) return
      else
        await new Promise<void>(resolve => {
          this.#wake = resolve
        })
    }
  }

  /** Nobody sends or receives any more. */
  end(): void {
    if (this.over.aborted) return
    this.#forget()
    this.#over.abort()
    this.#waiting = []
    this.#wake()
  }
}

const ended = () => unavailable('the stream has ended')
