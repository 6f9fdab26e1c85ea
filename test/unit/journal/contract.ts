// What every journal promises. A journal's test file binds it in one call.
import t, { type Test } from 'tap'
import { type Journal, JournalUnavailable, VersionConflict } from '../../../services/supervisor/journal/journal.js'
import { batch, entry, expecting, readAll, sequences, streams } from './batches.js'

/** Opens the same journal each time that it is called; the test closes it. */
export type Opener = () => Promise<Journal>

export function journalContract(name: string, storage: (t: Test) => Opener): void {
  t.test(`${name} journal`, async t => {
    const journalTest = (title: string, body: (t: Test, journal: Journal, open: Opener) => Promise<void>) =>
      t.test(title, async t => {
        const opened: Journal[] = []
        const openNew = storage(t)
        const open = async () => {
          const journal = await openNew()
          opened.push(journal)
          return journal
        }
        try {
          await body(t, await open(), open)
        } finally {
          for (const journal of opened) await journal.close()
        }
      })

    journalTest('a new journal is empty and writable', async (t, journal) => {
      t.equal(journal.last(), 0n)
      t.equal(journal.first(), 1n)
      t.same(await readAll(journal), [])
      t.same(journal.health(), { writable: true })
      t.equal(await journal.loadSnapshot(), undefined)
      t.match(journal.id, /^[0-9a-f-]{36}$/)
    })

    journalTest('sequences have no gaps, whatever comes together', async (t, journal) => {
      t.equal(await journal.append(batch(['a'])), 1n)
      const together = await Promise.all([
        journal.append(batch(['a', 'b'])),
        journal.append(batch(['c'])),
        journal.append(batch(['d', 'e', 'f'])),
      ])
      t.same(together, [3n, 4n, 7n])
      t.same(sequences(await readAll(journal)), [1, 2, 3, 4, 5, 6, 7])
      t.same(streams(await readAll(journal, 4n)), ['c', 'd', 'e', 'f'])
      t.same(await readAll(journal, 8n), [])
    })

    journalTest('a record comes back as it was appended', async (t, journal) => {
      const entries = [
        entry('task/default/redis', { namespace: 'default', type: 'TaskExited', schema: 3, ends: true }),
        entry('task/ünicode', {
          payload: Buffer.alloc(0),
          attachments: [Buffer.from('spec'), Buffer.alloc(40_000, 7)],
        }),
      ]
      await journal.append(batch(entries, { actor: { uid: 1, gid: 2, pid: -1, name: 'overlayfs' } }))
      const records = await readAll(journal)
      for (const [index, record] of records.entries()) {
        const { payload, attachments, ...rest } = entries[index] ?? entry('')
        t.match(record, {
          ...rest,
          node: 'node-1',
          causation: '/containerd.services.tasks.v1.Tasks/Start',
          correlation: 'request-1',
          actor: { uid: 1, gid: 2, pid: -1, name: 'overlayfs' },
        })
        t.equal(record.timeUnixNano, 1_700_000_000_123_456_789n)
        t.same(Buffer.from(record.payload), payload)
        t.same(record.attachments.map(Buffer.from), attachments)
      }
    })

    journalTest('a hundred appends at once share flushes', async (t, journal) => {
      let heard = 0
      journal.onFlush(({ records, bytes, seconds }) => {
        heard += records
        t.ok(bytes > 0 && seconds >= 0)
      })
      await Promise.all(Array.from({ length: 100 }, (_, index) => journal.append(batch([`stream-${index}`]))))
      const { appends, flushes, bytes } = journal.stats()
      t.equal(appends, 100)
      t.equal(heard, 100)
      t.ok(flushes <= 5, `${flushes} flushes`)
      t.ok(bytes > 5000)
    })

    journalTest('a batch decided on an old version is refused and leaves no trace', async (t, journal) => {
      await journal.append(batch(['a', 'b', 'a'], expecting({ a: 0n, b: 0n })))
      const stale = journal.append(batch(['c', 'a'], expecting({ c: 0n, a: 1n })))
      await t.rejects(stale, new VersionConflict('a', 1n, 3n))
      t.equal(journal.last(), 3n)
      t.equal(await journal.append(batch(['c', 'a'], expecting({ c: 0n, a: 3n }))), 5n)
      await t.rejects(journal.append(batch(['x'], expecting({ unknown: 5n }))), VersionConflict)
    })

    journalTest('what is still on its way counts for the next batch', async (t, journal) => {
      const first = journal.append(batch(['a'], expecting({ a: 0n })))
      const sameVersion = journal.append(batch(['a'], expecting({ a: 0n })))
      const next = journal.append(batch(['a'], expecting({ a: 1n })))
      await t.rejects(sameVersion, new VersionConflict('a', 0n, 1n))
      t.same(await Promise.all([first, next]), [1n, 2n])
    })

    journalTest('a stream that ended starts anew, within one flush too', async (t, journal) => {
      const end = entry('a', { ends: true })
      await Promise.all([
        journal.append(batch(['a'], expecting({ a: 0n }))),
        journal.append(batch([end], expecting({ a: 1n }))),
        journal.append(batch(['a'], expecting({ a: 0n }))),
      ])
      await journal.append(batch([end], expecting({ a: 3n })))
      t.equal(await journal.append(batch(['a'], expecting({ a: 0n }))), 5n)
    })

    journalTest('listeners hear records before the append resolves, in order and once', async (t, journal) => {
      const heard: number[] = []
      const stop = journal.onDurable(records => {
        t.equal(journal.last(), records.at(-1)?.sequence, 'the last of them is durable')
        heard.push(...sequences(records))
      })
      const appended = Array.from({ length: 20 }, async (_, index) => {
        const last = await journal.append(batch([`x${index}`, `y${index}`]))
        t.ok(heard.includes(Number(last)), 'a listener has heard it')
      })
      await Promise.all(appended)
      t.same(
        heard,
        Array.from({ length: 40 }, (_, index) => index + 1),
      )
      stop()
      await journal.append(batch(['z']))
      t.equal(heard.length, 40)
    })

    journalTest(
      'a listener that throws does not keep others from hearing, nor the append from resolving',
      async (t, journal) => {
        let heard = 0
        journal.onDurable(() => {
          throw new Error('a bug in a projection')
        })
        journal.onDurable(records => {
          heard += records.length
        })
        t.equal(await journal.append(batch(['a', 'b'])), 2n)
        t.equal(heard, 2)
      },
    )

    journalTest('a reader sees what becomes durable while it reads', async (t, journal) => {
      await journal.append(batch(Array.from({ length: 300 }, () => 'a')))
      const seen: number[] = []
      for await (const { sequence } of journal.read(1n)) {
        seen.push(Number(sequence))
        if (sequence === 100n) await journal.append(batch(['b', 'c']))
        if (sequence === 301n) await journal.append(batch(['d']))
      }
      t.same(
        seen,
        Array.from({ length: 303 }, (_, index) => index + 1),
      )
    })

    journalTest('an attachment is found by its place', async (t, journal) => {
      const spec = Buffer.alloc(20_000, 's')
      await journal.append(batch(['a', entry('b', { attachments: [Buffer.from('options'), spec] })]))
      t.same(Buffer.from(await journal.attachment(2n, 0)), Buffer.from('options'))
      t.same(Buffer.from(await journal.attachment(2n, 1)), spec)
      await t.rejects(journal.attachment(2n, 2), { message: 'record 2 has no attachment 2' })
      await t.rejects(journal.attachment(3n, 0), { message: 'there is no record 3' })
    })

    journalTest('everything is there after reopening, versions included', async (t, journal, open) => {
      await journal.append(
        batch(['a', 'b', entry('b', { ends: true }), entry('c', { attachments: [Buffer.from('spec')] })]),
      )
      await journal.close()
      const again = await open()
      t.equal(again.id, journal.id)
      t.equal(again.last(), 4n)
      t.same(streams(await readAll(again)), ['a', 'b', 'b', 'c'])
      t.same(Buffer.from(await again.attachment(4n, 0)), Buffer.from('spec'))
      await t.rejects(again.append(batch(['a'], expecting({ a: 0n }))), new VersionConflict('a', 0n, 1n))
      t.equal(await again.append(batch(['a', 'b'], expecting({ a: 1n, b: 0n, c: 4n }))), 6n)
    })

    journalTest('the newest snapshot is loaded, and the versions of its streams hold', async (t, journal, open) => {
      await journal.append(batch(['a', 'b']))
      await journal.saveSnapshot({ sequence: 1n, state: Buffer.from('one') })
      await journal.append(batch([entry('a', { ends: true }), 'c']))
      await journal.saveSnapshot({ sequence: 4n, state: Buffer.from('four') })
      await journal.append(batch(['b']))
      await journal.close()
      const again = await open()
      t.match(await again.loadSnapshot(), { sequence: 4n, state: Buffer.from('four') })
      t.same(sequences(await readAll(again, 5n)), [5])
      t.equal(await again.append(batch(['a'], expecting({ a: 0n, b: 5n, c: 4n }))), 6n)
      t.same(sequences(await readAll(again)), [1, 2, 3, 4, 5, 6])
    })

    journalTest('a snapshot of an earlier moment is found, and those that are kept lie apart', async (t, journal) => {
      for (let sequence = 1n; sequence <= 40n; sequence += 1n) {
        await journal.append(batch(['a']))
        await journal.saveSnapshot({ sequence, state: Buffer.from(`at ${sequence}`) })
      }
      const kept = await journal.snapshots()
      t.same(kept.slice(0, 2), [40n, 39n], 'the newest two are for restarts')
      t.equal(kept.length, 8)
      t.equal(kept.at(-1), 1n)
      const gaps = kept.slice(1, -1).map((sequence, index) => Number(sequence - (kept[index + 2] ?? 0n)))
      t.ok(Math.max(...gaps) <= 13, `the others lie evenly: ${kept.join(' ')}`)
      t.match(await journal.loadSnapshot(38n), { sequence: kept.find(sequence => sequence <= 38n) })
      t.match(await journal.loadSnapshot(1n), { sequence: 1n, state: Buffer.from('at 1') })
      t.equal(await journal.loadSnapshot(0n), undefined)
    })

    journalTest('dropping keeps what the second newest snapshot and a reader need', async (t, journal, open) => {
      const fill = async (count: number) => {
        for (let index = 0; index < count; index += 1)
          await journal.append(batch([entry(`s${index % 5}`, { payload: Buffer.alloc(200, 'x') })]))
      }
      await fill(600)
      t.equal(await journal.dropBefore(500n), 1n, 'without snapshots everything is needed')
      await journal.saveSnapshot({ sequence: 10n, state: Buffer.from('long ago') })
      await journal.saveSnapshot({ sequence: 590n, state: Buffer.from('before') })
      await journal.saveSnapshot({ sequence: 600n, state: Buffer.from('now') })
      const reading = journal.read(1n)[Symbol.asyncIterator]()
      t.equal((await reading.next()).value?.sequence, 1n)
      t.equal(await journal.dropBefore(500n), 1n, 'a reader is at the beginning')
      await reading.return?.()
      const pieces = journal.segments()
      t.equal(pieces[0]?.first, 1n)
      t.equal(pieces.at(-1)?.last, 600n)
      for (const [index, { first }] of pieces.slice(1).entries()) t.equal(first, (pieces[index]?.last ?? 0n) + 1n)
      const first = await journal.dropBefore(500n)
      t.equal(first, pieces.findLast(piece => piece.first <= 500n)?.first)
      t.equal(journal.first(), first)
      t.same(
        journal.segments(),
        pieces.filter(piece => piece.first >= first),
      )
      t.equal((await readAll(journal, 0n))[0]?.sequence, first)
      if (first > 11n) {
        await t.rejects(readAll(journal, first - 1n), { name: 'RangeError', message: /no longer kept/ })
        t.same(await journal.snapshots(), [600n, 590n], 'nobody can go on from the oldest')
        t.equal(journal.stats().compactions, 1)
      }
      await fill(10)
      t.ok((await journal.dropBefore(605n)) <= 591n, 'the second newest snapshot can be gone on from')
      await journal.close()
      const again = await open()
      t.same(again.health(), { writable: true })
      t.equal(again.first(), journal.first())
      t.equal(again.last(), 610n)
      t.equal(await again.append(batch(['s4'], expecting({ s4: 610n, s3: 609n }))), 611n)
    })

    journalTest('a snapshot ahead of the journal is refused', async (t, journal) => {
      await t.rejects(journal.saveSnapshot({ sequence: 1n, state: Buffer.alloc(0) }), RangeError)
    })

    journalTest('a batch without entries and an event that is too large are refused', async (t, journal) => {
      await t.rejects(journal.append(batch([])), RangeError)
      const tooLarge = Buffer.alloc(256 * 1024 * 1024)
      await t.rejects(journal.append(batch([entry('a', { payload: tooLarge })])), RangeError)
      t.equal(await journal.append(batch(['a'], expecting({ a: 0n }))), 1n)
    })

    journalTest('closing waits for what was appended, and refuses what comes later', async (t, journal, open) => {
      const underWay = journal.append(batch(['a']))
      await journal.close()
      t.equal(await underWay, 1n)
      await t.rejects(journal.append(batch(['a'])), { name: 'JournalUnavailable', reason: 'closed' })
      await t.rejects(readAll(journal), JournalUnavailable)
      t.equal((await open()).last(), 1n)
    })
  })
}
