// The calls that handlers of this process are at work on; those among them that nobody waits for any more.

/** What there is to know of a call: grpc-js's own call objects have it. */
interface Call {
  /** The caller has cancelled it, or is gone. */
  readonly cancelled: boolean
}

export class CallsUnderWay {
  readonly #calls = new Set<Call>()
  readonly #waiting = new Set<() => void>()

  /** From now until what it answers is called. */
  begin(call: Call): () => void {
    this.#calls.add(call)
    return () => {
      this.#calls.delete(call)
      for (const look of this.#waiting) look()
    }
  }

  /** Resolves when no call is left whose caller is gone: true; or false when that takes longer. */
  abandonedOver(withinMs: number): Promise<boolean> {
    if (!this.#anyAbandoned()) return Promise.resolve(true)
    return new Promise(resolve => {
      const done = (over: boolean) => {
        clearTimeout(timer)
        this.#waiting.delete(look)
        resolve(over)
      }
      const look = () => void (this.#anyAbandoned() || done(true))
      const timer = setTimeout(() => done(false), withinMs)
      this.#waiting.add(look)
    })
  }

  #anyAbandoned(): boolean {
    return [...this.#calls].some(({ cancelled }) => cancelled)
  }
}

/** Those of this process, as `serve.ts` counts them. */
export const callsUnderWay = new CallsUnderWay()
