// The content store and the differ behind a real gRPC server on a socket, without a supervisor.
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { ClientDuplexStream } from '@grpc/grpc-js'
import { Server } from '@grpc/grpc-js'
import { pino } from 'pino'
import { definitions } from '../../../plugins/content/plugin.js'
import { type Listener, listen } from '../../../plugins/kit/listen.js'
import type { Config, OpenPlugin } from '../../../plugins/kit/plugin.js'
import { messageLimits } from '../../../plugins/kit/serve.js'
import {
  ContentService,
  WriteAction,
  WriteContentRequest,
  type WriteContentResponse,
} from '../../../proto/gen/containerd/services/content/v1/content.js'
import { type CallSettings, Rpc } from '../../harness/rpc.js'
import type { Scope } from '../../harness/wait.js'
import { scratch } from './trees.js'

export class ContentHost {
  readonly root: string
  readonly state: string
  readonly rpc: Rpc
  #isOpen = true

  private constructor(
    readonly directory: string,
    readonly plugins: OpenPlugin[],
    readonly listener: Listener,
  ) {
    this.root = join(directory, 'content')
    this.state = join(directory, 'differ')
    this.rpc = new Rpc(join(directory, 'sock'))
  }

  static async open(scope: Scope, { directory = scratch(scope), ...config }: { directory?: string } & Config = {}) {
    const places = { root: join(directory, 'content'), state: join(directory, 'differ') }
    const context = {
      config: { ...places, ...config },
      log: pino({ level: 'silent' }),
      signal: new AbortController().signal,
    }
    const plugins = await Promise.all(
      definitions.map(definition =>
        definition.open({ ...context, emit: () => Promise.resolve(0n), tellUnresponsive() {} }),
      ),
    )
    const server = new Server(messageLimits)
    for (const { definition, implementation } of plugins.flatMap(({ services }) => services))
      server.addService(definition, implementation)
    const host = new ContentHost(directory, plugins, await listen(server, join(directory, 'sock')))
    scope.teardown(() => host.close())
    return host
  }

  async close(): Promise<void> {
    if (!this.#isOpen) return
    this.#isOpen = false
    this.rpc.close()
    await this.listener.close(1000)
    await Promise.all(this.plugins.map(plugin => plugin.close()))
  }

  upload(settings: CallSettings = {}): Upload {
    return new Upload(this.rpc.duplex(ContentService.write, settings))
  }

  /** Puts a blob into the store, and answers its digest. */
  async put(bytes: Buffer): Promise<string> {
    const expected = digestOf(bytes)
    if (existsSync(join(this.root, 'blobs', expected.replace(':', '/')))) return expected
    const upload = this.upload()
    for (let at = 0; at < bytes.length; at += 1 << 20)
      await upload.send({
        action: WriteAction.WRITE,
        ref: expected,
        offset: BigInt(at),
        data: bytes.subarray(at, at + (1 << 20)),
      })
    await upload.send({
      action: WriteAction.COMMIT,
      offset: BigInt(bytes.length),
      total: BigInt(bytes.length),
      expected,
    })
    upload.end()
    return expected
  }

  async read(digest: string, offset = 0n, size = 0n): Promise<Buffer> {
    const messages = await this.rpc.collect(ContentService.read, { digest, offset, size })
    return Buffer.concat(messages.map(({ data }) => data))
  }
}

/** A Write stream, message by message, each with its answer. */
export class Upload {
  readonly #answers: AsyncIterator<WriteContentResponse>

  constructor(readonly stream: ClientDuplexStream<WriteContentRequest, WriteContentResponse>) {
    this.#answers = stream[Symbol.asyncIterator]()
  }

  async send(message: Parameters<typeof WriteContentRequest.fromPartial>[0]): Promise<WriteContentResponse> {
    this.stream.write(WriteContentRequest.fromPartial(message))
    const answer = await this.#answers.next()
    if (answer.done === true) throw new Error('the server ended the upload without an answer')
    return answer.value
  }

  end(): void {
    this.stream.end()
  }

  /** As a client that dies. */
  hangUp(): void {
    this.stream.on('error', () => {})
    this.stream.cancel()
  }
}

export function digestOf(bytes: Buffer, algorithm = 'sha256'): string {
  return `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}`
}
