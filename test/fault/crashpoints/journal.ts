// The journal of a supervisor that was ended again and again, read from its first record to its last.
import { pino } from 'pino'
import { openFileJournal } from '../../../services/supervisor/journal/fileLog.js'
import { Store } from '../../../services/supervisor/state/store.js'

/** Answers what is wrong, a line each. A history that no machine allows, such as an exit told twice, is thrown by the fold. */
export async function auditJournal(dir: string): Promise<string[]> {
  const log = pino({ level: 'silent' })
  const journal = await openFileJournal({ dir, node: 'test', log })
  try {
    const wrong: string[] = []
    const health = journal.health()
    if (!health.writable) wrong.push(health.message)
    let next = journal.first()
    for await (const { sequence } of journal.read(0n)) {
      if (sequence !== next) wrong.push(`record ${sequence} where ${next} should be`)
      next = sequence + 1n
    }
    if (next !== journal.last() + 1n) wrong.push(`it ends with ${next - 1n}, not with ${journal.last()}`)
    const store = await Store.open(journal, log)
    for (const [namespace, { containers, tasks, networks, execs }] of store.world.namespaces)
      for (const [what, things] of Object.entries({ containers, tasks, networks, execs }))
        for (const id of things.keys()) wrong.push(`${what} still has ${namespace}/${id}`)
    return wrong
  } finally {
    await journal.close()
  }
}
