// Makes a layer of the difference between two trees: a tar, compressed, written to an open file and hashed on the way.
import { createHash } from 'node:crypto'
import { writeSync } from 'node:fs'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGzip } from 'node:zlib'
import { changesBetween, changesInUpper } from './changes.js'
import type { Compression } from './decompress.js'
import { systemFailure } from './errors.js'
import { Packer } from './packer.js'
import { zstd } from './zstd.js'

export interface PackJob {
  kind: 'pack'
  /** `left` is the older state; an upper directory holds nothing but the difference. */
  source: { kind: 'trees'; left: string | undefined; right: string } | { kind: 'upper'; upper: string }
  /** A file descriptor of this process, open for writing, empty. */
  output: number
  compression: Compression
  /** No time in the layer is later: nanoseconds since 1970. */
  epochNs: bigint | undefined
  zstd: string
}

export interface PackResult {
  digest: string
  size: number
  /** Of the tar without compression. */
  diffId: string
  warnings: string[]
}

export async function packLayer(job: PackJob, isCancelled: () => boolean): Promise<PackResult> {
  const { source } = job
  const root = source.kind === 'upper' ? source.upper : source.right
  const packer = new Packer(root, job.epochNs, isCancelled)
  try {
    const changes = source.kind === 'upper' ? changesInUpper(root) : changesBetween(source.left, root)
    const tar = new Measured(packer.tar(changes))
    const output = new Output(job.output)
    const chunks = Readable.from(tar)
    const write = (compressed: AsyncIterable<Buffer>) => output.writeAll(compressed)
    if (job.compression === 'gzip') await pipeline(chunks, createGzip({ chunkSize: 1 << 18 }), write)
    else if (job.compression === 'zstd') await pipeline(chunks, zstd(job.zstd), write)
    else await pipeline(chunks, write)
    return { digest: output.digest(), size: output.size, diffId: tar.digest(), warnings: packer.warnings }
  } catch (error) {
    throw systemFailure('layer', error)
  } finally {
    packer.close()
  }
}

/** Passes chunks on, and remembers their hash. */
class Measured implements Iterable<Buffer> {
  readonly #hash = createHash('sha256')

  constructor(private readonly chunks: Iterable<Buffer>) {}

  *[Symbol.iterator](): Iterator<Buffer> {
    for (const chunk of this.chunks) {
      this.#hash.update(chunk)
      yield chunk
    }
  }

  digest(): string {
    return `sha256:${this.#hash.copy().digest('hex')}`
  }
}

class Output {
  readonly #hash = createHash('sha256')
  size = 0

  constructor(private readonly fd: number) {}

  async writeAll(chunks: AsyncIterable<Buffer>): Promise<void> {
    for await (const chunk of chunks) {
      for (let done = 0; done < chunk.length; )
        done += writeSync(this.fd, chunk, done, chunk.length - done, this.size + done)
      this.#hash.update(chunk)
      this.size += chunk.length
    }
  }

  digest(): string {
    return `sha256:${this.#hash.copy().digest('hex')}`
  }
}
