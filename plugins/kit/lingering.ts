// How a process whose parent is gone goes on for a while, so that the parent's successor takes it up as it is.
import type { Logger } from 'pino'
import { readIntroduction } from './introduction.js'

export class Lingering {
  #registrations = 0
  #isOrphan = false
  #timer: NodeJS.Timeout | undefined

  /** `ms` is 0 for a process that ends with its parent; another has our place when it has introduced itself there. */
  constructor(
    readonly ms: number,
    readonly identityFile: string | undefined,
    readonly log: Logger,
  ) {}

  parentGone(): void {
    this.#isOrphan = true
    if (this.ms === 0) process.exit(0)
    this.#look()
  }

  /** A supervisor that has started another process has no use for us; as when one was killed that was being replaced. */
  registering(): void {
    if (!this.#isOrphan || this.identityFile === undefined) return
    if (readIntroduction(this.identityFile)?.process.pid === process.pid) return
    this.log.info('another plugin process has our place: this one ends')
    process.exit(0)
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
