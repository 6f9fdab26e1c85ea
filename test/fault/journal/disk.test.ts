// A disk that is full, or fails: nothing half applied, a clear reason, and back to work as soon as that is safe.
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { realDisk } from '../../../services/supervisor/journal/disk.js'
import { openFileJournal } from '../../../services/supervisor/journal/fileLog.js'
import type { Batch, Journal } from '../../../services/supervisor/journal/journal.js'
import type { FileJournalOptions } from '../../../services/supervisor/journal/settings.js'
import {
  batch,
  directory,
  entry,
  expecting,
  readAll,
  recordingLogger,
  sequences,
  silent,
  streams,
} from '../../unit/journal/batches.js'
import { faultyDisk, type Operation, type Outcome, systemError } from './disks.js'

const sizes = { segmentBytes: 64 * 1024, preallocateBytes: 8192, reserveBytes: 65_536 }

interface Rig {
  dir: string
  journal: Journal
  /** Decides from now on how operations on the journal's segments end. */
  fail(outcome: (operation: Operation) => Outcome): void
  reopen(): Promise<Journal>
}

/** A journal with three durable records, on a real disk that fails on demand. */
async function rig(t: Test, more: Partial<FileJournalOptions> = {}): Promise<Rig> {
  const dir = directory(t)
  let outcome: (operation: Operation) => Outcome = () => undefined
  const disk = faultyDisk(realDisk, operation => (operation.path.includes('.log') ? outcome(operation) : undefined))
  const open = () =>
    openFileJournal({ dir, node: 'node-1', log: silent, disk, healEveryMs: 1_000_000, ...sizes, ...more })
  const journal = await open()
  t.teardown(() => journal.close())
  await journal.append(batch(['a', 'b', 'c']))
  return {
    dir,
    journal,
    fail: decide => {
      outcome = decide
    },
    reopen: async () => {
      outcome = () => undefined
      await journal.close()
      const again = await open()
      t.teardown(() => again.close())
      return again
    },
  }
}

const reasonOf = (appended: Promise<unknown>) =>
  appended.then(
    () => 'durable',
    error => error.reason ?? error.name,
  )

const big = (stream: string, more: Partial<Batch> = {}) =>
  batch([entry(stream, { payload: Buffer.alloc(20_000, 'x') })], more)

t.test('an error while writing refuses the whole flush, and nothing is written any more', async t => {
  for (const code of ['EIO', 'ENXIO']) {
    const { journal, fail, reopen } = await rig(t)
    fail(({ kind }) => (kind === 'write' ? systemError(code) : undefined))
    const flush = [journal.append(batch(['d', 'e'])), journal.append(batch(['f'], { mayUseReserve: true }))]
    t.same(await Promise.all(flush.map(reasonOf)), ['failed', 'failed'])
    t.match(journal.health(), { writable: false, reason: 'failed', message: code, advice: /restart purserd/ })
    fail(() => undefined)
    t.equal(await reasonOf(journal.append(batch(['g']))), 'failed', 'not even when the disk works again')
    t.same(streams(await readAll(journal)), ['a', 'b', 'c'], 'reading goes on')
    const again = await reopen()
    t.same(streams(await readAll(again)), ['a', 'b', 'c'])
    t.equal(await again.append(batch(['g'], expecting({ g: 0n, d: 0n }))), 4n)
  }
})

t.test('a write that comes through in part is cut back, and the journal goes on', async t => {
  for (const taken of [0, 1, 100, 700]) {
    const { dir, journal, fail, reopen } = await rig(t)
    let once = true
    fail(({ kind }) => {
      if (kind !== 'write' || !once) return undefined
      once = false
      return taken
    })
    const flush = [journal.append(batch(['d', 'd', 'd', 'd', 'd', 'd'])), journal.append(batch(['e']))]
    t.same(await Promise.all(flush.map(reasonOf)), ['full', 'full'])
    t.equal(journal.last(), 3n)
    const log = fs.readFileSync(join(dir, '00000000000000000001.log'))
    t.equal(log.length, journal.stats().size, 'what had come through is gone')
    t.equal(await journal.append(batch(['d'], expecting({ d: 0n }))), 4n)
    t.same(journal.health(), { writable: true })
    t.same(streams(await readAll(await reopen())), ['a', 'b', 'c', 'd'])
  }
})

