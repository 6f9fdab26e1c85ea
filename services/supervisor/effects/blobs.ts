// The bytes of deleted blobs: removed when no namespace holds them any more.
import type { Logger } from 'pino'
import { Code, StatusError } from '../../../plugins/kit/errors.js'
import { Lanes } from '../../../plugins/kit/lanes.js'
import type { ContentDeleted } from '../domain/content/events.js'
import type { Store } from '../state/store.js'
import type { ContentCalls } from './ports.js'

export class Blobs {
  /** By digest: a removal and a commit of the same blob never meet. */
  private readonly digests = new Lanes()

  constructor(
    private readonly store: Store,
    private readonly content: ContentCalls,
    private readonly log: Logger,
  ) {}

  /** Whether any namespace holds the blob, and its size there. */
  sizeAnywhere(digest: string): bigint | undefined {
    for (const namespace of this.store.world.namespaces.values()) {
      const blob = namespace.blobs.get(digest)
      if (blob) return BigInt(blob.size)
    }
    return undefined
  }

  /** Runs `work` (recording a blob in a namespace) while its bytes cannot be removed. */
  holding<T>(digest: string, work: () => Promise<T>): Promise<T> {
    return this.digests.run(digest, work)
  }

  /** Resolves when no removal of the blob is under way. */
  async settled(digest: string): Promise<void> {
    if (digest !== '') await this.digests.run(digest, async () => {})
  }

  deleted({ digest }: Pick<ContentDeleted, 'digest'>): void {
    void this.digests.run(digest, async () => {
      if (this.sizeAnywhere(digest) !== undefined) return
      try {
        await this.content.delete({ digest })
      } catch (error) {
        if (error instanceof StatusError && error.code === Code.NOT_FOUND) return
        this.log.warn(
          { err: error, digest },
          'the bytes of a deleted blob stay for now; garbage collection removes them',
        )
      }
    })
  }
}
