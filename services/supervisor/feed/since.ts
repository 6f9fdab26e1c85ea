// Where a subscription begins: behind a sequence, or at a time.
import { invalidArgument } from '../../../plugins/kit/errors.js'
import { nanosOf, parseTimestamp } from '../domain/time.js'
import type { Journal, JournalRecord, Sequence } from '../journal/journal.js'
import { ahead, dropped } from './errors.js'

export type Since =
  /** Behind this one, which is the last that the client has. 0: all that is kept. */
  | { sequence: Sequence }
  /** With the first event at or behind this time, in nanoseconds since 1970 UTC. */
  | { timeUnixNano: bigint }

const sequenceMax = (1n << 64n) - 1n

/** "1234", or "2026-11-25T16:00:00.5+01:00". `name` is what the caller called it. */
export function parseSince(text: string, name: string): Since {
  if (/^\d{1,20}$/.test(text) && BigInt(text) <= sequenceMax) return { sequence: BigInt(text) }
  const time = parseTimestamp(text)
  if (time) return { timeUnixNano: nanosOf(time) }
  throw invalidArgument(
    `${name} ${JSON.stringify(text.slice(0, 100))}: give the sequence of the last event that you have, 0 for all, or a time like 2026-11-25T16:00:00Z`,
  )
}

type Readable = Pick<Journal, 'id' | 'first' | 'last' | 'read'>

/** The first record that is to be told. */
export async function firstSince(journal: Readable, since: Since): Promise<Sequence> {
  if ('timeUnixNano' in since) return firstAt(journal, since.timeUnixNano)
  const { sequence } = since
  if (sequence > journal.last()) throw ahead(sequence, journal)
  if (sequence === 0n) return journal.first()
  if (sequence + 1n < journal.first()) throw dropped(journal.first())
  return sequence + 1n
}

/** By halves: times go up with the sequences, unless somebody set the clock back. */
export async function firstAt(journal: Readable, timeUnixNano: bigint): Promise<Sequence> {
  let [low, high] = [journal.first(), journal.last() + 1n]
  while (low < high) {
    const middle = (low + high) / 2n
    const record = await recordAt(journal, middle)
    // One that was dropped meanwhile lies before all that is kept.
    if (record && record.timeUnixNano >= timeUnixNano) high = middle
    else low = middle + 1n
  }
  return low
}

/** undefined for one that is no longer kept or not there yet. */
export async function recordAt(journal: Readable, sequence: Sequence): Promise<JournalRecord | undefined> {
  if (sequence < journal.first() || sequence > journal.last()) return undefined
  for await (const record of journal.read(sequence)) return record
  return undefined
}
