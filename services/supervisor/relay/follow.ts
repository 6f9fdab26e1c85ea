// The journal as an endless stream: what is in its files first, then what becomes durable, without gap or repeat.
import type { Journal, JournalRecord, Sequence } from '../journal/journal.js'

/** Fresh records that are kept in memory, so that a reader who keeps up never goes back to the files. */
const freshMax = 512

/** Records that the journal dropped before they could be read: `first` is the oldest it still has. */
export class RecordsDropped extends Error {
  constructor(
    readonly wanted: Sequence,
    readonly first: Sequence,
  ) {
    super(`the journal no longer has the events ${wanted} to ${first - 1n}`)
    this.name = 'RecordsDropped'
  }
}

/**
 * Yields the records from `from` on, in order, until `signal` aborts.
 * Throws RecordsDropped when the journal's retention was faster than the reader.
 */
export async function* follow(journal: Journal, from: Sequence, signal: AbortSignal): AsyncGenerator<JournalRecord> {
  let next = from
  let fresh: JournalRecord[] = []
  let wake: (() => void) | undefined
  const ring = () => wake?.()
  const stopListening = journal.onDurable(records => {
    fresh.push(...records)
    if (fresh.length > freshMax) fresh = fresh.slice(-freshMax)
    ring()
  })
  signal.addEventListener('abort', ring)
  try {
    while (!signal.aborted) {
      const waiting = takeFrom(fresh, next)
      fresh = []
      for (const record of waiting) {
        yield record
        if (signal.aborted) return
        next = record.sequence + 1n
      }
      if (waiting.length > 0) continue
      if (journal.last() < next) {
        await new Promise<void>(resolve => {
          wake = resolve
          if (signal.aborted || fresh.length > 0) resolve()
        })
        wake = undefined
        continue
      }
      if (journal.first() > next) throw new RecordsDropped(next, journal.first())
      const before = next
      for await (const record of journal.read(next)) {
        yield record
        if (signal.aborted) return
        next = record.sequence + 1n
      }
      if (next === before) throw new Error(`the journal says it has event ${next} but does not give it`)
    }
  } finally {
    signal.removeEventListener('abort', ring)
    stopListening()
  }
}

/** The records from `next` on, if the batch holds `next` itself; otherwise they have to come from the files. */
function takeFrom(records: JournalRecord[], next: Sequence): JournalRecord[] {
  const first = records[0]
  if (first === undefined || first.sequence > next) return []
  return records.slice(Number(next - first.sequence))
}
