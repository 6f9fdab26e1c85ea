// Who comes back after a restart and can't say what it has: it is told what was recorded since the restart began.
import type { Journal } from '../journal/journal.js'
import type { Since } from './since.js'

/**
 * dockerd learns of exits from its subscription alone, and subscribes anew up to some seconds after we serve: gRPC lets
 * it wait longer from try to try. Exits of that time, those above all that recovery finds, it would never hear of.
 */
export const returningMs = 15_000

/** Asked with each subscription that says nothing of where it begins. Made before anything is recorded. */
export function returning(
  journal: Pick<Journal, 'first' | 'last'>,
  steadyMs = () => performance.now(),
): () => Since | undefined {
  const [sequence, began] = [journal.last(), steadyMs()]
  // Nobody returns to what has never been there.
  const isRestart = sequence > 0n
  return () => {
    const isKept = sequence + 1n >= journal.first()
    return isRestart && isKept && steadyMs() - began < returningMs ? { sequence } : undefined
  }
}
