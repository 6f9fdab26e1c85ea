// containerd.services.streaming.v1.Streaming: a stream that a client gives a name, for another call to send and receive on.
import { invalidArgument, unavailable } from '../../../plugins/kit/errors.js'
import { bidi } from '../../../plugins/kit/serve.js'
import { StreamInit, type StreamingServer } from '../../../proto/gen/containerd/services/streaming/v1/streaming.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'
import { checkName } from '../domain/validate.js'
import type { Streams } from '../transfer/streams.js'
import { insist, namespacedCall } from './call.js'

export interface StreamingDeps {
  streams: Streams
  /** Aborts when the supervisor stops. */
  stopping: AbortSignal
}

export function streamingService({ streams, stopping }: StreamingDeps): StreamingServer {
  return {
    stream: bidi<Any, Any>(async function* (requests, context) {
      const { namespace } = namespacedCall(context, 'Streaming/Stream')
      const incoming = requests[Symbol.asyncIterator]()
      const first = await incoming.next()
      if (first.done) return
      const id = idOf(first.value)
      const stream = streams.open(namespace, id, incoming, AbortSignal.any([context.signal, stopping]))
      try {
        yield acknowledgement
        yield* stream.outgoing()
        if (stopping.aborted) throw unavailable('the supervisor stops: open the stream again')
      } finally {
        stream.end()
      }
    }),
  }
}

const acknowledgement: Any = { typeUrl: 'google.protobuf.Empty', value: Buffer.alloc(0) }

function idOf({ typeUrl, value }: Any): string {
  if (!typeUrl.endsWith('containerd.services.streaming.v1.StreamInit'))
    throw invalidArgument(`expected init message, got ${JSON.stringify(typeUrl.slice(0, 160))}`)
  const { id } = StreamInit.decode(value)
  insist(checkName('stream id', id))
  return id
}
