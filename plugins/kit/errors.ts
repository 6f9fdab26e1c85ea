// The one error that crosses process borders: a gRPC code and a sentence that says what to do.
import { type Metadata, status } from '@grpc/grpc-js'

/** gRPC status codes by name, as containerd's clients branch on them. */
export const Code = status
export type Code = status

/**
 * A failure that the caller is meant to see. grpc-js sends `code` and `details` of whatever a handler fails with, so
 * throwing one of these from a handler is enough.
 */
export class StatusError extends Error {
  readonly details: string
  /** Sent along, as trailers. */
  metadata?: Metadata

  constructor(
    readonly code: Code,
    message: string,
    options?: { cause?: unknown },
  ) {
    super(message, options)
    this.name = 'StatusError'
    this.details = message
  }
}

// The text ends as containerd's does ("…: not found"), because people and scripts grep for it.
export const notFound = (what: string) => new StatusError(Code.NOT_FOUND, `${what}: not found`)
export const alreadyExists = (what: string) => new StatusError(Code.ALREADY_EXISTS, `${what}: already exists`)
export const invalidArgument = (what: string) => new StatusError(Code.INVALID_ARGUMENT, `${what}: invalid argument`)
export const failedPrecondition = (what: string) =>
  new StatusError(Code.FAILED_PRECONDITION, `${what}: failed precondition`)
export const unavailable = (what: string) => new StatusError(Code.UNAVAILABLE, `${what}: unavailable`)
export const unimplemented = (what: string) => new StatusError(Code.UNIMPLEMENTED, `${what}: not implemented`)
export const outOfRange = (what: string) => new StatusError(Code.OUT_OF_RANGE, `${what}: out of range`)
export const aborted = (what: string) => new StatusError(Code.ABORTED, what)
/** A failure of something outside, in its own words. */
export const unknown = (what: string, cause?: unknown) => new StatusError(Code.UNKNOWN, what, { cause })

/** What any thrown value means to a peer; anything unforeseen is INTERNAL with its own message. */
export function toStatusError(error: unknown): StatusError {
  if (error instanceof StatusError) return error
  if (isServiceError(error)) return new StatusError(error.code, error.details, { cause: error })
  const message = error instanceof Error ? error.message : String(error)
  if (isDiskFull(error))
    return new StatusError(Code.RESOURCE_EXHAUSTED, `${message}: make room on the disk, then try again`, {
      cause: error,
    })
  return new StatusError(Code.INTERNAL, message, { cause: error })
}

/** The system's word for no room: on the disk, or within a quota. */
export function isDiskFull(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOSPC' || error.code === 'EDQUOT')
}

/** An error of a grpc-js client call. */
function isServiceError(error: unknown): error is { code: Code; details: string } {
  if (typeof error !== 'object' || error === null) return false
  return 'code' in error && typeof error.code === 'number' && 'details' in error && typeof error.details === 'string'
}
