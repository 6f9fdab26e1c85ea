// What the bundle has in place of Node's timers and clocks.
import type { Entry } from '../time.js'
import { outside } from './current.js'

class Timer {
  entry: Entry | undefined

  constructor(readonly run: () => void) {}

  unref(): this {
    return this
  }

  ref(): this {
    return this
  }
}

export function setTimeout(run: (...args: unknown[]) => void, milliseconds = 0, ...args: unknown[]): Timer {
  const { time } = outside
  const timer = new Timer(() => run(...args))
  timer.entry = time.after(milliseconds * 1000, time.party, 'timer', timer.run)
  return timer
}

export function setInterval(run: () => void, milliseconds: number): Timer {
  const { time } = outside
  const { party } = time
  const timer = new Timer(() => {
    run()
    if (timer.entry?.cancelled) return
    timer.entry = time.after(milliseconds * 1000, party, 'interval', timer.run)
  })
  timer.entry = time.after(milliseconds * 1000, party, 'interval', timer.run)
  return timer
}

export function setImmediate(run: (...args: unknown[]) => void, ...args: unknown[]): Timer {
  return setTimeout(run, 0, ...args)
}

export function clearTimeout(timer: Timer | undefined): void {
  if (timer?.entry) timer.entry.cancelled = true
}

export const clearInterval = clearTimeout
export const clearImmediate = clearTimeout

export const simulatedNow = (): number => outside.time.milliseconds()
export const simulatedMilliseconds = (): number => outside.time.now / 1000
export const simulatedNanoseconds = (): bigint => BigInt(outside.time.now) * 1000n
export const simulatedChance = (): number => outside.chance.next()

export function simulatedAbort(milliseconds: number): AbortSignal {
  const aborter = new AbortController()
  setTimeout(() => aborter.abort(new Error('it took too long')), milliseconds)
  return aborter.signal
}

/** Node keeps a composite signal that is listened to from being collected, which a life that was cut off never ends. */
export function simulatedAny(signals: readonly AbortSignal[]): AbortSignal {
  const aborter = new AbortController()
  // Once it has aborted it listens no more: one that lives on would otherwise gather a listener for each that was made.
  const over = new AbortController()
  const abort = ({ reason }: AbortSignal) => {
    over.abort()
    aborter.abort(reason)
  }
  for (const signal of signals) {
    if (signal.aborted) abort(signal)
    else signal.addEventListener('abort', () => abort(signal), { once: true, signal: over.signal })
  }
  return aborter.signal
}
