// History, then what comes: each subscriber is told exactly what it accepts, once and in order, however it reads.
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { Code } from '../../../plugins/kit/errors.js'
import { containerStream, eventStream } from '../../../services/supervisor/domain/streams.js'
import { Happening } from '../../../services/supervisor/feed/happening.js'
import { historyOf } from '../../../services/supervisor/feed/history.js'
import { firstAt, firstSince, parseSince } from '../../../services/supervisor/feed/since.js'
import type { News } from '../../../services/supervisor/feed/subscriber.js'
import type { Journal, Sequence } from '../../../services/supervisor/journal/journal.js'
import { World } from '../../../services/supervisor/state/world.js'
import { until, withDeadline } from '../../harness/wait.js'
import { appender, fed, inMemory, onDisk, published, random } from './journals.js'

const patienceMs = 60_000
const never = new AbortController().signal
const topics = ['/a/one', '/a/two', '/b/one', '/c/one']
const filters: ((happening: Happening) => boolean)[] = [
  () => true,
  ({ topic }) => topic.startsWith('/a/'),
  ({ topic }) => topic === '/c/one',
  ({ record }) => record.namespace === 'moby',
  () => false,
]

/** Appends in bursts while readers of every kind begin, dawdle, break off and come back where they were. */
async function interleaved(journal: Journal, seed: number): Promise<string[]> {
  const below = random(seed)
  const { feed, append } = await fed(journal, {
    queue: { events: 1 + below(6), bytes: 1 << 20 },
    marks: { records: 1 + below(20), idleMs: 1 },
  })
  const total = 100 + below(200)
  const appended: { topic: string; namespace: string }[] = []
  const burst = async () => {
    const facts = Array.from({ length: 1 + below(8) }, () => ({
      topic: topics[below(topics.length)] ?? '',
      namespace: below(3) === 0 ? 'moby' : 'default',
    }))
    appended.push(...facts)
    await append(facts.map(({ topic, namespace }) => published(topic, namespace)))
  }
  for (let before = below(60); before > 0; before--) await burst()

  const reader = async (pace: number, which: number): Promise<string> => {
    const accepts = filters[which] ?? (() => true)
    const live = below(3) === 0
    const begin = live ? journal.last() : BigInt(below(Number(journal.last()) + 1))
    let cursor: Sequence = begin
    let fresh = true
    const seen: Sequence[] = []
    const isOver = () => appended.length >= total && cursor === BigInt(appended.length)
    while (!isOver()) {
      const since = fresh && live ? undefined : { sequence: cursor }
      fresh = false
      for await (const news of await feed.subscribe({ since, accepts, signal: never, marks: true })) {
        if (news.kind === 'event') seen.push(news.happening.sequence)
        cursor = news.kind === 'event' ? news.happening.sequence : news.sequence
        for (let turns = below(pace); turns > 0; turns--) await turn()
        if (isOver() || below(25) === 0) break
      }
    }
    const wanted = []
    for await (const news of whole(journal)) if (accepts(news) && news.sequence > begin) wanted.push(news.sequence)
    return seen.join() === wanted.join() ? '' : `from ${begin}, filter ${which}: saw ${seen}, not ${wanted}`
  }
  const readers = Array.from({ length: 12 }, (_, index) => reader(1 + (index % 4) * 4, below(filters.length)))
  while (appended.length < total) {
    await burst()
    for (let turns = below(4); turns > 0; turns--) await turn()
  }
  const problems = await withDeadline(Promise.all(readers), patienceMs, `all readers of seed ${seed}`)
  if (feed.status().live + feed.status().history > 0) problems.push('somebody was not forgotten')
  return problems.filter(problem => problem !== '')
}

async function* whole(journal: Journal): AsyncGenerator<Happening> {
  for await (const record of journal.read(1n)) yield new Happening(record)
}

