// A blob that is verified while it is read.
import { createHash, type Hash } from 'node:crypto'
import { type FileHandle, open } from 'node:fs/promises'
import { LayerError } from './errors.js'

const readChunk = 1 << 18

export class BlobReader {
  readonly #file: FileHandle
  readonly #digest: string
  readonly #hash: Hash
  #offset = 0

  private constructor(file: FileHandle, digest: string) {
    this.#file = file
    this.#digest = digest
    this.#hash = createHash(digest.slice(0, digest.indexOf(':')))
  }

  /** `size` 0: not known. */
  static async open(path: string, digest: string, size: number): Promise<BlobReader> {
    const file = await open(path)
    const { size: actual } = await file.stat()
    if (size === 0 || size === actual) return new BlobReader(file, digest)
    await file.close()
    throw new LayerError('mismatch', `blob ${digest} has ${actual} bytes, its descriptor says ${size}`)
  }

  /** Bytes read so far. */
  get offset(): number {
    return this.#offset
  }

  /** The next piece; empty at the end. */
  async read(): Promise<Buffer> {
    const { buffer, bytesRead } = await this.#file.read(Buffer.allocUnsafe(readChunk), 0, readChunk)
    const chunk = buffer.subarray(0, bytesRead)
    this.#hash.update(chunk)
    this.#offset += bytesRead
    return chunk
  }

  /** `first` and all that follows. */
  async *from(first: Buffer): AsyncGenerator<Buffer> {
    for (let chunk = first; chunk.length > 0; chunk = await this.read()) yield chunk
  }

  /** Reads what is left and compares. */
  async verify(): Promise<void> {
    for (let chunk = await this.read(); chunk.length > 0; chunk = await this.read());
    const actual = `${this.#digest.slice(0, this.#digest.indexOf(':'))}:${this.#hash.copy().digest('hex')}`
    if (actual !== this.#digest)
      throw new LayerError('mismatch', `unexpected digest ${actual} of blob ${this.#digest}: its bytes are damaged`)
  }

  close(): Promise<void> {
    return this.#file.close()
  }
}
