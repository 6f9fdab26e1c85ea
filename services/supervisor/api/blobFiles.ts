// Reads blobs straight from the store's files: they never change, so nobody has to be asked. Small ones are kept.
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { Code, outOfRange, StatusError } from '../../../plugins/kit/errors.js'
import type { ReadContentResponse } from '../../../proto/gen/containerd/services/content/v1/content.js'

export interface BlobRange {
  digest: string
  /** The blob's whole size in bytes. */
  total: bigint
  offset: bigint
  /** Bytes wanted; 0 for all that follow. */
  size: bigint
}

const messageBytes = 1 << 20
/** Manifests and configs are a few KiB and are read some ten times for each container that is run. */
const smallBytes = 64 << 10
const cacheBytes = 4 << 20

export class BlobFiles {
  private readonly small = new Map<string, Buffer>()
  private held = 0

  /** `root` answers the store's directory as the content plugin exports it; it rejects when the plugin does not come. */
  constructor(private readonly root: () => Promise<string>) {}

  /** Offsets in the answers count from where the read began, as containerd's do. Throws OUT_OF_RANGE. */
  async *read(range: BlobRange, signal: AbortSignal): AsyncGenerator<ReadContentResponse> {
    const { digest, total, offset, size } = range
    if (offset < 0n || size < 0n || offset > total) {
      throw outOfRange(`bytes ${offset}+${size} of content ${digest}, which has ${total}`)
    }
    // Who asks for more than there is gets what there is, as from containerd.
    const end = size === 0n || offset + size > total ? total : offset + size
    const small = await this.readSmall(digest, total)
    if (small) {
      yield { offset: 0n, data: small.subarray(Number(offset), Number(end)) }
      return
    }
    yield* this.readLarge(digest, offset, end, signal)
  }

  private forget(digest: string): void {
    const blob = this.small.get(digest)
    if (!blob) return
    this.held -= blob.length
    this.small.delete(digest)
  }

  private async *readLarge(digest: string, offset: bigint, end: bigint, signal: AbortSignal) {
    await using file = await this.openBlob(digest)
    for (let position = offset; position < end && !signal.aborted; ) {
      const wanted = end - position < messageBytes ? Number(end - position) : messageBytes
      const data = Buffer.allocUnsafe(wanted)
      const { bytesRead } = await file.read(data, 0, wanted, Number(position))
      if (bytesRead === 0) throw shortBlob(digest, position, end)
      yield { offset: position - offset, data: data.subarray(0, bytesRead) }
      position += BigInt(bytesRead)
    }
  }

  private async readSmall(digest: string, total: bigint): Promise<Buffer | undefined> {
    if (total > smallBytes) return undefined
    const known = this.small.get(digest)
    if (known) {
      this.small.delete(digest) // to the young end of the map
      this.small.set(digest, known)
      return known
    }
    await using file = await this.openBlob(digest)
    const data = await file.readFile()
    if (BigInt(data.length) !== total) throw shortBlob(digest, BigInt(data.length), total)
    this.keep(digest, data)
    return data
  }

  private keep(digest: string, data: Buffer): void {
    this.forget(digest)
    this.small.set(digest, data)
    this.held += data.length
    for (const oldest of this.small.keys()) {
      if (this.held <= cacheBytes) return
      this.forget(oldest)
    }
  }

  private async openBlob(digest: string) {
    const root = await this.root()
    const [algorithm = '', hex = ''] = digest.split(':')
    const path = join(root, 'blobs', algorithm, hex)
    try {
      const handle = await open(path, 'r')
      return Object.assign(handle, { [Symbol.asyncDispose]: () => handle.close() })
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error)
      throw new StatusError(
        Code.DATA_LOSS,
        `content ${digest} is recorded but cannot be read: ${reason}: pull it again`,
      )
    }
  }
}

function shortBlob(digest: string, at: bigint, total: bigint): StatusError {
  return new StatusError(
    Code.DATA_LOSS,
    `content ${digest} ends at ${at} of ${total} bytes: delete it and pull it again`,
  )
}
