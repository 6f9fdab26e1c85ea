// Turns by name: work on the same name waits, all other work goes on.

export class Lanes {
  readonly #tails = new Map<string, Promise<unknown>>()

  /** Runs `work` when everything that came earlier on any of these names is over. */
  async run<T>(names: readonly string[], work: () => Promise<T>): Promise<T> {
    // Joined to all lanes in one step: two calls cannot each wait for the other.
    const before = names.map(name => this.#tails.get(name))
    const mine = Promise.allSettled(before).then(work)
    const over = mine.then(noop, noop)
    for (const name of names) this.#tails.set(name, over)
    try {
      return await mine
    } finally {
      for (const name of names) if (this.#tails.get(name) === over) this.#tails.delete(name)
    }
  }
}

const noop = () => {}
