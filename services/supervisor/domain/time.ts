// Times as text and as numbers, with nanoseconds throughout. Pure: nothing here asks a clock.
import type { Timestamp } from './values.js'

const nanosPerSecond = 1_000_000_000n

export interface Instant {
  /** Since 1970 UTC; Go's zero time is −62135596800. */
  seconds: bigint
  nanos: number
}

/** RFC 3339 with nine decimals, so that the text sorts as the time does. */
export function formatInstant({ seconds, nanos }: Instant): Timestamp {
  const toSecond = new Date(Number(seconds) * 1000).toISOString().slice(0, -5)
  return `${toSecond}.${String(nanos).padStart(9, '0')}Z`
}

export function formatNanos(sinceEpoch: bigint): Timestamp {
  return formatInstant(instantOf(sinceEpoch))
}

/** A time as RFC 3339 writes it, with any offset; undefined for '' and for anything else. */
export function parseTimestamp(text: string): Instant | undefined {
  const match = /^(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)$/.exec(text)
  if (!match) return undefined
  const [, day, time, fraction = '', offset = ''] = match
  const millis = Date.parse(`${day}T${time}${offset.toUpperCase()}`)
  if (Number.isNaN(millis)) return undefined
  return { seconds: BigInt(millis) / 1000n, nanos: Number(fraction.padEnd(9, '0')) }
}

export function instantOf(sinceEpoch: bigint): Instant {
  const nanos = ((sinceEpoch % nanosPerSecond) + nanosPerSecond) % nanosPerSecond
  return { seconds: (sinceEpoch - nanos) / nanosPerSecond, nanos: Number(nanos) }
}

/** The inverse of instantOf. */
export function nanosOf({ seconds, nanos }: Instant): bigint {
  return seconds * nanosPerSecond + BigInt(nanos)
}
