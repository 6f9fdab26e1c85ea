// The reserve: a file that is given up piece by piece when the disk is full, for batches that free space.

import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import { type Disk, type DiskFile, errorCode, reading, writeAll } from './disk.js'

const PIECE_BYTES = 64 * 1024

export class Reserve {
  private constructor(
    private readonly disk: Disk,
    private readonly path: string,
    private readonly full: number,
    /** What the file has now, in bytes. */
    private bytes: number,
  ) {}

  static async open(disk: Disk, dir: string, full: number): Promise<Reserve> {
    const path = join(dir, 'reserve')
    return new Reserve(disk, path, full, await sizeOf(disk, path))
  }

  get missing(): number {
    return Math.max(0, this.full - this.bytes)
  }

  get size(): number {
    return this.bytes
  }

  /**
   * Fills the file up. When it fails, the file keeps what it had. The bytes are random because a file system that
   * compresses would allocate nothing for zeros.
   */
  async rebuild(): Promise<void> {
    if (this.missing === 0) return
    await this.using(async file => {
      const before = this.bytes
      try {
        for (let at = before; at < this.full; at += PIECE_BYTES)
          await writeAll(file, [randomBytes(Math.min(PIECE_BYTES, this.full - at))], at)
        await file.sync()
        failpoint('journal.reserve.filled')
        this.bytes = this.full
      } catch (error) {
        await file.truncate(before)
        throw error
      }
    })
  }

  /** Gives up to `bytes` back to the disk; false when there is nothing left to give. */
  async giveUp(bytes: number): Promise<boolean> {
    if (this.bytes === 0) return false
    await this.using(async file => {
      const left = Math.max(0, this.bytes - bytes)
      await file.truncate(left)
      await file.sync()
      failpoint('journal.reserve.given')
      this.bytes = left
    })
    return true
  }

  private async using(work: (file: DiskFile) => Promise<void>): Promise<void> {
    const file = await this.disk.open(this.path, this.bytes === 0 ? 'draft' : 'update')
    try {
      await work(file)
    } finally {
      await file.close()
    }
  }
}

async function sizeOf(disk: Disk, path: string): Promise<number> {
  try {
    return await reading(disk, path, file => file.size())
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return 0
    throw error
  }
}
