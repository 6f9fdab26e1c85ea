// One at a time by key: work on the same thing waits, all other work goes on.

export class Lanes {
  private readonly tails = new Map<string, Promise<void>>()

  /**
   * Runs `work` after everything earlier on the same lane, or on any of several, has settled; at once, before this
   * returns, when there is nothing.
   */
  async run<T>(keys: string | readonly string[], work: () => Promise<T>): Promise<T> {
    const lanes = typeof keys === 'string' ? [keys] : keys
    const before = lanes.flatMap(lane => this.tails.get(lane) ?? [])
    const { promise: tail, resolve: release } = deferred()
    // Joined to all of them in one step: two that want the same ones cannot each wait for the other.
    for (const lane of lanes) this.tails.set(lane, tail)
    try {
      if (before.length > 0) await Promise.all(before)
      return await work()
    } finally {
      for (const lane of lanes) if (this.tails.get(lane) === tail) this.tails.delete(lane)
      release()
    }
  }

  /** Resolves once everything that has been asked for has settled. */
  async idle(): Promise<void> {
    while (this.tails.size > 0) await Promise.all(this.tails.values())
  }
}

function deferred(): { promise: Promise<void>; resolve: () => void } {
  let resolve = (): void => {}
  const promise = new Promise<void>(settle => {
    resolve = settle
  })
  return { promise, resolve }
}
