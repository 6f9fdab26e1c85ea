// A disk of one's own: a tmpfs that can become as small as what it holds.
import { execFileSync } from 'node:child_process'
import { statfsSync } from 'node:fs'
import { endWith, pause, type Scope } from './wait.js'

const roomyMiB = 2048

export class Disk {
  constructor(
    scope: Scope,
    readonly path: string,
  ) {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${roomyMiB}m`, 'tmpfs', path])
    endWith(scope, () => void execFileSync('umount', ['--lazy', path]))
  }

  /** Leaves no free block, until some of what is there is removed. */
  async fill(): Promise<void> {
    for (let attempt = 0; attempt < 50; attempt++) {
      const { blocks, bfree, bsize } = statfsSync(this.path)
      try {
        return this.#resize(String((blocks - bfree) * bsize))
      } catch {
        await pause(5) // more was written meanwhile
      }
    }
    throw new Error(`${this.path} is written to too quickly to be filled`)
  }

  makeRoom(): void {
    this.#resize(`${roomyMiB}m`)
  }

  #resize(size: string): void {
    execFileSync('mount', ['-o', `remount,size=${size}`, this.path], { stdio: 'pipe' })
  }
}
