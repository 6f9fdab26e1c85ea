// Transfers as containerd's newer clients ask for them: the call, and the streams beside it, which no ctr of Debian speaks.
import type { ClientDuplexStream } from '@grpc/grpc-js'
import { StreamInit, StreamingService } from '../../proto/gen/containerd/services/streaming/v1/streaming.js'
import { TransferService } from '../../proto/gen/containerd/services/transfer/v1/transfer.js'
import { ImageStore } from '../../proto/gen/containerd/types/transfer/imagestore.js'
import { ImageExportStream, ImageImportStream } from '../../proto/gen/containerd/types/transfer/importexport.js'
import { Progress } from '../../proto/gen/containerd/types/transfer/progress.js'
import { Data, WindowUpdate } from '../../proto/gen/containerd/types/transfer/streaming.js'
import type { Any } from '../../proto/gen/google/protobuf/any.js'
import type { Host } from './host.js'
import type { CallSettings } from './rpc.js'

const windowBytes = 64 << 10
const pieceBytes = 32 << 10
const types = 'containerd.types.transfer.'

const any = (typeUrl: string, value: Uint8Array): Any => ({ typeUrl, value: Buffer.from(value) })

export const imageStore = (image: Parameters<typeof ImageStore.fromPartial>[0]) =>
  any(`${types}ImageStore`, ImageStore.encode(ImageStore.fromPartial(image)).finish())
export const importStream = (from: Parameters<typeof ImageImportStream.fromPartial>[0]) =>
  any(`${types}ImageImportStream`, ImageImportStream.encode(ImageImportStream.fromPartial(from)).finish())
export const exportStream = (to: Parameters<typeof ImageExportStream.fromPartial>[0]) =>
  any(`${types}ImageExportStream`, ImageExportStream.encode(ImageExportStream.fromPartial(to)).finish())

/** A stream with a name, open once the server has said so. */
export class NamedStream {
  readonly #stream: ClientDuplexStream<Any, Any>
  readonly #messages: AsyncIterator<Any>

  private constructor(
    host: Host,
    readonly id: string,
    settings: CallSettings,
  ) {
    this.#stream = host.rpc.duplex(StreamingService.stream, settings)
    this.#stream.on('error', () => {})
    this.#messages = this.#stream[Symbol.asyncIterator]()
  }

  static async open(host: Host, id: string, settings: CallSettings = {}): Promise<NamedStream> {
    const stream = new NamedStream(host, id, settings)
    stream.#stream.write(any('containerd.services.streaming.v1.StreamInit', StreamInit.encode({ id }).finish()))
    await stream.receive()
    return stream
  }

  /** undefined at the end. */
  async receive(): Promise<Any | undefined> {
    const next = await this.#messages.next()
    return next.done ? undefined : next.value
  }

  send(name: string, value: Uint8Array): void {
    this.#stream.write(any(`${types}${name}`, value))
  }

  end(): void {
    this.#stream.end()
  }

  cancel(): void {
    this.#stream.cancel()
  }

  /** As a client sends an archive: never more than the server has room for. */
  async sendBytes(bytes: Buffer): Promise<void> {
    let room = 0
    for (let at = 0; at < bytes.length; ) {
      while (room === 0) {
        const message = await this.receive()
        if (!message) return
        room += WindowUpdate.decode(message.value).update
      }
      const data = bytes.subarray(at, at + Math.min(room, pieceBytes))
      this.send('Data', Data.encode({ data }).finish())
      at += data.length
      room -= data.length
    }
    this.end()
  }

  /** As a client takes an archive. */
  async receiveBytes(): Promise<Buffer> {
    const pieces: Buffer[] = []
    let room = 0
    for (;;) {
      if (room < windowBytes) {
        this.send('WindowUpdate', WindowUpdate.encode({ update: windowBytes }).finish())
        room += windowBytes
      }
      const message = await this.receive()
      if (!message) return Buffer.concat(pieces)
      const { data } = Data.decode(message.value)
      room -= data.length
      pieces.push(data)
    }
  }

  async progress(): Promise<Progress[]> {
    const all: Progress[] = []
    for (let message = await this.receive(); message; message = await this.receive())
      all.push(Progress.decode(message.value))
    return all
  }
}

export async function transfer(
  host: Host,
  source: Any,
  destination: Any,
  settings: CallSettings & { progress?: string } = {},
) {
  const options = settings.progress === undefined ? undefined : { progressStream: settings.progress }
  await host.rpc.call(TransferService.transfer, { source, destination, options }, { timeoutMs: 60_000, ...settings })
}

/** Sends an archive and answers when its images are stored. */
export async function importArchive(
  host: Host,
  archive: Buffer,
  to: Any,
  settings: { id: string; progress?: string } & CallSettings,
): Promise<void> {
  const stream = await NamedStream.open(host, settings.id, settings)
  const sending = stream.sendBytes(archive).catch(() => {})
  try {
    await transfer(host, importStream({ stream: stream.id }), to, settings)
  } finally {
    stream.cancel()
    await sending
  }
}
