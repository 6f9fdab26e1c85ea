// Committed blobs: one read-only file each, named by its digest.

import { type Dirent, existsSync } from 'node:fs'
import { type FileHandle, mkdir, open, readdir, stat, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { notFound } from '../../kit/errors.js'
import { failpoint } from '../../kit/failpoint.js'
import { algorithmOf, algorithms, type Digest, hexOf, isDigest } from './digest.js'

export interface BlobInfo {
  digest: Digest
  size: bigint
  /** Nanoseconds since 1970: when its last byte was written. */
  createdNs: bigint
}

export class Blobs {
  readonly #root: string

  /** `root` holds `blobs/<algorithm>/<hex>`. */
  constructor(root: string) {
    this.#root = join(root, 'blobs')
  }

  async open(): Promise<void> {
    for (const algorithm of algorithms) await mkdir(join(this.#root, algorithm), { recursive: true, mode: 0o700 })
  }

  path(digest: Digest): string {
    return join(this.#root, algorithmOf(digest), hexOf(digest))
  }

  directory(digest: Digest): string {
    return join(this.#root, algorithmOf(digest))
  }

  has(digest: Digest): boolean {
    return existsSync(this.path(digest))
  }

  async info(digest: Digest): Promise<BlobInfo> {
    return (await this.#stat(digest)) ?? missing(digest)
  }

  /** The caller closes it; a blob that is removed meanwhile stays readable. */
  async openForReading(digest: Digest): Promise<FileHandle> {
    return open(this.path(digest)).catch(absent(() => missing(digest)))
  }

  async remove(digest: Digest): Promise<void> {
    await unlink(this.path(digest)).catch(absent(() => missing(digest)))
    failpoint('blob.removed')
  }

  /** In no particular order; blobs that come or go meanwhile may be missing. */
  async *list(): AsyncGenerator<BlobInfo> {
    for (const algorithm of algorithms) {
      const entries = await readdir(join(this.#root, algorithm), { withFileTypes: true }).catch(
        absent<Dirent[]>(() => []),
      )
      for (const entry of entries) {
        const digest = `${algorithm}:${entry.name}`
        const info = entry.isFile() && isDigest(digest) ? await this.#stat(digest) : undefined
        if (info) yield info
      }
    }
  }

  async #stat(digest: Digest): Promise<BlobInfo | undefined> {
    const stats = await stat(this.path(digest), { bigint: true }).catch(absent(() => undefined))
    return stats && { digest, size: stats.size, createdNs: stats.mtimeNs }
  }
}

function missing(digest: Digest): never {
  throw notFound(`content ${digest}`)
}

/** For catch(): what to do about a file that is not there; any other error travels on. */
export function absent<T>(otherwise: () => T): (error: unknown) => T {
  return error => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return otherwise()
    throw error
  }
}
