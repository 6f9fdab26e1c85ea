// purser.journal.v1.Journal: what an operator asks of the journal while the supervisor runs.
import { unary } from '../../../plugins/kit/serve.js'
import type { JournalServer } from '../../../proto/gen/purser/journal/v1/journal.js'
import type { Compaction } from '../retention.js'

export interface JournalDeps {
  /** One pass of retention. */
  compact(): Promise<Compaction>
}

export function journalService({ compact }: JournalDeps): JournalServer {
  return {
    compact: unary(async () => {
      const { first, droppedSegments, droppedEvents, moved, heldBy } = await compact()
      return {
        first,
        droppedSegments: BigInt(droppedSegments),
        droppedEvents,
        movedContainers: BigInt(moved),
        heldBy,
      }
    }),
  }
}
