// The bytes of deleted blobs: removed when no namespace holds them any more.
import type { Logger } from 'pino'
import { Code, StatusError, toStatusError, unavailable } from '../../../plugins/kit/errors.js'
import { Lanes } from '../../../plugins/kit/lanes.js'
import type { ContentDeleted } from '../domain/content/events.js'
import type { Store } from '../state/store.js'
import type { AskAgain } from './answers.js'
import type { ContentCalls } from './ports.js'

const listDeadlineMs = 60_000

export class Blobs {
  /** By digest: a removal and a commit of the same blob never meet. */
  private readonly digests = new Lanes()
  /** What may bring a blob into the store that is not recorded yet. */
  private readonly writes = new Set<Promise<void>>()
  /** By digest: how many writes have announced it. Until they end, its bytes are not removed. */
  private readonly expected = new Map<string, number>()

  constructor(
    private readonly store: Store,
    private readonly content: ContentCalls,
    private readonly log: Logger,
    private readonly askAgain: AskAgain,
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

  /**
   * The same for bytes that somebody else has brought; `work` is told how many. Throws UNAVAILABLE when they were
   * removed meanwhile.
   */
  sharing<T>(digest: string, work: (size: bigint) => Promise<T>): Promise<T> {
    return this.holding(digest, async () => {
      const { info } = await this.content.info({ digest }).catch((error: unknown) => {
        if (toStatusError(error).code !== Code.NOT_FOUND) throw error
        throw unavailable(`content ${digest} was just being removed: send it again`)
      })
      return work(info?.size ?? 0n)
    })
  }

  /** Resolves when no removal of the blob is under way; what was journaled before is done, or given up for now. */
  async settled(digest: string): Promise<void> {
    if (digest !== '') await this.digests.run(digest, async () => {})
  }

  /**
   * To be called before bytes are written, with their digest if it is known; the answered function when their blob is
   * recorded, or will not be. What nobody has recorded by then is soon removed.
   */
  writing(digest = ''): () => void {
    let end = (): void => {}
    const write = new Promise<void>(resolve => {
      end = resolve
    })
    this.writes.add(write)
    this.expected.set(digest, (this.expected.get(digest) ?? 0) + 1)
    return () => {
      this.writes.delete(write)
      const others = (this.expected.get(digest) ?? 1) - 1
      if (others > 0) this.expected.set(digest, others)
      else this.expected.delete(digest)
      end()
      if (digest !== '' && this.sizeAnywhere(digest) === undefined) this.askAgain('content')
    }
  }

  /**
   * Removes what no namespace holds: written before a crash and never recorded, or deleted and not yet removed. What
   * is being written may be among it, so the writes under way are waited for, by nobody else: an upload may take hours.
   */
  async reconcile(): Promise<void> {
    const orphans = await this.orphans()
    void Promise.all(this.writes).then(() => {
      for (const digest of orphans) this.deleted({ digest })
    })
  }

  /** Those that no namespace holds. */
  async orphans(): Promise<string[]> {
    const orphans: string[] = []
    for await (const { info } of this.content.list({ filters: [] }, { deadlineMs: listDeadlineMs }))
      for (const { digest } of info) if (this.sizeAnywhere(digest) === undefined) orphans.push(digest)
    return orphans
  }

  deleted({ digest }: Pick<ContentDeleted, 'digest'>): void {
    void this.digests.run(digest, async () => {
      if (this.sizeAnywhere(digest) !== undefined || this.expected.has(digest)) return
      try {
        await this.content.delete({ digest })
      } catch (error) {
        if (error instanceof StatusError && error.code === Code.NOT_FOUND) return
        this.log.warn({ err: error, digest }, 'the bytes of a deleted blob could not be removed; it is tried again')
        this.askAgain('content')
      }
    })
  }
}
