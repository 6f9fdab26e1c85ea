// One connection to a shim: many calls at once, each with a deadline, until either side closes it.
import { connect, type Socket } from 'node:net'
import type { Logger } from 'pino'
import { Code, StatusError } from '../../kit/errors.js'
import { encodeFrame, type Frame, FrameReader, FrameType, payloadMaxBytes } from './frame.js'
import { decodeResponse, encodeRequest } from './message.js'

export interface CallOptions {
  /** How long to wait for the answer; 0 for as long as the connection lives. The server is told, with some more. */
  deadlineMs: number
  signal?: AbortSignal
}

interface PendingCall {
  resolve(payload: Buffer): void
  reject(error: Error): void
}

/** The connection ended before the answer came: whether the call took effect is not known. */
export class ConnectionLost extends StatusError {
  constructor(method: string) {
    super(Code.UNAVAILABLE, `${method}: the shim closed its connection`)
    this.name = 'ConnectionLost'
  }
}

/** More than that at once on one connection means that the peer has stopped answering. */
const pendingMax = 4096

/** The server gives up later than we do: otherwise its half-finished failure could come first. */
const serverGraceMs = 5000

/** Stream ids are odd, never reused, and 32 bits wide. */
const lastStream = 0xffff_fffd

export class TtrpcClient {
  readonly #socket: Socket
  readonly #log: Logger
  readonly #metadata: [string, string][]
  readonly #pending = new Map<number, PendingCall>()
  #nextStream = 1
  #closed = false
  /** Resolves once the connection has ended, whoever ended it. */
  readonly ended: Promise<void>

  private constructor(socket: Socket, options: { log: Logger; namespace: string }) {
    this.#socket = socket
    this.#log = options.log
    this.#metadata = [['containerd-namespace-ttrpc', options.namespace]]
    const reader = new FrameReader()
    socket.on('data', chunk => this.#receive(reader, chunk))
    socket.on('error', error => this.#log.debug({ err: error }, 'a connection to a shim failed'))
    this.ended = new Promise(resolve => {
      socket.once('close', () => {
        this.#end()
        resolve()
      })
    })
  }

  /** Rejects with the system's error (ECONNREFUSED, ENOENT, …) or DEADLINE_EXCEEDED. */
  static connect(path: string, options: { deadlineMs: number; namespace: string; log: Logger }): Promise<TtrpcClient> {
    return new Promise((resolve, reject) => {
      const socket = connect(path)
      const fail = (error: Error) => {
        socket.destroy()
        reject(error)
      }
      const refuse = () => fail(new StatusError(Code.DEADLINE_EXCEEDED, `${path} took no connection in time`))
      const timer = setTimeout(refuse, options.deadlineMs)
      socket.once('error', error => {
        clearTimeout(timer)
        fail(error)
      })
      socket.once('connect', () => {
        clearTimeout(timer)
        socket.removeAllListeners('error')
        resolve(new TtrpcClient(socket, options))
      })
    })
  }

  get closed(): boolean {
    return this.#closed
  }

  /** Rejects with StatusError: the peer's own, DEADLINE_EXCEEDED, CANCELLED, or ConnectionLost. */
  call(service: string, method: string, payload: Uint8Array, options: CallOptions): Promise<Buffer> {
    if (this.#nextStream >= lastStream) this.close() // all ids are used up: the next call needs a new connection
    if (this.#closed || this.#socket.destroyed) return Promise.reject(new ConnectionLost(method))
    if (this.#pending.size >= pendingMax)
      return Promise.reject(new StatusError(Code.RESOURCE_EXHAUSTED, `${pendingMax} calls wait for this shim already`))
    if (options.signal?.aborted) return Promise.reject(cancelled(method))
    const timeoutNs = options.deadlineMs > 0 ? BigInt(options.deadlineMs + serverGraceMs) * 1_000_000n : 0n
    const message = encodeRequest({ service, method, payload, timeoutNs, metadata: this.#metadata })
    if (message.length > payloadMaxBytes)
      return Promise.reject(
        new StatusError(
          Code.RESOURCE_EXHAUSTED,
          `${method}: a request of ${message.length} bytes is too long for ttrpc`,
        ),
      )
    return this.#send(message, method, options)
  }

  close(): void {
    this.#socket.destroy()
  }

  #send(message: Uint8Array, method: string, { deadlineMs, signal }: CallOptions): Promise<Buffer> {
    const stream = this.#nextStream
    this.#nextStream += 2
    return new Promise<Buffer>((resolve, reject) => {
      const give = (settle: () => void) => {
        this.#pending.delete(stream) // an answer that comes later is dropped
        clearTimeout(timer)
        signal?.removeEventListener('abort', abort)
        settle()
      }
      const abort = () => give(() => reject(cancelled(method)))
      const expire = () => give(() => reject(expired(method, deadlineMs)))
      const timer = deadlineMs > 0 ? setTimeout(expire, deadlineMs) : undefined
      signal?.addEventListener('abort', abort, { once: true })
      this.#pending.set(stream, {
        resolve: response => give(() => resolve(response)),
        reject: error => give(() => reject(error)),
      })
      this.#socket.write(encodeFrame({ stream, type: FrameType.request, payload: message }))
    })
  }

  #receive(reader: FrameReader, chunk: Buffer): void {
    try {
      for (const frame of reader.push(chunk)) this.#answer(frame)
    } catch (error) {
      this.#log.warn({ err: error }, 'a shim sent what is not ttrpc: its connection is closed')
      this.#socket.destroy()
    }
  }

  #answer(frame: Frame): void {
    if (frame.type !== FrameType.response) return // streams are not used by the Task API
    const call = this.#pending.get(frame.stream)
    const { status, payload } = decodeResponse(frame.payload)
    if (status && status.code !== 0) call?.reject(new StatusError(status.code, status.message))
    else call?.resolve(Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength))
  }

  #end(): void {
    this.#closed = true
    for (const call of [...this.#pending.values()]) call.reject(new ConnectionLost('a call'))
  }
}

const cancelled = (method: string) => new StatusError(Code.CANCELLED, `${method} was cancelled`)
const expired = (method: string, deadlineMs: number) =>
  new StatusError(Code.DEADLINE_EXCEEDED, `${method}: the shim did not answer within ${deadlineMs} ms`)
