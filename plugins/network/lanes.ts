// Who works when: one task at a time per key, a bounded number of keys at once.

export class Lanes {
  private readonly lanes = new Map<string, Promise<void>>()
  private readonly waiting: (() => void)[] = []
  private free: number

  constructor(width: number) {
    this.free = width
  }

  /** Runs the task after those that came before it with the same key, once there is room. */
  async run<T>(key: string, task: () => Promise<T>): Promise<T> {
    const before = this.lanes.get(key) ?? Promise.resolve()
    const mine = before.then(() => this.admitted(task))
    const settled = mine.then(
      () => undefined,
      () => undefined, // the caller gets it; who comes next doesn't care
    )
    this.lanes.set(key, settled)
    try {
      return await mine
    } finally {
      if (this.lanes.get(key) === settled) this.lanes.delete(key)
    }
  }

  /** Resolves once everything that has been asked for is done. */
  async idle(): Promise<void> {
    while (this.lanes.size > 0) await Promise.all(this.lanes.values())
  }

  private async admitted<T>(task: () => Promise<T>): Promise<T> {
    if (this.free > 0) this.free--
    else await new Promise<void>(resolve => this.waiting.push(resolve))
    try {
      return await task()
    } finally {
      const next = this.waiting.shift()
      if (next) next()
      else this.free++
    }
  }
}