t.test('every reader sees what it accepts once and in order, whatever happens meanwhile', async t => {
  for (let seed = 1; seed <= 20; seed++) t.same(await interleaved(inMemory(), seed), [], `in memory, seed ${seed}`)
  for (let seed = 1; seed <= 5; seed++) t.same(await interleaved(await onDisk(t), seed), [], `on disk, seed ${seed}`)
})

t.test('an event that becomes durable at any moment of the switch to the present is told once', async t => {
  // The journal's reading is slowed down to one turn a record, and events are appended at each of these turns.
  for (let at = 0; at < 12; at++) {
    const journal = inMemory()
    const { feed, append } = await fed(journal)
    for (let index = 0; index < 5; index++) await append([published('/before')])
    const stop = new AbortController()
    const seen: Sequence[] = []
    const subscriber = await feed.subscribe({
      since: { sequence: 0n },
      accepts: () => true,
      signal: stop.signal,
      marks: false,
    })
    const reading = (async () => {
      for await (const news of subscriber) if (news.kind === 'event') seen.push(news.happening.sequence)
    })()
    for (let step = 0; step < at; step++) await Promise.resolve()
    await append([published('/during')])
    await append([published('/after')])
    await until('all of them', () => seen.length >= 7, { timeoutMs: patienceMs, intervalMs: 1 })
    stop.abort()
    await reading
    t.same(seen, [1n, 2n, 3n, 4n, 5n, 6n, 7n], `after ${at} steps`)
  }
})

t.test('who does not read holds nothing: it goes back to the journal, and misses nothing', async t => {
  const { feed, append } = await fed(inMemory(), { queue: { events: 10, bytes: 4000 } })
  const subscriber = await feed.subscribe({ since: undefined, accepts: () => true, signal: never, marks: true })
  const reader = subscriber[Symbol.asyncIterator]()
  t.match((await reader.next()).value, { kind: 'mark', present: true })
  for (let index = 0; index < 5; index++) await append([published('/a')])
  t.match(feed.status(), { live: 1, fellBehind: 0 })
  await append([published('/big', 'default', 10_000)])
  t.match(feed.status(), { live: 0, history: 1, fellBehind: 1 }, 'one that is too large for the queue')
  for (let index = 0; index < 50; index++) await append([published('/a')])
  const seen: Sequence[] = []
  while (seen.length < 56) {
    const { value } = await reader.next()
    if (isEvent(value)) seen.push(value.happening.sequence)
  }
  t.same(
    seen,
    Array.from({ length: 56 }, (_, index) => BigInt(index + 1)),
  )
  t.match((await reader.next()).value, { kind: 'mark', sequence: 56n, present: true })
  t.match(feed.status(), { live: 1, history: 0, fellBehind: 1 })
  await reader.return(undefined)
  t.match(feed.status(), { live: 0, history: 0 })
})

t.test('a subscriber whose filter passes nothing still learns how far it has come', async t => {
  const { feed, append, journal } = await fed(inMemory(), { marks: { records: 10, idleMs: 5 } })
  for (let index = 0; index < 35; index++) await append([published('/a')])
  const subscriber = await feed.subscribe({ since: { sequence: 0n }, accepts: () => false, signal: never, marks: true })
  const reader = subscriber[Symbol.asyncIterator]()
  const next = async () => (await withDeadline(reader.next(), patienceMs, 'a mark')).value
  const past = [10n, 20n, 30n].map(sequence => ({ kind: 'mark', sequence, present: false }))
  t.match([await next(), await next(), await next()], past, 'on the way through history')
  t.match(await next(), { kind: 'mark', sequence: 35n, present: true }, 'when there is no more of it')
  await append([published('/a')])
  t.match(await next(), { kind: 'mark', sequence: 36n, present: true }, 'when nothing more happens')
  await append(Array.from({ length: 10 }, () => published('/a')))
  t.match(await next(), { kind: 'mark', sequence: journal.last(), present: true }, 'when much happens')
})

