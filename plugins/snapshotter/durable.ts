// Getting names and small files onto the disk, off the event loop and with few flushes.

import { closeSync, fsync, fsyncSync, openSync, renameSync, writeFileSync } from 'node:fs'
import { promisify } from 'node:util'
import { failpoint } from '../kit/failpoint.js'

const flush = promisify(fsync)

/** Of a file its bytes, of a directory its names. */
export async function sync(path: string): Promise<void> {
  const fd = openSync(path, 'r')
  try {
    await flush(fd)
  } finally {
    closeSync(fd)
  }
}

/** A directory that many operations add names to: those that wait meanwhile share the next flush. */
export class SharedDirectory {
  readonly #fd: number
  #underWay: Promise<void> | undefined
  #next: Promise<void> | undefined

  constructor(readonly path: string) {
    this.#fd = openSync(path, 'r')
  }

  /** Resolves when every name that was there at the call is durable. */
  sync(): Promise<void> {
    if (!this.#underWay) return this.#start()
    this.#next ??= this.#underWay.then(
      () => this.#start(),
      () => this.#start(),
    )
    return this.#next
  }

  /** Waits for flushes under way. */
  async close(): Promise<void> {
    while (this.#underWay) await this.#underWay.catch(() => {})
    closeSync(this.#fd)
  }

  #start(): Promise<void> {
    this.#next = undefined
    const underWay = flush(this.#fd).finally(() => {
      if (this.#underWay === underWay) this.#underWay = undefined
    })
    this.#underWay = underWay
    return underWay
  }
}

/** Replaces a small file: after a crash it holds the old or the new text. The rename is durable with its directory. */
export async function replaceFile(path: string, text: string): Promise<void> {
  const draft = `${path}~`
  writeFileSync(draft, text, { mode: 0o600 })
  await sync(draft)
  failpoint('snapshot.meta.drafted')
  renameSync(draft, path)
  failpoint('snapshot.meta.renamed')
}

/** As replaceFile, and the directory too: for opening, when nobody waits. */
export function replaceFileSync(directory: string, name: string, text: string): void {
  const draft = `${directory}/${name}~`
  const fd = openSync(draft, 'w', 0o600)
  try {
    writeFileSync(fd, text)
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
  renameSync(draft, `${directory}/${name}`)
  const directoryFd = openSync(directory, 'r')
  try {
    fsyncSync(directoryFd)
  } finally {
    closeSync(directoryFd)
  }
}
