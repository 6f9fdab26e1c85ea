// A process that appends until it is killed, and tells on its standard output what has been acknowledged.
import pino from 'pino'
import { openFileJournal } from '../../../services/supervisor/journal/fileLog.js'
import { batch, entry } from '../../unit/journal/batches.js'

const [dir] = process.argv.slice(2)
if (dir) await appendForever(dir)

async function appendForever(dir: string): Promise<void> {
  const journal = await openFileJournal({
    dir,
    node: 'node-1',
    log: pino({ level: 'silent' }),
    segmentBytes: 256 * 1024,
    preallocateBytes: 32 * 1024,
    reserveBytes: 32 * 1024,
    markEveryMs: 20,
  })
  process.stdout.write('open\n')
  const write = async (stream: string) => {
    while (true) {
      const two = [entry(stream), entry(stream, { payload: Buffer.alloc(700, 'x') })]
      process.stdout.write(`${await journal.append(batch(two))}\n`)
    }
  }
  await Promise.all(Array.from({ length: 8 }, (_, index) => write(`writer/${index}`)))
}
