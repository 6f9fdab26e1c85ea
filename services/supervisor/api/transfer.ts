// containerd.services.transfer.v1.Transfer: one method; what happens follows from the types of source and destination.
import { invalidArgument, unimplemented } from '../../../plugins/kit/errors.js'
import { unary } from '../../../plugins/kit/serve.js'
import type { TransferServer } from '../../../proto/gen/containerd/services/transfer/v1/transfer.js'
import { ImageStore } from '../../../proto/gen/containerd/types/transfer/imagestore.js'
import { ImageExportStream, ImageImportStream } from '../../../proto/gen/containerd/types/transfer/importexport.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'
import { nameOf } from '../transfer/bytes.js'
import { tellOn } from '../transfer/progress.js'
import type { Stream, Streams } from '../transfer/streams.js'
import type { Asked, Transfers } from '../transfer/transfers.js'
import { namespacedCall } from './call.js'

export interface TransferDeps {
  streams: Streams
  transfers: Transfers
}

export function transferService({ streams, transfers }: TransferDeps): TransferServer {
  return {
    transfer: unary(async ({ source, destination, options }, context) => {
      const call = namespacedCall(context, 'Transfer/Transfer')
      if (!source || !destination) throw invalidArgument('source and destination must be set')
      const kind = `${nameOf(source)} to ${nameOf(destination)}`
      const streamOf = (id: string) => streams.get(call.namespace, id)
      const progress = options?.progressStream ? streamOf(options.progressStream) : undefined
      const { tell, close } = tellOn(progress)
      const asked: Asked = { ...call, signal: context.signal, tell }
      try {
        switch (kind) {
          case 'ImageStore to ImageStore':
            await transfers.tag(asked, decoded(ImageStore, source), decoded(ImageStore, destination))
            break
          case 'ImageImportStream to ImageStore': {
            const from = decoded(ImageImportStream, source)
            await onStream(streamOf(from.stream), stream =>
              transfers.import(asked, from, stream, decoded(ImageStore, destination)),
            )
            break
          }
          case 'ImageStore to ImageExportStream': {
            const to = decoded(ImageExportStream, destination)
            await onStream(streamOf(to.stream), stream =>
              transfers.export(asked, decoded(ImageStore, source), to, stream),
            )
            break
          }
          default:
            throw unimplemented(`transfer from ${source.typeUrl.slice(0, 160)} to ${destination.typeUrl.slice(0, 160)}`)
        }
      } finally {
        await close()
      }
      return {}
    }),
  }
}

/** Ends the stream with the transfer. */
async function onStream(stream: Stream, work: (stream: Stream) => Promise<void>): Promise<void> {
  try {
    await work(stream)
  } finally {
    stream.close()
  }
}

function decoded<Message>(type: { decode(bytes: Uint8Array): Message }, { typeUrl, value }: Any): Message {
  try {
    return type.decode(value)
  } catch {
    throw invalidArgument(`malformed ${typeUrl.slice(0, 160)}`)
  }
}
