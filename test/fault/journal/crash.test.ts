// Processes that die, and processes that come too many: what was acknowledged is there afterwards.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import t, { type Test } from 'tap'
import { openFileJournal } from '../../../services/supervisor/journal/fileLog.js'
import { JournalLocked } from '../../../services/supervisor/journal/lock.js'
import { batch, directory, readAll, silent } from '../../unit/journal/batches.js'

/** Below the project, so that the packages are found. Bundled because a TypeScript loader takes seconds to start. */
const appender = join(t.testdir(), 'appender.mjs')
await build({
  entryPoints: [fileURLToPath(new URL('./appender.ts', import.meta.url))],
  outfile: appender,
  bundle: true,
  packages: 'external',
  platform: 'node',
  format: 'esm',
})

const sizes = { segmentBytes: 256 * 1024, preallocateBytes: 32 * 1024, reserveBytes: 32 * 1024 }

function startAppender(t: Test, dir: string): { child: ChildProcess; lines: AsyncIterable<string> } {
  const child = spawn(process.execPath, [appender, dir], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  return { child, lines: createInterface({ input: child.stdout }) }
}

t.test('whatever was acknowledged before kill -9 is there, in whole batches, time and again', async t => {
  const dir = directory(t)
  for (const acknowledgements of [1, 40, 300, 1500]) {
    const { child, lines } = startAppender(t, dir)
    const exited = once(child, 'exit')
    let [heard, acknowledged] = [0, 0n]
    for await (const line of lines) {
      if (line === 'open') continue
      acknowledged = BigInt(line) > acknowledged ? BigInt(line) : acknowledged
      heard += 1
      if (heard === acknowledgements) child.kill('SIGKILL')
    }
    await exited
    const journal = await openFileJournal({ dir, node: 'node-1', log: silent, ...sizes })
    t.same(journal.health(), { writable: true })
    t.ok(journal.last() >= acknowledged, `${acknowledged} acknowledged, ${journal.last()} there`)
    t.equal(journal.last() % 2n, 0n, 'batches of two are whole')
    t.equal(BigInt((await readAll(journal)).length), journal.last())
    await journal.close()
  }
})

t.test('a second process is refused with the pid of the first, and may in after its death', async t => {
  const dir = directory(t)
  const { child, lines } = startAppender(t, dir)
  const exited = once(child, 'exit')
  for await (const _ of lines) break
  const second = openFileJournal({ dir, node: 'node-1', log: silent, ...sizes })
  await t.rejects(second, new JournalLocked(dir, child.pid))
  await t.rejects(second, { message: `the journal in ${dir} is in use by process ${child.pid}` })
  child.kill('SIGKILL')
  await exited
  const journal = await openFileJournal({ dir, node: 'node-1', log: silent, ...sizes })
  t.same(journal.health(), { writable: true })
  await journal.close()
})

t.test('within one process too a directory is opened once at a time', async t => {
  const dir = join(directory(t), 'journal')
  const options = { dir, node: 'node-1', log: silent, ...sizes }
  const journal = await openFileJournal(options)
  await t.rejects(openFileJournal(options), { name: 'JournalLocked', pid: process.pid })
  await journal.append(batch(['a']))
  await journal.close()
  const again = await openFileJournal(options)
  t.equal(again.last(), 1n)
  await again.close()
})
