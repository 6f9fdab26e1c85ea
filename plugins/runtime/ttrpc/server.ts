// Serves ttrpc methods on a unix socket: where shims tell their events.
import { chmod, rename, rm, stat } from 'node:fs/promises'
import { createServer, type Server, type Socket } from 'node:net'
import type { Logger } from 'pino'
import { Code, StatusError, toStatusError } from '../../kit/errors.js'
import { encodeFrame, type Frame, FrameReader, FrameType } from './frame.js'
import { decodeRequest, encodeResponse, type TtrpcRequest } from './message.js'

/** Takes a request's payload and answers the response's. Throwing a StatusError answers that. */
export type TtrpcHandler = (payload: Uint8Array) => Promise<Uint8Array>

export interface TtrpcServerOptions {
  path: string
  /** By `full.service.Name/Method`. */
  methods: ReadonlyMap<string, TtrpcHandler>
  log: Logger
}

/** Requests under way on one connection; a peer that sends more is not read until some are answered. */
const underWayMax = 64

export class TtrpcServer {
  readonly #connections = new Set<Socket>()
  readonly #options: TtrpcServerOptions
  readonly #listener: Server
  #inode = 0

  private constructor(options: TtrpcServerOptions) {
    this.#options = options
    this.#listener = createServer(socket => this.#accept(socket))
  }

  /** Takes the place of whatever socket file is at `path`: there is one supervisor per address, and it has asked. */
  static async listen(options: TtrpcServerOptions): Promise<TtrpcServer> {
    const server = new TtrpcServer(options)
    // Under another name first: Node removes the name it listened on when it closes, which may be a successor's by then.
    const draft = `${options.path}~`
    if (Buffer.byteLength(draft) > 107)
      throw new Error(`${draft} is too long for a unix socket (107 bytes): choose a shorter address`)
    await rm(draft, { force: true })
    await new Promise<void>((resolve, reject) => {
      server.#listener.once('error', reject)
      server.#listener.listen(draft, resolve)
    })
    await chmod(draft, 0o600)
    server.#inode = (await stat(draft)).ino
    await rename(draft, options.path)
    return server
  }

  /** Cuts the connections: shims send again whatever was not answered. */
  async close(): Promise<void> {
    const closed = new Promise<void>(resolve => this.#listener.close(() => resolve()))
    for (const socket of this.#connections) socket.destroy()
    await closed
    const { path } = this.#options
    const ours = await stat(path).then(
      file => file.ino === this.#inode,
      () => false,
    )
    if (ours) await rm(path, { force: true })
  }

  #accept(socket: Socket): void {
    const reader = new FrameReader()
    let underWay = 0
    const settled = () => {
      underWay -= 1
      if (underWay < underWayMax) socket.resume()
    }
    this.#connections.add(socket)
    socket.on('close', () => this.#connections.delete(socket))
    socket.on('error', error => this.#options.log.debug({ err: error }, 'a connection from a shim failed'))
    socket.on('data', chunk => {
      try {
        for (const frame of reader.push(chunk)) {
          const request = readRequest(frame)
          if (!request) continue
          underWay += 1
          this.#serve(socket, frame.stream, request).then(settled, (error: unknown) => socket.destroy(asError(error)))
        }
      } catch (error) {
        this.#options.log.warn({ err: error }, 'a shim sent what is not ttrpc: its connection is closed')
        socket.destroy()
      }
      if (underWay >= underWayMax) socket.pause()
    })
  }

  async #serve(socket: Socket, stream: number, request: TtrpcRequest): Promise<void> {
    const payload = await this.#answer(request)
    if (!socket.destroyed) socket.write(encodeFrame({ stream, type: FrameType.response, payload }))
  }

  async #answer(request: TtrpcRequest): Promise<Uint8Array> {
    try {
      const name = `${request.service}/${request.method}`
      const handler = this.#options.methods.get(name)
      if (!handler) throw new StatusError(Code.UNIMPLEMENTED, `${name} is not served here`)
      return encodeResponse({ status: undefined, payload: await handler(request.payload) })
    } catch (error) {
      const { code, details } = toStatusError(error)
      return encodeResponse({ status: { code, message: details, details: [] }, payload: new Uint8Array() })
    }
  }
}

function readRequest(frame: Frame): TtrpcRequest | undefined {
  return frame.type === FrameType.request ? decodeRequest(frame.payload) : undefined
}

const asError = (error: unknown) => (error instanceof Error ? error : new Error(String(error)))
