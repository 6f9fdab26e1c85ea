// Lets only so many work at once, and those that hang not keep the others from it.

export class Gate {
  #free: number
  readonly #waiting: (() => void)[] = []

  /**
   * What takes longer than `patienceMs` goes on without its place: a few that hang must not stop all others.
   */
  constructor(
    places: number,
    readonly patienceMs: number,
  ) {
    this.#free = places
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free -= 1
    else await new Promise<void>(resolve => this.#waiting.push(resolve)) // a leaver's place is handed on
    let left = false
    const leave = () => {
      if (left) return
      left = true
      const next = this.#waiting.shift()
      if (next) next()
      else this.#free += 1
    }
    const timer = setTimeout(leave, this.patienceMs)
    try {
      return await work()
    } finally {
      clearTimeout(timer)
      leave()
    }
  }
}