t.test('when the cut-back fails too, only a restart helps, and it finds what was acknowledged', async t => {
  const { journal, fail, reopen } = await rig(t)
  fail(({ kind }) => (kind === 'write' ? 600 : kind === 'truncate' ? systemError('EIO') : undefined))
  t.equal(await reasonOf(journal.append(batch(Array.from({ length: 10 }, () => 'd')))), 'failed')
  t.match(journal.health(), { reason: 'failed' })
  const again = await reopen()
  t.same(again.health(), { writable: true })
  t.same(streams(await readAll(again)), ['a', 'b', 'c'])
})

t.test('a sync that fails while a segment is sealed leaves the journal failed, not damaged', async t => {
  const { journal, fail, reopen } = await rig(t)
  fail(({ kind }) => (kind === 'sync' ? systemError('EIO') : undefined))
  const reasons: string[] = []
  for (let index = 0; index < 5; index += 1) reasons.push(await reasonOf(journal.append(big(`s${index}`))))
  t.same(new Set(reasons), new Set(['durable', 'failed']))
  const durable = journal.last()
  const again = await reopen()
  t.same(again.health(), { writable: true })
  t.equal(again.last(), durable)
})

t.test('a file system that became read-only says so', async t => {
  const { journal, fail } = await rig(t)
  fail(({ kind }) => (kind === 'write' ? systemError('EROFS') : undefined))
  t.equal(await reasonOf(journal.append(batch(['d']))), 'read-only')
  t.match(journal.health(), { reason: 'read-only', advice: /mount it writable/ })
})

/** A small file system in memory, unmounted after the test. */
function tmpfs(t: Test, size: string): string {
  const dir = directory(t)
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', dir])
  t.teardown(() => execFileSync('umount', ['--lazy', dir]))
  return dir
}

/** Writes a file that leaves no byte free. */
function fillUp(path: string): void {
  const fd = fs.openSync(path, 'w')
  try {
    while (fs.writeSync(fd, Buffer.alloc(4096, 1)) === 4096);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOSPC')) throw error
  } finally {
    fs.closeSync(fd)
  }
}

/** Appends until one is refused, and answers how many were not. */
async function appendUntilRefused(journal: Journal, more: Partial<Batch> = {}): Promise<number> {
  for (let count = 0; count < 10_000; count += 1)
    if ((await reasonOf(journal.append(big(`s${count}`, more)))) === 'full') return count
  throw new Error('the disk is never full')
}

const root = process.getuid?.() === 0 ? {} : { skip: 'mounting needs root' }

t.test('a full disk', root, async t => {
  const mounted = tmpfs(t, '2m')
  const [dir, filler] = [join(mounted, 'journal'), join(mounted, 'filler')]
  const options = { dir, node: 'node-1', log: silent, healEveryMs: 1_000_000, ...sizes }
  let journal = await openFileJournal(options)
  t.teardown(() => journal.close())
  await journal.append(batch(['a']))
  fillUp(filler)
  const acknowledged = 1 + (await appendUntilRefused(journal))

  t.match(journal.health(), { writable: false, reason: 'full', advice: /free space/ })
  t.equal(await reasonOf(journal.append(batch(['small']))), 'full', 'a small batch is not let through either')
  t.equal(journal.last(), BigInt(acknowledged))
  t.equal((await readAll(journal)).length, acknowledged, 'reading goes on')

  // In one flush: one that has to be refused, one that frees space, and one that does too but builds on the first.
  const [refused, frees, builds] = await Promise.all(
    [
      journal.append(batch(['new'], expecting({ new: 0n }))),
      journal.append(batch([entry('a', { ends: true })], { mayUseReserve: true, ...expecting({ a: 1n }) })),
      journal.append(batch(['new'], { mayUseReserve: true, ...expecting({ new: journal.last() + 1n }) })),
    ].map(reasonOf),
  )
  t.same([refused, frees, builds], ['full', 'durable', 'VersionConflict'])
  const byReserve = await appendUntilRefused(journal, { mayUseReserve: true })
  t.ok(byReserve >= 2, `${byReserve} large batches fitted into the reserve`)
  t.equal(journal.last(), BigInt(acknowledged + 1 + byReserve))

  await journal.close()
  journal = await openFileJournal(options)
  t.match(journal.health(), { reason: 'full' }, 'it opens on a full disk, and knows that it is one')
  t.equal((await readAll(journal)).length, acknowledged + 1 + byReserve)

  fs.rmSync(filler)
  t.equal(await reasonOf(journal.append(batch(['next']))), 'durable', 'the next append finds out that there is room')
  t.same(journal.health(), { writable: true })
  t.equal(fs.statSync(join(dir, 'reserve')).blocks * 512, 65_536, 'the reserve is back')
  t.same(
    sequences(await readAll(journal)),
    Array.from({ length: acknowledged + byReserve + 2 }, (_, index) => index + 1),
  )
})

