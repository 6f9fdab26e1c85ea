// Under whose name process managers record their answers.
import type { Cause, Intent } from '../runner.js'

/** The answer to an intent: caused by it, and part of the same request. */
export function answerTo(intent: Intent): Cause {
  return {
    actor: { uid: 0, gid: 0, pid: process.pid, name: 'supervisor' },
    causation: `#${intent.sequence}`,
    correlation: intent.cause.correlation,
  }
}

/** Work that nobody asked for: recovery, a plugin's report. */
export function ownCause(reason: string, actor = 'supervisor'): Cause {
  return { actor: { uid: 0, gid: 0, pid: process.pid, name: actor }, causation: reason, correlation: '' }
}

export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))
