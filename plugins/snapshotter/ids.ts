// Names of snapshot directories: numbers that are never used twice, so that a mount that somebody still remembers
// never shows another snapshot's files.
import { readFileSync } from 'node:fs'
import { isDiskFull } from '../kit/errors.js'
import { replaceFile, replaceFileSync, type SharedDirectory } from './durable.js'

const file = 'next-id'
/** Reserved at once: one flush for so many snapshots. */
const block = 256n

export class Ids {
  readonly #root: SharedDirectory
  #next: bigint
  /** Numbers below it may be given out: a later life starts here. */
  #reserved: bigint
  #reserving: Promise<void> | undefined

  /** `highest`: the highest number that is in use; the file may be missing or older than that. */
  constructor(root: SharedDirectory, highest: bigint) {
    this.#root = root
    const noted = read(`${root.path}/${file}`)
    this.#next = noted > highest ? noted : highest + 1n
    this.#reserved = this.#next
    try {
      replaceFileSync(root.path, file, (this.#next + block).toString())
      this.#reserved += block
    } catch (error) {
      // Whoever wants to make room by removing snapshots must not be kept out: only new ones have to wait.
      if (!isDiskFull(error)) throw error
    }
  }

  async next(): Promise<string> {
    while (this.#next >= this.#reserved) await this.#reserve()
    const id = this.#next++
    // Ahead of need, so that hardly anybody waits for it.
    if (this.#reserved - this.#next === block / 4n) this.#reserve().catch(() => {})
    return id.toString()
  }

  #reserve(): Promise<void> {
    this.#reserving ??= this.#write().finally(() => {
      this.#reserving = undefined
    })
    return this.#reserving
  }

  async #write(): Promise<void> {
    const reserved = this.#reserved + block
    await replaceFile(`${this.#root.path}/${file}`, reserved.toString())
    await this.#root.sync()
    this.#reserved = reserved
  }
}

function read(path: string): bigint {
  try {
    const text = readFileSync(path, 'utf8').trim()
    return /^\d{1,18}$/.test(text) ? BigInt(text) : 1n
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return 1n
    throw error
  }
}
