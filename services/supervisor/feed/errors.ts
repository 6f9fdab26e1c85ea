// Why the feed cannot tell what it is asked for, and what to do about it. The code is the caller's to branch on.
import { Metadata } from '@grpc/grpc-js'
import { Code, outOfRange, StatusError, unavailable } from '../../../plugins/kit/errors.js'
import { type Journal, JournalUnavailable, type Sequence } from '../journal/journal.js'
import { JournalDamaged } from '../journal/reader.js'

/** Metadata of requests, answers and failures. */
export const keys = {
  /** Where to begin: the last sequence that the client has, or a time. */
  since: 'purser-since',
  /** Which journal sequences belong to. */
  journal: 'purser-journal',
  /** The last sequence that was told: to go on, send it as `purser-since`. */
  sequence: 'purser-sequence',
} as const

export const dropped = (first: Sequence): StatusError =>
  outOfRange(
    `events before sequence ${first} are no longer kept: the first that is kept is ${first}; begin with ${keys.since} ${first - 1n}, or with 0 for all that is kept, and look at the present state`,
  )

export const ahead = (sequence: Sequence, journal: Pick<Journal, 'id' | 'last'>): StatusError =>
  outOfRange(
    `sequence ${sequence} is ahead of journal ${journal.id}, which ends at ${journal.last()}: it is of another journal, or still to come; begin anew with 0, or give one up to there`,
  )

export const tooEarly = (sequence: Sequence, earliest: Sequence | undefined): StatusError =>
  outOfRange(
    `the state at sequence ${sequence} is no longer known: ${earliest === undefined ? 'no earlier one is' : `the earliest that is, is that at ${earliest}`}`,
  )

/** A reading of the journal failed at `next`: what that means to who asked. */
export function unreadable(journal: Pick<Journal, 'first'>, next: Sequence, error: unknown): unknown {
  if (error instanceof JournalUnavailable && error.reason === 'closed') return stopping()
  if (error instanceof JournalDamaged) {
    const advice = `restore that file from a backup, or begin after the damage; up to sequence ${next - 1n} all was told`
    return new StatusError(Code.DATA_LOSS, `${error.message}; ${advice}`, { cause: error })
  }
  return error instanceof RangeError && next < journal.first() ? dropped(journal.first()) : error
}

export const stopping = (): StatusError => unavailable('the supervisor stops: subscribe again when it is back')

export const tooSlow = (next: Sequence): StatusError =>
  new StatusError(
    Code.RESOURCE_EXHAUSTED,
    `nothing was read from this subscription for too long: subscribe again with the metadata ${keys.since} ${next - 1n} to go on from there`,
  )

/** A failure that says how far the subscriber was told. */
export function withSequence(error: StatusError, next: Sequence): StatusError {
  error.metadata ??= new Metadata()
  error.metadata.set(keys.sequence, String(next - 1n))
  return error
}
