// The journal as an endless stream: what is in its files first, then what becomes durable, without gap or repeat.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Journal, JournalRecord, Sequence } from '../journal/journal.js'

/** What is asked of the journal. */
export type Source = Pick<Journal, 'id' | 'first' | 'last' | 'read' | 'onDurable'>

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

/** Records that are handed over together. */
const batchMax = 64
/** How long the first one waits for others. A container starts in some 80 ms, with a dozen events. */
const gatherMs = 20

/**
 * Yields the records from `from` on, in order and several at a time, until `signal` aborts.
 * Throws RecordsDropped when the journal's retention was faster than the reader.
 */
export async function* follow(journal: Source, from: Sequence, signal: AbortSignal): AsyncGenerator<JournalRecord[]> {
  let next = from
  let wake = () => {}
  const ring = () => wake()
  const stopListening = journal.onDurable(ring)
  signal.addEventListener('abort', ring)
  try {
    while (!signal.aborted) {
      if (journal.last() < next) {
        await new Promise<void>(resolve => {
          wake = resolve
        })
        // What follows shortly goes along: one write to the broker instead of one for each event of a starting container.
        await sleep(gatherMs, undefined, { signal }).catch(() => {})
        continue
      }
      if (journal.first() > next) throw new RecordsDropped(next, journal.first())
      const before = next
      for await (const batch of batches(journal.read(next))) {
        yield batch
        if (signal.aborted) return
        next += BigInt(batch.length)
      }
      if (next === before) throw new Error(`the journal says that it has event ${next}, but does not give it`)
    }
  } finally {
    signal.removeEventListener('abort', ring)
    stopListening()
  }
}

async function* batches(records: AsyncIterable<JournalRecord>): AsyncGenerator<JournalRecord[]> {
  let batch: JournalRecord[] = []
  for await (const record of records) {
    batch.push(record)
    if (batch.length < batchMax) continue
    yield batch
    batch = []
  }
  if (batch.length > 0) yield batch
}
