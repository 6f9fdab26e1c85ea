// Log lines that an outage would repeat: each kind at most once a minute, with the number of those that were left out.
import type { Logger } from 'pino'

const everyMs = 60_000
/** Kinds that are remembered: messages may hold what a broker says. */
const kindsMax = 100

export class SparingLog {
  readonly #kinds = new Map<string, { until: number; leftOut: number }>()

  constructor(
    readonly log: Logger,
    readonly now: () => number = () => performance.now(),
  ) {}

  /** How many are remembered. */
  get kinds(): number {
    return this.#kinds.size
  }

  info(facts: object, message: string): void {
    this.#write('info', facts, message)
  }

  warn(facts: object, message: string): void {
    this.#write('warn', facts, message)
  }

  #write(level: 'info' | 'warn', facts: object, message: string): void {
    const now = this.now()
    const kind = this.#kinds.get(message)
    if (kind && now < kind.until) {
      kind.leftOut += 1
      this.log.debug(facts, message)
      return
    }
    const leftOut = kind?.leftOut ?? 0
    this.#kinds.delete(message)
    this.#kinds.set(message, { until: now + everyMs, leftOut: 0 })
    const [oldest] = this.#kinds.keys()
    if (this.#kinds.size > kindsMax && oldest !== undefined) this.#kinds.delete(oldest)
    this.log[level](leftOut > 0 ? { ...facts, leftOut } : facts, message)
  }
}
