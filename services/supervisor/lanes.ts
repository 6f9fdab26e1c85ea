// One at a time by key: decisions on one lifecycle wait for each other, all others go on.

/** Runs `work` after everything earlier on the same lane has settled. Nothing slow belongs in a lane: no plugin call. */
export class Lanes {
  private readonly tails = new Map<string, Promise<void>>()

  async run<T>(key: string, work: () => Promise<T>): Promise<T> {
    const before = this.tails.get(key)
    const { promise: tail, resolve: release } = deferred()
    this.tails.set(key, tail)
    try {
      if (before) await before
      return await work()
    } finally {
      if (this.tails.get(key) === tail) this.tails.delete(key)
      release()
    }
  }
}

function deferred(): { promise: Promise<void>; resolve: () => void } {
  let resolve = (): void => {}
  const promise = new Promise<void>(settle => {
    resolve = settle
  })
  return { promise, resolve }
}
