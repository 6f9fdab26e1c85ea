// Unpacks one layer blob: reads, verifies, decompresses, and makes its entries, in one pass.
import { createHash } from 'node:crypto'
import { pipeline } from 'node:stream/promises'
import { syncfs } from '../../kit/linux.js'
import { BlobReader } from './blobReader.js'
import { compressionOf, decompressionError, gunzip } from './decompress.js'
import { exhausted, invalid, LayerError, systemFailure } from './errors.js'
import type { LayerLimits } from './limits.js'
import { TarReader } from './tarReader.js'
import { Unpacker } from './unpack.js'
import type { LayerTarget } from './whiteouts.js'
import { unzstd } from './zstd.js'

export interface ApplyJob {
  kind: 'apply'
  blob: string
  digest: string
  /** Bytes; 0 when the descriptor does not say. */
  size: number
  target: LayerTarget
  limits: LayerLimits
  /** Waits until everything is on disk. */
  sync: boolean
  zstd: string
}

/** The layer as its tar: the digest is the diff id of the image's configuration. */
export interface ApplyResult {
  diffId: string
  size: number
  warnings: string[]
}

export async function applyLayer(job: ApplyJob, isCancelled: () => boolean): Promise<ApplyResult> {
  const unpacker = new Unpacker({ target: job.target, limits: job.limits, isCancelled })
  try {
    const blob = await BlobReader.open(job.blob, job.digest, job.size)
    try {
      const tar = new LayerTar(unpacker, job.limits, blob)
      await unpack(job, blob, tar)
      unpacker.finish()
      if (job.sync) syncfs(unpacker.rootFd)
      return { diffId: tar.diffId(), size: tar.size, warnings: unpacker.warnings }
    } finally {
      await blob.close()
    }
  } catch (error) {
    throw systemFailure('layer', error)
  } finally {
    unpacker.close()
  }
}

async function unpack({ zstd }: ApplyJob, blob: BlobReader, tar: LayerTar): Promise<void> {
  try {
    const first = await blob.read()
    const compression = compressionOf(first)
    if (compression === 'none') for await (const chunk of blob.from(first)) tar.push(chunk)
    else if (compression === 'zstd') await pipeline(blob.from(first), unzstd(zstd), chunks => tar.pushAll(chunks))
    else await gunzipInto(tar, first, blob)
    tar.end()
  } catch (error) {
    // A damaged blob rarely makes a proper tar: the damage is the better explanation.
    const explained = decompressionError(error)
    if (explained instanceof LayerError && explained.reason === 'invalid') await blob.verify()
    throw explained
  }
  await blob.verify()
}

async function gunzipInto(tar: LayerTar, first: Buffer, blob: BlobReader): Promise<void> {
  const decompressor = gunzip()
  const isDone = () => decompressor.readableEnded && decompressor.bytesWritten < blob.offset
  try {
    await pipeline(blob.from(first), decompressor, chunks => tar.pushAll(chunks))
  } catch (error) {
    if (!isDone()) throw error // else it is only the pipeline's surprise that nobody reads the rest
  }
  if (isDone()) throw invalid('data behind the end of the gzip stream')
}

/** The uncompressed stream: measured and hashed before its entries are made. */
class LayerTar {
  readonly #reader: TarReader
  readonly #limits: LayerLimits
  readonly #blob: BlobReader
  readonly #hash = createHash('sha256')
  size = 0

  constructor(unpacker: Unpacker, limits: LayerLimits, blob: BlobReader) {
    this.#reader = new TarReader(unpacker, limits)
    this.#limits = limits
    this.#blob = blob
  }

  push(chunk: Buffer): void {
    this.size += chunk.length
    const { bytesMax, ratioMax } = this.#limits
    if (this.size > bytesMax) throw exhausted(`the layer has more than ${bytesMax} bytes when uncompressed`)
    if (this.size > ratioFloor && this.size > ratioMax * this.#blob.offset)
      throw exhausted(`the layer is compressed more than ${ratioMax} times: that is a decompression bomb`)
    this.#hash.update(chunk)
    this.#reader.push(chunk)
  }

  async pushAll(chunks: AsyncIterable<Buffer>): Promise<void> {
    for await (const chunk of chunks) this.push(chunk)
  }

  end(): void {
    this.#reader.end()
  }

  diffId(): string {
    return `sha256:${this.#hash.copy().digest('hex')}`
  }
}

/** Below this a bomb does no harm worth refusing an odd but honest layer. */
const ratioFloor = 2 ** 30
