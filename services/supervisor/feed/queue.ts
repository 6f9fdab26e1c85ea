// What waits for one subscriber while it reads: bounded by number and by bytes.
import type { Happening } from './happening.js'

export interface QueueLimits {
  events: number
  bytes: number
}

export class Queue {
  private waiting: Happening[] = []
  /** Where in it the next one is; the places before are read. */
  private head = 0
  private bytes = 0

  constructor(private readonly limits: QueueLimits) {}

  /** False when there is no room. */
  put(happening: Happening): boolean {
    const full = this.waiting.length - this.head >= this.limits.events
    if (full || this.bytes + happening.bytes > this.limits.bytes) return false
    this.waiting.push(happening)
    this.bytes += happening.bytes
    return true
  }

  take(): Happening | undefined {
    const next = this.waiting[this.head]
    if (!next) return undefined
    this.head++
    this.bytes -= next.bytes
    if (this.head === this.waiting.length || this.head >= 512) {
      this.waiting = this.waiting.slice(this.head)
      this.head = 0
    }
    return next
  }

  clear(): void {
    this.waiting = []
    this.head = 0
    this.bytes = 0
  }
}
