// A plugin's emissions on their way into the journal: many at once, in order, tried again while the journal refuses.

import type { Logger } from 'pino'
import { Code, toStatusError } from '../../../plugins/kit/errors.js'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import type { Emit } from '../../../proto/gen/purser/plugins/v1/registry.js'

export interface IntakeOptions {
  /** Journals one emission; answers its sequence, 0 when it told nothing new. */
  journal(emission: Emit): Promise<bigint>
  acknowledge(id: string, sequence: bigint): void
  log: Logger
}

const atOnce = 256
const firstRetryMs = 100
const lastRetryMs = 5000

/**
 * Emissions are handed to the journal in the order of arrival and share its flushes. When one fails, those behind it
 * wait until it is through: the order of events outlives a full disk.
 */
export class EmissionIntake {
  readonly #options: IntakeOptions
  #waiting: Emit[] = []
  #failed: { emit: Emit; order: number }[] = []
  #started = 0
  #underWay = 0
  #retryMs = firstRetryMs
  #retry: NodeJS.Timeout | undefined
  #closed = false

  constructor(options: IntakeOptions) {
    this.#options = options
  }

  /** True when the sender should pause: a plugin of ours never has so many unanswered. */
  get isFull(): boolean {
    return this.#waiting.length >= 4 * atOnce
  }

  take(emit: Emit): void {
    if (this.#closed) return
    this.#waiting.push(emit)
    this.#startMore()
  }

  /** What is not journaled yet stays unacknowledged; the plugin sends it again when it is back. */
  close(): void {
    this.#closed = true
    clearTimeout(this.#retry)
    this.#waiting = []
  }

  #startMore(): void {
    while (!this.#closed && this.#failed.length === 0 && this.#underWay < atOnce) {
      const emit = this.#waiting.shift()
      if (!emit) return
      void this.#journal(emit, this.#started++)
    }
  }

  async #journal(emit: Emit, order: number): Promise<void> {
    this.#underWay++
    try {
      const sequence = await this.#options.journal(emit)
      failpoint('registry.recorded')
      this.#retryMs = firstRetryMs
      this.#options.acknowledge(emit.id, sequence)
      failpoint('registry.acknowledged')
    } catch (error) {
      const { code, details } = toStatusError(error)
      if (hopeless.has(code)) {
        this.#options.log.error(
          { emission: emit.id, topic: emit.topic, reason: details },
          'an event makes no sense: dropped',
        )
        this.#options.acknowledge(emit.id, 0n)
      } else {
        this.#options.log.warn(
          { emission: emit.id, topic: emit.topic, reason: details },
          'an event waits for the journal',
        )
        this.#failed.push({ emit, order })
      }
    } finally {
      this.#underWay--
    }
    if (this.#failed.length > 0 && this.#underWay === 0) this.#retryLater()
    else this.#startMore()
  }

  #retryLater(): void {
    if (this.#closed) return
    this.#retry = setTimeout(() => {
      const again = this.#failed.sort((a, b) => a.order - b.order).map(({ emit }) => emit)
      this.#failed = []
      this.#waiting.unshift(...again)
      this.#startMore()
    }, this.#retryMs)
    this.#retryMs = Math.min(this.#retryMs * 2, lastRetryMs)
  }
}

/** Refusals that the same emission would meet for ever. */
const hopeless: ReadonlySet<Code> = new Set([
  Code.INVALID_ARGUMENT,
  Code.NOT_FOUND,
  Code.ALREADY_EXISTS,
  Code.FAILED_PRECONDITION,
  Code.OUT_OF_RANGE,
])
