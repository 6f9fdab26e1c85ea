// The one writer of an ingest: appends, hashes as it goes, and turns the ingest into a blob.

import type { Hash } from 'node:crypto'
import { fstatSync, renameSync, statSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { aborted, alreadyExists, Code, failedPrecondition, invalidArgument, StatusError } from '../../kit/errors.js'
import { failpoint } from '../../kit/failpoint.js'
import type { Blobs } from './blobs.js'
import { type Algorithm, algorithmOf, type Digest, digestOf, newHash } from './digest.js'
import type { IngestHeader } from './ingests.js'

export interface IngestWriterParts {
  blobs: Blobs
  blobBytesMax: bigint
  directory: string
  /** Locked; the writer closes it. */
  data: FileHandle
  dataPath: string
  header: IngestHeader
  algorithm: Algorithm
  hash: Hash
  offset: bigint
  expected: Digest | undefined
  remove(): Promise<void>
}

export class IngestWriter {
  readonly #parts: IngestWriterParts
  #hash: Hash
  #offset: bigint
  #total: bigint
  #expected: Digest | undefined
  #updatedAt = Date.now()
  #state: 'open' | 'closed' = 'open'

  constructor(parts: IngestWriterParts) {
    this.#parts = parts
    this.#hash = parts.hash
    this.#offset = parts.offset
    this.#total = BigInt(parts.header.total)
    this.#expected = parts.expected
  }

  get offset(): bigint {
    return this.#offset
  }

  get total(): bigint {
    return this.#total
  }

  /** Milliseconds since 1970. */
  get startedAt(): number {
    return this.#parts.header.startedAt
  }

  get updatedAt(): number {
    return this.#updatedAt
  }

  /** For who writes into the file directly; see adopt. */
  get fd(): number {
    return this.#parts.data.fd
  }

  digest(): Digest {
    return digestOf(this.#parts.algorithm, this.#hash)
  }

  /** Later messages may tell what the first did not know, but not change it. */
  announce(total: bigint, expected: Digest | undefined): void {
    validateTotal(total, this.#parts.blobBytesMax)
    if (total > 0n) {
      if (this.#total > 0n && total !== this.#total)
        throw failedPrecondition(`total ${total} differs from ${this.#total}, which was announced before`)
      this.#total = total
    }
    if (expected) {
      if (this.#expected && expected !== this.#expected)
        throw failedPrecondition(`digest ${expected} differs from ${this.#expected}, which was announced before`)
      this.#expected = expected
    }
  }

  async write(data: Buffer): Promise<void> {
    const end = this.#offset + BigInt(data.length)
    if (this.#total > 0n && end > this.#total)
      throw failedPrecondition(`unexpected commit size ${end}, expected ${this.#total}`)
    if (end > this.#parts.blobBytesMax)
      throw new StatusError(
        Code.RESOURCE_EXHAUSTED,
        `a blob may have ${this.#parts.blobBytesMax} bytes ("blobBytesMax")`,
      )
    try {
      await writeAll(this.#parts.data, data, Number(this.#offset))
    } catch (error) {
      await this.#parts.data.truncate(Number(this.#offset)).catch(() => {}) // else resuming finds bytes nobody acknowledged
      throw spaceError(error)
    }
    failpoint('ingest.written')
    this.#hash.update(data)
    this.#offset = end
    this.#updatedAt = Date.now()
  }

  async truncate(): Promise<void> {
    await this.#parts.data.truncate(0)
    this.#hash = newHash(this.#parts.algorithm)
    this.#offset = 0n
  }

  /** Verifies and makes the blob visible, on disk when this resolves. The writer is closed, whatever happens. */
  async commit(): Promise<Digest> {
    try {
      if (this.#total > 0n && this.#total !== this.#offset)
        throw failedPrecondition(`unexpected commit size ${this.#offset}, expected ${this.#total}`)
      const digest = await this.#digestFor(this.#expected)
      // The wrong bytes stay until they are aborted or written over from 0, as clients expect of containerd.
      if (this.#expected && this.#expected !== digest)
        throw failedPrecondition(`unexpected commit digest ${digest}, expected ${this.#expected}`)
      await this.#publish(digest)
      return digest
    } finally {
      await this.close()
    }
  }

  /** Commits `size` bytes that were written through `fd` and hashed by who wrote them. */
  async adopt(digest: Digest, size: bigint): Promise<void> {
    try {
      this.#offset = size
      await this.#publish(digest)
    } catch (error) {
      await this.#remove()
      throw error
    } finally {
      await this.close()
    }
  }

  /** Closes, and leaves nothing to resume. */
  async discard(): Promise<void> {
    if (this.#state === 'closed') return
    await this.#remove()
    await this.close()
  }

  /** Leaves the ingest for whoever resumes it. */
  async close(): Promise<void> {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    await this.#parts.data.close()
  }

  /** The writer may have been opened without the digest, and so hashed by another algorithm. */
  async #digestFor(expected: Digest | undefined): Promise<Digest> {
    const algorithm = expected ? algorithmOf(expected) : this.#parts.algorithm
    if (algorithm === this.#parts.algorithm) return this.digest()
    const hash = newHash(algorithm)
    const stream = this.#parts.data.createReadStream({ start: 0, autoClose: false, highWaterMark: 1 << 20 })
    for await (const chunk of stream) hash.update(chunk)
    return digestOf(algorithm, hash)
  }

  async #publish(digest: Digest): Promise<void> {
    const { blobs, dataPath, header, remove } = this.#parts
    await this.#flush()
    // One step for this process, up to the next await: no abort and no second commit comes between.
    if (!this.#hasName()) throw aborted(`ref ${header.ref} was aborted while it was written`)
    const exists = blobs.has(digest)
    if (!exists) renameSync(dataPath, blobs.path(digest))
    failpoint('blob.renamed')
    await remove()
    if (exists) throw alreadyExists(`content ${digest}`)
    await syncDirectory(blobs.directory(digest))
    failpoint('blob.synced')
  }

  async #remove(): Promise<void> {
    if (this.#hasName()) await this.#parts.remove()
  }

  /** False after an abort: the ingest of that name, if there is one, is another's. */
  #hasName(): boolean {
    const { data, dataPath } = this.#parts
    return statSync(dataPath, { throwIfNoEntry: false })?.ino === fstatSync(data.fd).ino
  }

  async #flush(): Promise<void> {
    try {
      await this.#parts.data.chmod(0o400)
      await this.#parts.data.sync()
      failpoint('ingest.synced')
    } catch (error) {
      // After a failed fsync the kernel may have dropped pages and call the next one a success: nothing to resume.
      await this.#remove()
      throw spaceError(error)
    }
  }
}

export function validateTotal(total: bigint, max: bigint): void {
  if (total < 0n) throw invalidArgument(`total ${total} is negative`)
  if (total > max) throw invalidArgument(`total ${total} is over the limit of ${max} bytes ("blobBytesMax")`)
}

async function writeAll(file: FileHandle, data: Buffer, position: number): Promise<void> {
  for (let done = 0; done < data.length; ) {
    const { bytesWritten } = await file.write(data, done, data.length - done, position + done)
    done += bytesWritten
  }
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}

function spaceError(error: unknown): unknown {
  if (!(error instanceof Error && 'code' in error)) return error
  if (error.code !== 'ENOSPC' && error.code !== 'EDQUOT' && error.code !== 'EFBIG') return error
  const advice = 'make room in the content store (remove images), then resume the upload'
  return new StatusError(Code.RESOURCE_EXHAUSTED, `${error.message}: ${advice}`, { cause: error })
}
