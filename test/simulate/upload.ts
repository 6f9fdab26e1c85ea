// An upload as Content.Write sees it: the client's half of the stream, and the content plugin's.
import type { ClientDuplexStream, Metadata } from '@grpc/grpc-js'
import {
  WriteAction,
  WriteContentRequest,
  WriteContentResponse,
} from '../../proto/gen/containerd/services/content/v1/content.js'
import type { Host } from './host.js'
import type { Upload } from './supervisor.js'

interface Blob {
  digest: string
  size: bigint
}

/** A client that sends one message, which commits. The end of its stream is its answer. */
export function uploadCall(
  { digest, size }: Blob,
  metadata: Metadata,
  answer: { resolve(): void; reject(error: unknown): void },
): Upload {
  const request = WriteContentRequest.create({
    action: WriteAction.COMMIT,
    ref: digest,
    total: size,
    expected: digest,
    offset: 0n,
  })
  const call = {
    metadata,
    cancelled: false,
    getPeer: () => 'pid=1,uid=0,gid=0',
    once: () => {},
    off: () => {},
    write: () => true,
    end: answer.resolve,
    emit: (_event: 'error', error: unknown) => answer.reject(error),
    async *iterator() {
      yield Buffer.from(WriteContentRequest.encode(request).finish())
    },
  }
  return call as unknown as Upload // the members that a handler uses; the rest belongs to a connection
}

/** The plugin's half: it commits what it is told to, and answers. */
export function uploadUpstream(host: Host): ClientDuplexStream<Buffer, Buffer> {
  const commits: Buffer[] = []
  let wake = () => {}
  let ended = false
  const upstream = {
    write(bytes: Buffer) {
      commits.push(bytes)
      wake()
      return true
    },
    end() {
      ended = true
      wake()
    },
    cancel() {
      ended = true
      wake()
    },
    async *[Symbol.asyncIterator]() {
      for (;;) {
        const bytes = commits.shift()
        if (bytes) {
          const { action, expected, total } = WriteContentRequest.decode(bytes)
          await host.commitBlob(expected, total)
          const answer = WriteContentResponse.create({ action, offset: total, total, digest: expected })
          yield Buffer.from(WriteContentResponse.encode(answer).finish())
        } else if (ended) return
        else
          await new Promise<void>(resolve => {
            wake = resolve
          })
      }
    },
  }
  return upstream as unknown as ClientDuplexStream<Buffer, Buffer>
}
