// Times as people write and read them.
import type { Timestamp } from '../../proto/gen/google/protobuf/timestamp.js'
import { UsageError } from './outcome.js'

/** A moment of the journal. */
export type Moment = { $case: 'sequence'; value: bigint } | { $case: 'time'; value: Timestamp }

const secondsOf = { s: 1n, m: 60n, h: 3600n, d: 86_400n } as const
const sequenceMax = (1n << 64n) - 1n

/** "1234" is a sequence; "2026-11-25T16:00:00Z" and "15m" (ago) are times. */
export function parseMoment(text: string, now = Date.now()): Moment {
  if (/^\d+$/.test(text) && BigInt(text) <= sequenceMax) return { $case: 'sequence', value: BigInt(text) }
  const ago = /^(\d{1,9})([smhd])$/.exec(text)
  if (ago?.[1] && isUnit(ago[2])) {
    const value = timestamp(now)
    return { $case: 'time', value: { ...value, seconds: value.seconds - BigInt(ago[1]) * secondsOf[ago[2]] } }
  }
  const match = /^(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)?$/.exec(text)
  const [, day, time, fraction = '', offset = ''] = match ?? []
  const millis = Date.parse(`${day}T${time}${offset.toUpperCase()}`)
  if (!match || Number.isNaN(millis))
    throw new UsageError(`"${text}" is no moment: write a sequence, a time like 2026-11-25T16:00:00Z, or 15m (ago)`)
  return { $case: 'time', value: { ...timestamp(millis), nanos: Number(fraction.padEnd(9, '0')) } }
}

const isUnit = (text: string | undefined): text is keyof typeof secondsOf => text !== undefined && text in secondsOf

const timestamp = (millis: number): Timestamp => ({
  seconds: BigInt(Math.floor(millis / 1000)),
  nanos: (((millis % 1000) + 1000) % 1000) * 1_000_000,
})

/** RFC 3339, UTC, with as many decimals as asked for; '' for none. */
export function formatTime(time: Timestamp | undefined, decimals = 9): string {
  if (!time) return ''
  const toSecond = new Date(Number(time.seconds) * 1000).toISOString().slice(0, -5)
  const fraction = String(time.nanos).padStart(9, '0').slice(0, decimals)
  return `${toSecond}${fraction && `.${fraction}`}Z`
}

/** "3m" from one time to a later one; '-' when either is not known. */
export function between(from: Timestamp | undefined, to: Timestamp | undefined): string {
  if (!from || !to) return '-'
  const seconds = secondsBetween(from, to)
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)}s`
  if (seconds < 120) return `${Math.floor(seconds)}s`
  if (seconds < 7200) return `${Math.floor(seconds / 60)}m`
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)}h`
  return `${Math.floor(seconds / 86_400)}d`
}

export function secondsBetween(from: Timestamp, to: Timestamp): number {
  return Number(to.seconds - from.seconds) + (to.nanos - from.nanos) / 1e9
}

export const nowTimestamp = (): Timestamp => timestamp(Date.now())
