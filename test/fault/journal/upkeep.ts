// A process that drops old segments, or repairs; a failpoint ends it in the middle.
import pino from 'pino'
import { realDisk } from '../../../services/supervisor/journal/disk.js'
import { openFileJournal } from '../../../services/supervisor/journal/fileLog.js'
import { repair } from '../../../services/supervisor/journal/offline/repair.js'
import { repairing } from './repairing.js'

const [task, dir] = process.argv.slice(2)
if (dir && task === 'drop') await drop(dir)
if (dir && task === 'repair') await repair(repairing(dir, realDisk))

async function drop(dir: string): Promise<void> {
  const journal = await openFileJournal({ dir, node: 'n', log: pino({ level: 'silent' }), reserveBytes: 0 })
  await journal.dropBefore(journal.last())
  await journal.close()
}
