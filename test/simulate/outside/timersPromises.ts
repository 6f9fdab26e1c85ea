// What the bundle has in place of node:timers/promises.
import { clearTimeout, setTimeout as later } from './globals.js'

export function setTimeout<T>(
  milliseconds: number,
  value?: T,
  { signal }: { signal?: AbortSignal; ref?: boolean } = {},
): Promise<T | undefined> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason)
    const aborted = () => {
      clearTimeout(timer)
      reject(signal?.reason)
    }
    const timer = later(() => {
      signal?.removeEventListener('abort', aborted)
      resolve(value)
    }, milliseconds)
    signal?.addEventListener('abort', aborted, { once: true })
  })
}

export const setImmediate = (): Promise<unknown> => setTimeout(0)