t.test('the history of a name that nothing is known of is read in parts, and misses nothing', async t => {
  const journal = inMemory()
  const append = appender(journal)
  const mine = [3n, 30n, 31n, 32n, 61n, 100n]
  for (let sequence = 1n; sequence <= 100n; sequence++) {
    const stream = mine.includes(sequence) ? containerStream('default', 'gone') : eventStream('default')
    await append([{ ...published('/a'), stream }])
  }
  for (const [limit, scanMax] of [
    [500, 30],
    [1, 30],
    [2, 7],
    [500, 1],
    [500, 1000],
  ] as const) {
    const seen: Sequence[] = []
    for (let after: Sequence | undefined = 0n; after !== undefined; ) {
      const wish = { namespace: 'default', id: 'gone', after, limit, scanMax, signal: never }
      const page = await historyOf(journal, new World(), wish)
      t.ok(page.happenings.length <= limit && (page.next ?? 101n) > after)
      seen.push(...page.happenings.map(({ sequence }) => sequence))
      after = page.next
    }
    t.same(seen, mine, `pages of ${limit} events and ${scanMax} records`)
  }
})

t.test('where a subscription begins: behind a sequence, or at a time', async t => {
  const { append, journal } = await fed(await onDisk(t, 8192))
  for (let index = 1; index <= 100; index++) await append([published('/a', 'default', 300)], BigInt(index * 10))
  t.equal(await firstAt(journal, 0n), 1n)
  t.equal(await firstAt(journal, 500n), 50n)
  t.equal(await firstAt(journal, 501n), 51n)
  t.equal(await firstAt(journal, 1001n), 101n, 'from now on')
  t.equal(await firstSince(journal, { sequence: 0n }), 1n)
  t.equal(await firstSince(journal, { sequence: 100n }), 101n)
  await t.rejects(firstSince(journal, { sequence: 101n }), { code: Code.OUT_OF_RANGE, message: /ends at 100.*another/ })
  await journal.saveSnapshot({ sequence: 90n, state: Buffer.from('{}') })
  await journal.saveSnapshot({ sequence: 91n, state: Buffer.from('{}') })
  const first = await journal.dropBefore(80n)
  t.ok(first > 1n && first <= 80n)
  t.equal(await firstSince(journal, { sequence: 0n }), first, 'all that is kept')
  t.equal(await firstSince(journal, { sequence: first - 1n }), first)
  await t.rejects(firstSince(journal, { sequence: first - 2n }), {
    code: Code.OUT_OF_RANGE,
    message: new RegExp(`the first that is kept is ${first}; begin with purser-since ${first - 1n}`),
  })
  t.equal(await firstAt(journal, 0n), first)
})

t.test('a beginning is a number or a time of RFC 3339', async t => {
  t.same(parseSince('0', 'since'), { sequence: 0n })
  t.same(parseSince('18446744073709551615', 'since'), { sequence: (1n << 64n) - 1n })
  const times = {
    '1970-01-01T00:00:01Z': 1_000_000_000n,
    '1970-01-01T01:00:01.5+01:00': 1_500_000_000n,
    '1969-12-31t23:59:59.000000001z': -999_999_999n,
    '2026-11-25 16:00:00.123456789Z': 1_795_622_400_123_456_789n,
  }
  for (const [text, timeUnixNano] of Object.entries(times)) t.same(parseSince(text, 'since'), { timeUnixNano }, text)
  for (const text of [
    '',
    '-1',
    '1.5',
    '18446744073709551616',
    'yesterday',
    '2026-11-25',
    '2026-13-25T16:00:00Z',
    '1h',
  ]) {
    t.throws(() => parseSince(text, 'purser-since'), { code: Code.INVALID_ARGUMENT, message: /^purser-since "/ }, text)
  }
})

const isEvent = (news: News | undefined): news is Extract<News, { kind: 'event' }> => news?.kind === 'event'
