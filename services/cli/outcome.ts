// How a command ends: its exit status, and what happens when nobody reads its output any more.
import { status } from '@grpc/grpc-js'
import { CommanderError } from 'commander'

/** 1, and of sysexits(3) EX_USAGE and EX_UNAVAILABLE: a script can tell a wrong command line from a supervisor that is not there. */
const exitFailure = 1
const exitUsage = 64
const exitUnavailable = 69

/** A command line that cannot be followed; the message says what to write instead. */
export class UsageError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'UsageError'
  }
}

export function exitStatus(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : exitUsage
  if (error instanceof UsageError) return exitUsage
  return codeOf(error) === status.UNAVAILABLE ? exitUnavailable : exitFailure
}

/** The gRPC code of an error or of what caused it. */
export function codeOf(error: unknown): number | undefined {
  if (typeof error !== 'object' || error === null) return undefined
  if ('code' in error && typeof error.code === 'number') return error.code
  return 'cause' in error ? codeOf(error.cause) : undefined
}

/** `purser events | head`: who has read enough does not want to hear of it. */
export function quietOnBrokenPipe(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0)
    throw error
  })
}
