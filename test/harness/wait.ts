// Waiting with a deadline: for a promise, for a line, for a fact of the machine that has no event of its own.

/** What a harness resource needs of a test: a place to register its end. tap's `t` fits, so does a plain scope. */
export interface Scope {
  teardown(end: () => void | Promise<void>): unknown
  /** False once something failed: the end then shows logs. */
  passed?(): boolean
}

const atExit = new Set<() => void>()

/** Ties an end to a scope, and to this process' exit in case that comes before: a test may die without a teardown. */
export function endWith(scope: Scope, end: () => void): void {
  if (atExit.size === 0) process.on('exit', () => [...atExit].reverse().forEach(late => void late()))
  atExit.add(end)
  scope.teardown(() => {
    if (atExit.delete(end)) end()
  })
}

/** A scope for programs that are no test: ends what was opened, last first, and reports the first failure. */
export class OpenScope implements Scope {
  readonly #ends: (() => void | Promise<void>)[] = []

  teardown(end: () => void | Promise<void>): void {
    this.#ends.push(end)
  }

  async close(): Promise<void> {
    const failures: unknown[] = []
    for (let end = this.#ends.pop(); end !== undefined; end = this.#ends.pop()) {
      try {
        await end()
      } catch (error) {
        failures.push(error)
      }
    }
    if (failures.length > 0) throw failures[0]
  }
}

export class DeadlineError extends Error {
  constructor(what: string, timeoutMs: number) {
    super(`gave up after ${timeoutMs} ms waiting for ${what}`)
    this.name = 'DeadlineError'
  }
}

export async function withDeadline<T>(promise: Promise<T>, timeoutMs: number, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const expiry = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new DeadlineError(what, timeoutMs)), timeoutMs)
  })
  try {
    return await Promise.race([promise, expiry])
  } finally {
    clearTimeout(timer)
  }
}

/**
 * Asks until the answer is neither undefined nor false. For facts without an event: the process table, mounts,
 * another program's files. `what` completes the sentence "gave up waiting for …"; `detail` is asked when that happens.
 */
export async function until<T>(
  what: string,
  ask: () => T | undefined | false | Promise<T | undefined | false>,
  { timeoutMs = 10_000, intervalMs = 20, detail = noDetail } = {},
): Promise<T> {
  const expiry = performance.now() + timeoutMs
  for (;;) {
    const answer = await ask()
    if (answer !== undefined && answer !== false) return answer
    if (performance.now() > expiry) throw new DeadlineError(`${what}${detail()}`, timeoutMs)
    await pause(intervalMs)
  }
}

const noDetail = (): string => ''

export function pause(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms))
}

/** Items that arrive one after another, with the means to await one that is still to come. */
export class Arrivals<T> {
  readonly items: T[] = []
  #waiting: (() => void)[] = []
  readonly #listeners: ((item: T) => void)[] = []

  push(item: T): void {
    this.items.push(item)
    for (const listener of this.#listeners) listener(item)
    for (const wake of this.#waiting.splice(0)) wake()
  }

  /** Calls for every item, those that have arrived already included. */
  each(listener: (item: T) => void): void {
    for (const item of this.items) listener(item)
    this.#listeners.push(listener)
  }

  /** The first item at or after `from` that matches, whether it has arrived already or not. */
  async first(what: string, matches: (item: T) => boolean, { timeoutMs = 10_000, from = 0 } = {}): Promise<T> {
    const search = async (): Promise<T> => {
      for (let index = from; ; index++) {
        while (index >= this.items.length) await new Promise<void>(resolve => this.#waiting.push(resolve))
        const item = this.items[index]
        if (item !== undefined && matches(item)) return item
      }
    }
    return withDeadline(search(), timeoutMs, what)
  }
}
