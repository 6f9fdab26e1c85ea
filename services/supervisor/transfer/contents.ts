// Blobs as transfers bring, read and label them: written through the content plugin, recorded under the transfer's lease.
import { randomUUID } from 'node:crypto'
import type { EventEmitter } from 'node:events'
import { Code, invalidArgument, notFound, StatusError, toStatusError } from '../../../plugins/kit/errors.js'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import {
  WriteAction,
  WriteContentRequest,
  WriteContentResponse,
} from '../../../proto/gen/containerd/services/content/v1/content.js'
import { updateContent } from '../domain/content/decide.js'
import { contentStream } from '../domain/streams.js'
import { checkLabels } from '../domain/validate.js'
import type { Labels } from '../domain/values.js'
import { leaseKnownBlob, recordBlob } from '../effects/blobRecords.js'
import type { Blobs } from '../effects/blobs.js'
import type { ContentCalls } from '../effects/ports.js'
import type { Runner } from '../runner.js'
import type { Store } from '../state/store.js'
import { type Descriptor, documentBytesMax } from './oci.js'
import type { Work } from './work.js'

/** A write at the content plugin, messages as bytes. */
export interface Upstream extends EventEmitter, AsyncIterable<Buffer> {
  write(message: Buffer): boolean
  end(): unknown
  cancel(): void
}

export interface ContentsDeps {
  runner: Runner
  store: Store
  blobs: Blobs
  content: ContentCalls
  openWrite(options: { namespace: string; signal: AbortSignal; deadlineMs: number }): Promise<Upstream>
  /** The bytes of a blob of so many. */
  readBlob(digest: string, total: bigint, signal: AbortSignal): AsyncIterable<Buffer>
}

export interface NewBlob {
  /** undefined: found out by writing. */
  digest: string | undefined
  /** undefined: as many as there come. */
  size: number | undefined
  labels?: Labels
}

export interface WrittenBlob {
  digest: string
  size: number
}

/** What goes to the plugin at once. */
const messageBytes = 1 << 20

export class Contents {
  constructor(private readonly deps: ContentsDeps) {}

  /**
   * Reads `bytes` to their end. Bytes that are in the store already are not written again. Throws FAILED_PRECONDITION
   * when they are not what the digest says.
   */
  async write(work: Work, blob: NewBlob, bytes: AsyncIterable<Buffer>): Promise<WrittenBlob> {
    const { blobs } = this.deps
    const { digest = '', labels = {} } = blob
    const written = blobs.writing(digest)
    try {
      const known = await this.adopt(work, digest, labels)
      if (known === undefined) return await this.upload(work, blob, bytes)
      for await (const _ of bytes) work.signal.throwIfAborted()
      return { digest, size: known }
    } finally {
      written()
    }
  }

  /** Takes up a blob whose bytes are here, in this namespace or another. Answers its size; undefined when they are not. */
  async adopt(work: Work, digest: string, labels: Labels): Promise<number | undefined> {
    if (digest === '') return undefined
    const { blobs, store } = this.deps
    await blobs.settled(digest)
    if (!(await leaseKnownBlob(this.deps, work, digest))) {
      const size = blobs.sizeAnywhere(digest)
      if (size === undefined) return undefined
      await blobs.holding(digest, () => recordBlob(this.deps, work, { digest, size, labels }))
    }
    return Number(store.world.namespace(work.namespace).blobs.get(digest)?.size ?? 0)
  }

  /** A manifest, an index or a config. */
  async document(work: Work, { digest }: Pick<Descriptor, 'digest'>): Promise<Buffer> {
    const size = this.sizeOf(work, digest)
    if (size > documentBytesMax) throw invalidArgument(`content ${digest} of ${size} bytes is too large to be read`)
    const pieces: Buffer[] = []
    for await (const piece of this.read(work, digest)) pieces.push(piece)
    return Buffer.concat(pieces)
  }

