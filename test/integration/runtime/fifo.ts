// A client's ends of a process's FIFOs.
import { constants, createReadStream, openSync, type ReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { mkfifo } from '../../../plugins/kit/linux.js'
import { type Scope, withDeadline } from '../../harness/wait.js'

export function makeFifo(directory: string, name: string): string {
  const path = join(directory, name)
  mkfifo(path, 0o600)
  return path
}

/** Collects what is written to the FIFO until its end, as ctr and dockerd do: a reader that waits for its writer. */
export class FifoReader {
  readonly path: string
  readonly #stream: ReadStream
  text = ''
  #waiting: (() => void)[] = []
  #ended = false

  constructor(scope: Scope, path: string) {
    this.path = path
    this.#stream = createReadStream(path, { encoding: 'utf8' })
    this.#stream.on('data', chunk => this.#told(() => (this.text += chunk)))
    this.#stream.on('close', () => this.#told(() => (this.#ended = true)))
    this.#stream.on('error', () => undefined)
    scope.teardown(() => this.#abandon())
  }

  contains(text: string): Promise<void> {
    return this.#until(`"${text}" on ${this.path}`, () => this.text.includes(text))
  }

  async end(): Promise<string> {
    await this.#until(`the end of ${this.path}`, () => this.#ended)
    return this.text
  }

  #until(what: string, holds: () => boolean): Promise<void> {
    const wait = async () => {
      while (!holds()) await new Promise<void>(resolve => this.#waiting.push(resolve))
    }
    return withDeadline(wait(), 10_000, what).catch((error: unknown) => {
      throw new Error(`${error}; so far: ${JSON.stringify(this.text)}`)
    })
  }

  #told(change: () => void): void {
    change()
    for (const wake of this.#waiting.splice(0)) wake()
  }

  /** A reader that still waits for a writer in open(2) holds a thread: let it through. */
  #abandon(): void {
    try {
      openSync(this.path, constants.O_WRONLY | constants.O_NONBLOCK)
    } catch {
      // Nobody waits.
    }
    this.#stream.destroy()
  }
}

export async function writeFifo(path: string, text: string): Promise<void> {
  const file = await open(path, constants.O_WRONLY)
  await file.write(text)
  await file.close()
}
