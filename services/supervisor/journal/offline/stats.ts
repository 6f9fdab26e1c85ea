// What a journal consists of: how many events of which kind, how large, how often, since when.
import type { Sequence } from '../journal.js'
import { type Survey, type SurveyOptions, survey } from './survey.js'

export interface Tally {
  events: number
  bytes: number
}

export interface Stats {
  journal: string | undefined
  first: Sequence
  last: Sequence
  records: number
  /** Nanoseconds since 1970; undefined when there is no record. */
  oldest: bigint | undefined
  newest: bigint | undefined
  byType: Map<string, Tally>
  byNamespace: Map<string, Tally>
  /** Bytes of records, and of those what heavy attachments take. */
  bytes: number
  attachmentBytes: number
  segments: { file: string; first: Sequence; last: Sequence; bytes: number }[]
  snapshots: Survey['snapshots']
  damaged: boolean
}

export async function stats(options: Omit<SurveyOptions, 'visit' | 'between'>): Promise<Stats> {
  const byType = new Map<string, Tally>()
  const byNamespace = new Map<string, Tally>()
  let [oldest, newest]: (bigint | undefined)[] = []
  let [total, attachmentBytes] = [0, 0]
  const seen = await survey({
    ...options,
    visit({ record, bytes }) {
      count(byType, record.type, bytes)
      count(byNamespace, record.namespace, bytes)
      total += bytes
      attachmentBytes += record.attachments.reduce((sum, { length }) => sum + length, 0)
      oldest ??= record.timeUnixNano
      newest = record.timeUnixNano
    },
  })
  const { journal, first, last, records, snapshots, damage } = seen
  const segments = seen.segments.map(({ path, first, last, size }) => ({ file: path, first, last, bytes: size }))
  const times = { oldest, newest, bytes: total, attachmentBytes }
  return {
    journal,
    first,
    last,
    records,
    ...times,
    byType,
    byNamespace,
    segments,
    snapshots,
    damaged: damage.length > 0,
  }
}

function count(tallies: Map<string, Tally>, name: string, bytes: number): void {
  const tally = tallies.get(name) ?? { events: 0, bytes: 0 }
  tallies.set(name, { events: tally.events + 1, bytes: tally.bytes + bytes })
}
