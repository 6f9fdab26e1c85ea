// purser.journal.v1.Journal: what an operator asks of the journal while the supervisor runs.
import { unary } from '../../../plugins/kit/serve.js'
import type { JournalServer } from '../../../proto/gen/purser/journal/v1/journal.js'
import { acceptLoss } from '../domain/loss/decide.js'
import { lossStream } from '../domain/streams.js'
import type { Orphans } from '../effects/recovery/orphans.js'
import { type Journal, JournalUnavailable } from '../journal/journal.js'
import { unavailable } from '../journal/trouble.js'
import type { Compaction } from '../retention.js'
import { type Runner, unavailableStatus } from '../runner.js'
import { missing } from '../state/losses.js'
import type { Store } from '../state/store.js'
import { causeOf } from './call.js'

export interface JournalDeps {
  runner: Runner
  store: Store
  journal: Pick<Journal, 'health'>
  /** One pass of retention. */
  compact(): Promise<Compaction>
  /** What the plugins hold and the journal does not know. */
  orphans(): Promise<Orphans>
}

export function journalService({ runner, store, journal, compact, orphans }: JournalDeps): JournalServer {
  return {
    compact: unary(async () => {
      const { first, droppedSegments, droppedEvents, moved, heldBy } = await compact().catch(explain)
      return {
        first,
        droppedSegments: BigInt(droppedSegments),
        droppedEvents,
        movedContainers: BigInt(moved),
        heldBy,
      }
    }),

    accept: unary(async ({ write }, context) => {
      const health = journal.health()
      if (!health.writable) throw unavailableStatus(unavailable(health)) // of a damaged journal nobody knows yet what is lost
      const lostEvents = BigInt(missing(store.world.lost))
      if (lostEvents === 0n) return { lostEvents, orphans: [], unasked: [] }
      const { found, unasked } = await orphans()
      // What is removed follows from the fact: `reconcile.ts` compares everything once more.
      if (write)
        await runner.complete(causeOf(context, 'Journal/Accept'), lossStream, world => acceptLoss(missing(world.lost)))
      return { lostEvents, orphans: found, unasked }
    }),
  }
}

function explain(error: unknown): never {
  throw error instanceof JournalUnavailable ? unavailableStatus(error) : error
}
