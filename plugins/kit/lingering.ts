// How a process whose parent is gone goes on for a while, so that the parent's successor takes it up as it is.
import type { Logger } from 'pino'

export class Lingering {
  #registrations = 0
  #isOrphan = false
  #timer: NodeJS.Timeout | undefined

  /** `ms` is 0 for a process that ends with its parent. */
  constructor(
    readonly ms: number,
    readonly log: Logger,
  ) {}

  parentGone(): void {
    this.#isOrphan = true
    if (this.ms === 0) process.exit(0)
    this.#look()
  }

  registered(is: boolean): void {
    this.#registrations += is ? 1 : -1
    this.#look()
  }

  /** Ends: another process can begin with nothing under way, and the supervisor starts one when we are gone. */
  stuck(): void {
    if (this.#isOrphan) process.exit(1)
  }

  #look(): void {
    clearTimeout(this.#timer)
    if (!this.#isOrphan || this.#registrations > 0) return
    this.#timer = setTimeout(() => {
      this.log.warn('no supervisor has come: the plugin process ends')
      process.exit(0)
    }, this.ms)
  }
}
