// Parts of the fold's work on one record: where its heavy parts lie, and what to say when history makes no sense.
import type { Parts } from '../domain/parts.js'
import type { HeavyAny } from '../domain/values.js'
import type { JournalRecord, Sequence } from '../journal/journal.js'

/** The journal holds an event that no rule allows where it stands: it was damaged, or written by a newer version. */
export class IllegalHistory extends Error {
  constructor(record: JournalRecord, problem: string) {
    super(`record ${record.sequence} (${record.type} of ${record.stream}): ${problem}`)
    this.name = 'IllegalHistory'
  }
}

/** Heavy parts that came with this record get its sequence as their place. */
export function placeParts<Record extends Parts>(record: Record, sequence: Sequence): Record {
  const place = (heavy: HeavyAny): HeavyAny =>
    heavy.sequence === '' ? { ...heavy, sequence: String(sequence) } : heavy
  return {
    ...record,
    spec: record.spec && place(record.spec),
    extensions: Object.fromEntries(Object.entries(record.extensions).map(([name, heavy]) => [name, place(heavy)])),
  }
}
