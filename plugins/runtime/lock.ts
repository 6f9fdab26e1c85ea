// One runtime plugin per state directory: a second one would take the other's unfinished creations for leftovers.
import { closeSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { tryLock } from '../kit/linux.js'

export interface StateLock {
  release(): void
}

/** A predecessor that is being replaced gets this long to finish what it does. */
const predecessorMs = 30_000

/** The kernel lets go of it when the process ends, however it ends. */
export async function lockState(state: string, signal: AbortSignal): Promise<StateLock> {
  const path = join(state, 'runtime.lock')
  const fd = openSync(path, 'w', 0o600)
  const release = () => closeSync(fd)
  const expiry = performance.now() + predecessorMs
  while (!tryLock(fd)) {
    if (!signal.aborted && performance.now() < expiry) {
      await pause(50)
      continue
    }
    release()
    throw new Error(`${path} is held by another runtime plugin: stop that one, or give this one a state of its own`)
  }
  return { release }
}
