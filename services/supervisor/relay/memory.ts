// The relay's place, kept in a file: a hint beside the stream's own word, so losing it costs repeats at most.

import { readFile, rename, writeFile } from 'node:fs/promises'
import type { Logger } from 'pino'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import type { Memory } from './recovery.js'

const saveEveryMs = 5_000

export class MemoryFile {
  #memory: Memory | undefined
  #saved: Memory | undefined
  #timer: NodeJS.Timeout | undefined

  /** `journal`: the id of the journal that the place is in; another journal's file is passed over. */
  constructor(
    readonly path: string,
    readonly journal: string,
    readonly log: Logger,
  ) {}

  get memory(): Memory | undefined {
    return this.#memory
  }

  async load(): Promise<void> {
    const text = await readFile(this.path, 'utf8').catch(() => '')
    if (text === '') return
    this.#memory = parse(text, this.journal)
    if (!this.#memory)
      this.log.info(
        { path: this.path },
        "the relay's remembered place is not of this journal: the stream is asked alone",
      )
  }

  /** Keeps a place; it reaches the disk some seconds later. */
  keep(memory: Memory): void {
    this.#memory = memory
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      void this.save()
    }, saveEveryMs).unref()
  }

  /** Never rejects: a disk that is full costs the hint, not the relay. */
  async save(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const memory = this.#memory
    if (!memory || memory === this.#saved) return
    const text = JSON.stringify({ journal: this.journal, ...memory, sequence: memory.sequence.toString() })
    try {
      await writeFile(`${this.path}.new`, `${text}\n`, { mode: 0o600 })
      failpoint('relay.memory.drafted')
      await rename(`${this.path}.new`, this.path)
      failpoint('relay.memory.renamed')
      this.#saved = memory
    } catch (error) {
      this.log.warn(
        { err: error, path: this.path },
        "the relay's place could not be kept: make room or check permissions",
      )
    }
  }
}

function parse(text: string, journal: string): Memory | undefined {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined
  }
  if (typeof value !== 'object' || value === null) return undefined
  const field = (name: string): unknown => Object.getOwnPropertyDescriptor(value, name)?.value
  const [sequence, position, stream, created] = ['sequence', 'position', 'stream', 'created'].map(field)
  if (field('journal') !== journal || typeof position !== 'number' || !Number.isSafeInteger(position)) return undefined
  if (typeof sequence !== 'string' || !/^\d{1,20}$/.test(sequence)) return undefined
  if (typeof stream !== 'string' || typeof created !== 'string') return undefined
  return { sequence: BigInt(sequence), position, stream, created }
}
