// What is done with a journal's directory without a supervisor, for the command line: wiring only.
import { join } from 'node:path'
import { pino } from 'pino'
import { systemClock } from './clock.js'
import type { Settings } from './config.js'
import { lossStream } from './domain/streams.js'
import { realDisk } from './journal/disk.js'
import { openFileJournal } from './journal/fileLog.js'
import type { WrittenBy } from './journal/format.js'
import type { Entry, Sequence } from './journal/journal.js'
import { JournalLocked, lockDirectory, lockHolder } from './journal/lock.js'
import { exportLines, type Selection } from './journal/offline/export.js'
import { type Imported, importLines } from './journal/offline/import.js'
import { planRepair, type Repair, repair } from './journal/offline/repair.js'
import { type Stats, stats } from './journal/offline/stats.js'
import { type Survey, survey } from './journal/offline/survey.js'
import { type Compaction, Retention } from './retention.js'
import { Runner } from './runner.js'
import { encodeFact } from './state/codec.js'
import { HeavyParts } from './state/heavy.js'
import { Store } from './state/store.js'
import { versions } from './state/upcast.js'
import { program } from './version.js'

export type { Compaction, Imported, Repair, Selection, Stats, Survey }
export { JournalLocked }

export const journalDirectory = (root: string): string => join(root, 'journal')
export const writtenBy = (): WrittenBy => ({ program: program(), events: versions })

const looking = (dir: string) => ({ disk: realDisk, dir, inUse: lockHolder(dir) !== undefined, writtenBy: writtenBy() })

export const verifyJournal = (dir: string): Promise<Survey> => survey(looking(dir))
export const journalStats = (dir: string): Promise<Stats> => stats(looking(dir))
export const exportJournal = (dir: string, selection: Selection) => exportLines(looking(dir), selection)

export function importJournal(dir: string, lines: AsyncIterable<string>, keepId: boolean): Promise<Imported> {
  return importLines({ disk: realDisk, dir, lines, keepId, writtenBy: writtenBy() })
}

/** Without `write` it only tells what it would do. Rejects with JournalLocked while a supervisor runs. */
export async function repairJournal(dir: string, node: string, write: boolean): Promise<Repair> {
  const options = {
    ...{ disk: realDisk, dir, writtenBy: writtenBy(), lost: lostEntry, node },
    timeUnixNano: systemClock().now(),
  }
  const holder = lockHolder(dir)
  if (holder !== undefined) throw new JournalLocked(dir, holder)
  if (!write) return planRepair(options)
  const unlock = lockDirectory(dir)
  try {
    return await repair(options)
  } finally {
    unlock()
  }
}

/** What NATS has, a supervisor asks it; what one remembered may have been lost with the broker's disk since. */
export class RelayUnasked extends Error {
  constructor() {
    super('whether NATS has the old events, only a purserd that runs can ask it: nothing is dropped without it')
    this.name = 'RelayUnasked'
  }
}

/**
 * One pass of retention, then the state is written out. Rejects with JournalLocked while a supervisor runs, and with
 * RelayUnasked when events are relayed.
 */
export async function compactJournal({ root, node, nats, journal: settings }: Settings): Promise<Compaction> {
  const holder = lockHolder(journalDirectory(root))
  if (holder !== undefined) throw new JournalLocked(journalDirectory(root), holder)
  if (nats.server !== 'off') throw new RelayUnasked()
  const log = pino({ level: 'warn' }, pino.destination({ fd: 2, sync: true }))
  const journal = await openFileJournal({ dir: journalDirectory(root), node, log, writtenBy: writtenBy() })
  try {
    const store = await Store.open(journal, log)
    const clock = systemClock()
    const relayed = () => undefined
    const runner = new Runner(store, journal, clock)
    const heavy = new HeavyParts(journal)
    const retention = new Retention({ journal, store, runner, heavy, clock, policy: settings.keep, relayed, log })
    try {
      return await retention.run()
    } finally {
      await retention.close()
      await store.close()
    }
  } finally {
    await journal.close()
  }
}

function lostEntry(sequence: Sequence): Entry {
  const reason = `record ${sequence} could not be brought back`
  return encodeFact({ namespace: '', stream: lossStream, event: { type: 'RecordLost', reason }, ends: true })
}
