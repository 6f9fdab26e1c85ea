// An upload as Content.Write sees it: the client's half of the stream, and the content plugin's.
import { EventEmitter } from 'node:events'
import type { Metadata } from '@grpc/grpc-js'
import type { BidiCall } from '../../plugins/kit/serve.js'
import {
  WriteAction,
  WriteContentRequest,
  WriteContentResponse,
} from '../../proto/gen/containerd/services/content/v1/content.js'
import type { Upstream } from '../../services/supervisor/api/contentWrite.js'
import type { Host } from './host.js'

interface Blob {
  digest: string
  size: bigint
}

/** A client that sends one message, which commits. The end of its stream is its answer. */
export function uploadCall(
  { digest, size }: Blob,
  metadata: Metadata,
  answer: { resolve(): void; reject(error: unknown): void },
): BidiCall<Buffer, Buffer> {
  const request = WriteContentRequest.create({
    action: WriteAction.COMMIT,
    ref: digest,
    total: size,
    expected: digest,
    offset: 0n,
  })
  return {
    metadata,
    cancelled: false,
    getPeer: () => 'pid=1,uid=0,gid=0',
    once: () => {},
    off: () => {},
    write: () => true,
    end: answer.resolve,
    emit(_event, error) {
      answer.reject(error)
      return true
    },
    async *iterator() {
      yield Buffer.from(WriteContentRequest.encode(request).finish())
    },
  }
}

/** The plugin's half: it commits what it is told to, and answers. */
export class UploadUpstream extends EventEmitter implements Upstream {
  private readonly commits: Buffer[] = []
  private ended = false
  private wake = () => {}

  constructor(private readonly host: Host) {
    super()
  }

  write(bytes: Buffer): boolean {
    this.commits.push(bytes)
    this.wake()
    return true
  }

  end(): void {
    this.ended = true
    this.wake()
  }

  cancel(): void {
    this.end()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    for (;;) {
      const bytes = this.commits.shift()
      if (bytes) {
        const { action, expected, total } = WriteContentRequest.decode(bytes)
        await this.host.commitBlob(expected, total)
        const answer = WriteContentResponse.create({ action, offset: total, total, digest: expected })
        yield Buffer.from(WriteContentResponse.encode(answer).finish())
      } else if (this.ended) return
      else
        await new Promise<void>(resolve => {
          this.wake = resolve
        })
    }
  }
}
