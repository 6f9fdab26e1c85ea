// Where removed snapshots go: out of sight at once, off the disk in the background.

import { mkdirSync, readdirSync, renameSync } from 'node:fs'
import { rm, rmdir } from 'node:fs/promises'
import { basename } from 'node:path'
import type { Logger } from 'pino'
import { failpoint } from '../kit/failpoint.js'
import { runCommand } from './command.js'

/** How many directories one rm gets: a bound for its command line. */
const atOnce = 256
/** Removals keep the file system's journal busy: they come in batches, behind what somebody waits for. */
const delayMs = 500

export class Trash {
  readonly #path: string
  readonly #log: Logger
  readonly #stop: AbortSignal
  #emptying: Promise<void> | undefined
  #timer: NodeJS.Timeout | undefined

  /** What an earlier life left is thrown out in the background. */
  constructor(path: string, log: Logger, stop: AbortSignal) {
    this.#path = path
    this.#log = log
    this.#stop = stop
    mkdirSync(path, { recursive: true, mode: 0o700 })
    if (readdirSync(path).length > 0) this.#emptySoon()
  }

  /** Takes the directory away from its place in one step; durable with its parent's flush. Its name is unique for ever. */
  throw(directory: string): void {
    const place = `${this.#path}/${basename(directory)}`
    renameSync(directory, place)
    failpoint('snapshot.trashed')
    this.#emptySoon()
  }

  /** Resolves when everything thrown in by now is off the disk; rejects when some of it cannot be removed. */
  async empty(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    await this.#emptying?.catch(() => {})
    // Cleared from outside: with nothing to remove, it is over before its promise is known here.
    this.#emptying ??= this.#removeAll().finally(() => {
      this.#emptying = undefined
    })
    await this.#emptying
  }

  /** Waits for a removal under way, which the stop signal has cut short. The rest is for the next life. */
  async close(): Promise<void> {
    clearTimeout(this.#timer)
    await this.#emptying?.catch(() => {})
  }

  #emptySoon(): void {
    this.#timer ??= setTimeout(() => {
      this.empty().catch(error => {
        if (!this.#stop.aborted)
          this.#log.error(
            { err: error, path: this.#path },
            'removed snapshots still take disk space: see why, then clean up',
          )
      })
    }, delayMs)
  }

  async #removeAll(): Promise<void> {
    for (;;) {
      const names = readdirSync(this.#path).slice(0, atOnce)
      if (names.length === 0 || this.#stop.aborted) return
      const full: string[] = []
      for (const name of names) {
        const directory = `${this.#path}/${name}`
        if (!(await removeNearlyEmpty(directory))) full.push(directory)
      }
      // A program of its own: an image's 100 000 files would keep this process's few threads busy for seconds.
      if (full.length > 0) await runCommand('rm', ['-rf', '--one-file-system', '--', ...full], this.#stop)
    }
  }
}

/**
 * A container that wrote nothing leaves a handful of directories: quicker removed than a program is started. Off the
 * event loop, since a removal waits while the file system commits its journal (measured: 7 ms on a busy disk).
 */
async function removeNearlyEmpty(directory: string): Promise<boolean> {
  try {
    await rm(`${directory}/meta.json`, { force: true })
    for (const name of ['work/work', 'work', 'fs']) await rmdir(`${directory}/${name}`).catch(unlessMissing)
    await rmdir(directory)
    return true
  } catch {
    return false // something is in it: for the program, which tells what cannot be removed
  }
}

function unlessMissing(error: unknown): void {
  if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error
}