t.test('a journal on a disk that was full becomes writable without being asked', root, async t => {
  const mounted = tmpfs(t, '2m')
  const journal = await openFileJournal({
    dir: join(mounted, 'journal'),
    node: 'n',
    log: silent,
    healEveryMs: 5,
    ...sizes,
  })
  t.teardown(() => journal.close())
  fillUp(join(mounted, 'filler'))
  await appendUntilRefused(journal)
  fs.rmSync(join(mounted, 'filler'))
  while (!journal.health().writable) await new Promise(resolve => setTimeout(resolve, 5))
  t.pass('it has noticed')
})

t.test('a new journal on a full disk is refused with what to do', root, async t => {
  const dir = tmpfs(t, '64k')
  fillUp(join(dir, 'filler'))
  const opened = openFileJournal({ dir: join(dir, 'journal'), node: 'n', log: silent, ...sizes })
  await t.rejects(opened, { name: 'JournalUnavailable', message: /no room to make a journal .*free space/ })
})

t.test('a journal on a file system that is mounted read-only can be read', root, async t => {
  const dir = tmpfs(t, '2m')
  const options = { dir, node: 'node-1', log: silent, ...sizes }
  const writable = await openFileJournal(options)
  await writable.append(batch(['a', 'b']))
  await writable.saveSnapshot({ sequence: 1n, state: Buffer.from('the state at 1') })
  await writable.close()
  execFileSync('mount', ['-o', 'remount,ro', dir])
  const journal = await openFileJournal(options)
  t.teardown(() => journal.close())
  t.match(journal.health(), { writable: false, reason: 'read-only' })
  t.same(streams(await readAll(journal)), ['a', 'b'])
  t.match(await journal.loadSnapshot(), { sequence: 1n })
  t.equal(await reasonOf(journal.append(batch(['c']))), 'read-only')
})

t.test('a snapshot that can not be written leaves the older ones, and no rest of itself', async t => {
  const dir = directory(t)
  let fails = false
  const disk = faultyDisk(realDisk, ({ kind, path }) =>
    fails && kind === 'sync' && path.includes('snapshots') ? systemError('ENOSPC') : undefined,
  )
  const journal = await openFileJournal({ dir, node: 'n', log: silent, disk, ...sizes })
  t.teardown(() => journal.close())
  await journal.append(batch(['a', 'b']))
  await journal.saveSnapshot({ sequence: 1n, state: Buffer.from('one') })
  fails = true
  await t.rejects(journal.saveSnapshot({ sequence: 2n, state: Buffer.from('two') }), { code: 'ENOSPC' })
  t.equal(fs.readdirSync(join(dir, 'snapshots')).length, 1)
  t.match(await journal.loadSnapshot(), { sequence: 1n })
  t.equal(await journal.append(batch(['c'])), 3n, 'the journal itself goes on')
})

t.test('a mark that cannot be written is reported, and the journal goes on', async t => {
  const { log, lines } = recordingLogger()
  const dir = directory(t)
  let markFails = false
  const disk = faultyDisk(realDisk, ({ kind, path }) =>
    markFails && kind === 'write' && path.includes('mark') ? systemError('EIO') : undefined,
  )
  const journal = await openFileJournal({ dir, node: 'n', log, disk, markEveryMs: 0, ...sizes })
  t.teardown(() => journal.close().catch(() => {}))
  markFails = true
  await journal.append(batch(['a']))
  while (lines.length === 0) await new Promise(resolve => setTimeout(resolve, 1))
  t.match(lines, [{ msg: /the mark of the journal could not be written/ }])
  markFails = false
  t.equal(await journal.append(batch(['b'])), 2n)
})
