// Journals with events in them, and the feed of each, for the feed's tests.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino from 'pino'
import type { Fact } from '../../../services/supervisor/domain/decision.js'
import { eventStream } from '../../../services/supervisor/domain/streams.js'
import { Feed, type FeedOptions } from '../../../services/supervisor/feed/feed.js'
import { openFileJournal } from '../../../services/supervisor/journal/fileLog.js'
import type { Journal, Sequence } from '../../../services/supervisor/journal/journal.js'
import { openMemoryJournal } from '../../../services/supervisor/journal/memoryLog.js'
import { encodeFact } from '../../../services/supervisor/state/codec.js'
import { Store } from '../../../services/supervisor/state/store.js'

export const log = pino({ level: 'silent' })

export interface Scope {
  teardown(end: () => void | Promise<void>): unknown
}

export async function onDisk(t: Scope, segmentBytes = 64 << 10): Promise<Journal> {
  const dir = await mkdtemp(join(tmpdir(), 'purser-feed-'))
  const journal = await openFileJournal({ dir, node: 'test', log, segmentBytes, preallocateBytes: 4096 })
  t.teardown(async () => {
    await journal.close()
    await rm(dir, { recursive: true, force: true })
  })
  return journal
}

export const inMemory = (): Journal => openMemoryJournal({ node: 'test', log })

export async function fed(journal: Journal, options: Partial<FeedOptions> = {}) {
  const store = await Store.open(journal, log)
  const feed = new Feed({ journal, store, ...options })
  return { journal, store, feed, append: appender(journal) }
}

/** Appends facts as one batch, at a time if that matters. */
export function appender(journal: Journal) {
  return (facts: Fact[], timeUnixNano = 1_700_000_000_000_000_000n): Promise<Sequence> =>
    journal.append({
      entries: facts.map(encodeFact),
      expected: new Map(),
      causation: 'Events/Publish',
      correlation: 'request-1',
      actor: { uid: 0, gid: 0, pid: 42, name: '' },
      timeUnixNano,
      mayUseReserve: false,
    })
}

/** What a client published. */
export function published(topic: string, namespace = 'default', bytes = 0): Fact {
  const event = bytes === 0 ? null : { typeUrl: 'x.example/T', value: Buffer.alloc(bytes).toString('base64') }
  return { namespace, stream: eventStream(namespace), event: { type: 'EventPublished', topic, at: null, event } }
}

/** A small generator with a seed, so that a failure can be repeated. */
export function random(seed: number): (below: number) => number {
  let state = seed
  return below => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}