  read(work: Work, digest: string): AsyncIterable<Buffer> {
    return this.deps.readBlob(digest, BigInt(this.sizeOf(work, digest)), work.signal)
  }

  has({ namespace }: Work, digest: string): boolean {
    return this.deps.store.world.namespace(namespace).blobs.has(digest)
  }

  /** Throws NOT_FOUND. */
  sizeOf({ namespace }: Work, digest: string): number {
    const blob = this.deps.store.world.namespace(namespace).blobs.get(digest)
    if (!blob) throw notFound(`content ${digest}`)
    return Number(blob.size)
  }

  /** Adds labels to those that the blob has. */
  async label({ namespace, cause }: Work, digest: string, labels: Labels): Promise<void> {
    const objection = checkLabels(labels)
    if (objection) throw invalidArgument(objection)
    await this.deps.runner.run(cause, contentStream(namespace, digest), world => {
      const current = world.namespace(namespace).blobs.get(digest)
      const isThere = Object.entries(labels).every(([key, value]) => current?.labels[key] === value)
      if (current && isThere) return { facts: [] }
      return updateContent(namespace, current, digest, { ...current?.labels, ...labels })
    })
  }

  private async upload(work: Work, blob: NewBlob, bytes: AsyncIterable<Buffer>): Promise<WrittenBlob> {
    const { blobs, content, openWrite } = this.deps
    const { namespace, signal } = work
    const ref = `transfer-${randomUUID()}`
    const { digest: expected = '', size: total, labels = {} } = blob
    const upstream = await openWrite({ namespace, signal, deadlineMs: Number.POSITIVE_INFINITY })
    upstream.on('error', () => {}) // the iteration tells it
    const answers = upstream[Symbol.asyncIterator]()
    let offset = 0n
    /** Of what was written so far. */
    let written = expected
    const say = async (action: WriteAction, data: Buffer): Promise<WriteContentResponse> => {
      const message = { action, ref, total: BigInt(total ?? 0), expected, offset, data, labels: {} }
      upstream.write(Buffer.from(WriteContentRequest.encode(message).finish()))
      const answer = await answers.next()
      signal.throwIfAborted()
      if (answer.done) throw new StatusError(Code.UNAVAILABLE, 'the content plugin ended a write without an answer')
      offset += BigInt(data.length)
      const response = WriteContentResponse.decode(answer.value)
      if (expected === '') written = response.digest
      return response
    }
    try {
      let met: unknown
      for await (const piece of inPieces(bytes)) {
        // What is not written is read all the same: more may follow it.
        if (met === undefined)
          await say(WriteAction.WRITE, piece).catch((error: unknown) => {
            if (toStatusError(error).code !== Code.ALREADY_EXISTS) throw error
            met = error
          })
      }
      if (met !== undefined) throw met
      if (offset === 0n) await say(WriteAction.WRITE, Buffer.alloc(0))
      const { digest } = await say(WriteAction.COMMIT, Buffer.alloc(0))
      failpoint('transfer.written')
      await blobs.holding(digest, () => recordBlob(this.deps, work, { digest, size: offset, labels }))
      return { digest, size: Number(offset) }
    } catch (error) {
      const failure = toStatusError(error)
      // Somebody else has brought the same bytes meanwhile.
      if (failure.code === Code.ALREADY_EXISTS && written !== '') {
        return await blobs.sharing(written, async size => {
          await recordBlob(this.deps, work, { digest: written, size, labels })
          return { digest: written, size: Number(size) }
        })
      }
      upstream.cancel()
      await content.abort({ ref }, { namespace }).catch(() => {}) // else it expires
      throw failure
    } finally {
      upstream.cancel()
    }
  }
}

async function* inPieces(bytes: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let held: Buffer[] = []
  let length = 0
  for await (const chunk of bytes) {
    held.push(chunk)
    length += chunk.length
    if (length < messageBytes) continue
    yield Buffer.concat(held)
    held = []
    length = 0
  }
  if (length > 0) yield Buffer.concat(held)
}
