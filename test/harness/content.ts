// The content service's Write stream, as a test speaks it: message by message, each with its answer.
import type { ClientDuplexStream } from '@grpc/grpc-js'
import {
  ContentService,
  WriteAction,
  WriteContentRequest,
  type WriteContentResponse,
} from '../../proto/gen/containerd/services/content/v1/content.js'
import type { Host } from './host.js'
import { digestOf } from './image.js'
import type { CallSettings } from './rpc.js'

/** One upload. A refusal by the server rejects the answer that is awaited, and every later one. */
export class Upload {
  readonly #stream: ClientDuplexStream<WriteContentRequest, WriteContentResponse>
  readonly #answers: AsyncIterator<WriteContentResponse>

  constructor(host: Host, settings: CallSettings = {}) {
    this.#stream = host.rpc.duplex(ContentService.write, settings)
    this.#answers = this.#stream[Symbol.asyncIterator]()
  }

  async send(message: Parameters<typeof WriteContentRequest.fromPartial>[0]): Promise<WriteContentResponse> {
    this.#stream.write(WriteContentRequest.fromPartial(message))
    const answer = await this.#answers.next()
    if (answer.done === true) throw new Error('the server ended the upload without an answer')
    return answer.value
  }

  end(): void {
    this.#stream.end()
  }

  /** Ends, and waits until the server has let go of the reference. */
  async finish(): Promise<void> {
    this.end()
    await this.#answers.next()
  }

  /** Hangs up without a word, as a client that dies. */
  hangUp(): void {
    this.#stream.on('error', () => undefined)
    this.#stream.cancel()
  }
}

/** Writes a blob that stays until it is deleted, and answers its digest. */
export async function writeBlob(host: Host, bytes: Buffer, labels: Record<string, string> = {}): Promise<string> {
  const expected = digestOf(bytes)
  const upload = new Upload(host)
  await upload.send({
    action: WriteAction.COMMIT,
    ref: `blob-${expected}`,
    total: BigInt(bytes.length),
    expected,
    data: bytes,
    labels: { 'containerd.io/gc.root': new Date().toISOString(), ...labels },
  })
  upload.end()
  return expected
}
