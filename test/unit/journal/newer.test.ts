// A journal that a later program wrote: refused with what wrote it and what to do, and not a byte of it is changed.
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import t from 'tap'
import { openFileJournal } from '../../../services/supervisor/journal/fileLog.js'
import type { WrittenBy } from '../../../services/supervisor/journal/format.js'
import { batch, directory, silent } from './batches.js'

const own = { program: 'purserd 1.0.0', events: { TaskStarted: 1, TaskExited: 2 } }
const options = { node: 'n', log: silent, reserveBytes: 0, preallocateBytes: 4096, markEveryMs: 0 }

/** Of all files below, their names and times included. */
function print(dir: string): string {
  const hash = createHash('sha256')
  for (const name of readdirSync(dir, { recursive: true, encoding: 'utf8' }).sort()) {
    const path = join(dir, name)
    const { mtimeMs, size, ino } = statSync(path)
    hash.update(`${name} ${mtimeMs} ${size} ${ino}\n`)
    if (statSync(path).isFile()) hash.update(readFileSync(path))
  }
  return hash.digest('hex')
}

const cases: { title: string; change(dir: string): Promise<void> | void; message: RegExp }[] = [
  {
    title: 'an event has a later version',
    change: dir => reopen(dir, { program: 'purserd 2.0.0', events: { ...own.events, TaskExited: 3 } }),
    message:
      /was written by purserd 2\.0\.0.*TaskExited up to version 2.*version 3.*nothing was changed. Start purserd 2\.0\.0 again/,
  },
  {
    title: 'there is an event of a type that is not known',
    change: dir => reopen(dir, { program: 'purserd 2.0.0', events: { ...own.events, TaskDreamt: 1 } }),
    message: /does not know events of type TaskDreamt/,
  },
  {
    title: 'a segment has a later format',
    change: dir => raise(join(dir, '00000000000000000001.log'), 0),
    message: /was written by purserd 1\.0\.0.*the format of its 0+1\.log is version 2, this program knows version 1/,
  },
  {
    title: 'the mark has a later format',
    change: dir => {
      for (const slot of [0, 4096]) raise(join(dir, 'mark'), slot)
    },
    message: /the format of its mark is version 2/,
  },
]

for (const { title, change, message } of cases)
  t.test(title, async t => {
    const dir = directory(t)
    const journal = await openFileJournal({ dir, ...options, writtenBy: own })
    await journal.append(batch(['a', 'b']))
    await journal.saveSnapshot({ sequence: 2n, state: Buffer.from('{}') })
    await journal.close()
    await change(dir)
    const before = print(dir)
    await t.rejects(openFileJournal({ dir, ...options, writtenBy: own }), { name: 'JournalNewer', message })
    t.equal(print(dir), before, 'nothing was touched')
  })

t.test('what wrote it last is remembered, and one that knows as much may go on', async t => {
  const dir = directory(t)
  await reopen(dir, { ...own, events: { TaskStarted: 1 } })
  await reopen(dir, own)
  await reopen(dir, { ...own, program: 'purserd 0.9.9' })
  t.match(readFileSync(join(dir, 'format'), 'utf8'), /"program":"purserd 0\.9\.9"/)
  await t.rejects(reopen(dir, { program: 'purserd 0.9.8', events: { TaskStarted: 1 } }), { name: 'JournalNewer' })
})

t.test('a damaged word about who wrote it stops nobody', async t => {
  const dir = directory(t)
  await reopen(dir, { program: 'purserd 1.0.0', events: { TaskStarted: 1 } })
  const path = join(dir, 'format')
  const whole = readFileSync(path)
  for (let bit = 0; bit < whole.length * 8; bit += 7) {
    const bytes = Buffer.from(whole)
    bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7))
    writeFileSync(path, bytes)
    await reopen(dir, { program: 'purserd 1.0.0', events: { TaskStarted: 1 } })
    if (!readFileSync(path).equals(whole)) t.fail(`bit ${bit} was not put right`)
  }
  t.pass('in each of its bytes')
})

async function reopen(dir: string, writtenBy: WrittenBy) {
  const journal = await openFileJournal({ dir, ...options, writtenBy })
  await journal.close()
}

/** To the next version of the format, with the checksum that belongs to it. */
function raise(path: string, at: number): void {
  const bytes = readFileSync(path)
  bytes.writeUInt32LE(2, at + 8)
  bytes.writeUInt32LE(crc32(bytes.subarray(at, at + 60)), at + 60)
  writeFileSync(path, bytes)
}
