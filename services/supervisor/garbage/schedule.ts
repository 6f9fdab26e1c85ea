// When garbage is collected: soon after something was removed, but never so often that it takes more than its share of
// the time; at once when somebody waits. The settings are those of containerd's scheduler.

export interface ScheduleSettings {
  /** The share of the time that collections may take, at most 0.5; 0: one a second. */
  pauseThreshold: number
  /** After so many removals one is begun whatever it costs; 0: never. */
  deletionThreshold: number
  /** After so many changes there is one even though nothing was removed; 0: never. */
  mutationThreshold: number
  /** From the moment that one is asked for, or that the deletion threshold is reached. */
  scheduleDelayMs: number
  /** The first one; 0: when there is a reason. */
  startupDelayMs: number
}

export const scheduleDefaults: ScheduleSettings = {
  pauseThreshold: 0.02,
  deletionThreshold: 0,
  mutationThreshold: 100,
  scheduleDelayMs: 0,
  startupDelayMs: 100,
}

export interface Collected {
  /** How long it kept others from being decided. */
  pauseMs: number
  /** Settles when the files are gone as well. */
  removed: Promise<void>
}

interface Waiter {
  resolve(removed: Promise<void>): void
  reject(error: unknown): void
}

const pauseThresholdMax = 0.5
const firstIntervalMs = 1000
/** A timer takes no longer one. */
const timerMaxMs = 24 * 3600 * 1000

export class Schedule {
  private deletions = 0
  private mutations = 0
  private waiters: Waiter[] = []
  private intervalMs = firstIntervalMs
  private pausesMs = 0
  private collections = 0
  /** When the last one ended. */
  private lastMs: number
  private timer: NodeJS.Timeout | undefined
  private dueMs = Number.POSITIVE_INFINITY
  private running: Promise<void> | undefined
  private closed = false

  constructor(
    private readonly settings: ScheduleSettings,
    /** Must not reject for what may be left to the next one. */
    private readonly collect: () => Promise<Collected>,
  ) {
    const { startupDelayMs } = settings
    this.lastMs = performance.now() + startupDelayMs - firstIntervalMs
    if (startupDelayMs > 0) this.dueIn(startupDelayMs)
  }

  /** Something has changed; with `isDeletion` something may be garbage now. */
  mutated(isDeletion: boolean): void {
    this.mutations += 1
    if (isDeletion) this.deletions += 1
    this.arrange()
  }

  /** Resolves when a collection that began after this is over, its files removed. */
  wait(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.waiters.push({ resolve, reject })
      this.arrange()
    })
  }

  /** One is needed then, whatever happens until then. */
  dueIn(ms: number): void {
    if (this.closed) return
    const dueMs = performance.now() + Math.max(0, Math.min(ms, timerMaxMs))
    if (dueMs >= this.dueMs) return
    clearTimeout(this.timer)
    this.dueMs = dueMs
    this.timer = setTimeout(() => this.run(), dueMs - performance.now()).unref()
  }

  async close(): Promise<void> {
    this.closed = true
    clearTimeout(this.timer)
    for (const { reject } of this.waiters.splice(0)) reject(new Error('the supervisor ends'))
    await this.running
  }

  private arrange(): void {
    const { deletionThreshold, mutationThreshold, scheduleDelayMs } = this.settings
    if (this.running) return // it arranges the next one
    if (this.waiters.length > 0 || (deletionThreshold > 0 && this.deletions >= deletionThreshold)) {
      this.dueIn(scheduleDelayMs)
    } else if (this.deletions > 0 || (mutationThreshold > 0 && this.mutations >= mutationThreshold)) {
      this.dueIn(this.lastMs + this.intervalMs - performance.now())
    }
  }

  private run(): void {
    this.dueMs = Number.POSITIVE_INFINITY
    if (this.closed) return
    if (this.running) {
      void this.running.then(() => this.dueIn(0))
      return
    }
    this.deletions = 0
    this.mutations = 0
    const waiters = this.waiters.splice(0)
    this.running = this.collect()
      .then(
        ({ pauseMs, removed }) => {
          this.pausesMs += pauseMs
          this.collections += 1
          for (const { resolve } of waiters) resolve(removed)
        },
        error => {
          this.dueIn(firstIntervalMs)
          for (const { reject } of waiters) reject(error)
        },
      )
      .then(() => {
        const { pauseThreshold } = this.settings
        const average = this.pausesMs / Math.max(1, this.collections)
        const share = Math.min(pauseThreshold, pauseThresholdMax)
        if (share > 0) this.intervalMs = average / share - average
        this.lastMs = performance.now()
        this.running = undefined
        this.arrange()
      })
  }
}
