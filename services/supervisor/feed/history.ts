// All that happened to one container or sandbox: to itself, its task, its execs, its network and its snapshot. The fold knows where
// the lives of that name begin and end, so that only these parts of the journal are read.
import type { ContainerRecord } from '../domain/container/events.js'
import {
  containerStream,
  execStream,
  networkStream,
  restartStream,
  sandboxRecordStream,
  sandboxStream,
  snapshotStream,
  taskStream,
} from '../domain/streams.js'
import type { Journal, JournalRecord, Sequence } from '../journal/journal.js'
import type { Summary } from '../state/summaries.js'
import type { World } from '../state/world.js'
import { unreadable } from './errors.js'
import { Happening } from './happening.js'
import { recordAt } from './since.js'

export interface HistoryPage {
  happenings: Happening[]
  /** Where the next page goes on; undefined when there is none. */
  next: Sequence | undefined
  /** Those of that name, the oldest first. */
  lives: Summary[]
}

export interface HistoryWish {
  namespace: string
  id: string
  /** The last sequence that is known already. */
  after: Sequence
  limit: number
  signal: AbortSignal
  /** Records that are looked at for one page, whether or not they are of that name. */
  scanMax?: number
}

/** A snapshot is made before its container and may be removed behind it: so far around a life it is looked for. */
const aroundRecords = 1000n
/** Of a name that nothing is known of all of the journal is read, in so many calls that none takes long. */
const scanRecords = 50_000
/** A page has no more than that, whatever its limit. */
const pageBytes = 4 << 20

export async function historyOf(journal: Journal, world: World, wish: HistoryWish): Promise<HistoryPage> {
  const { namespace, id, after, limit, signal, scanMax = scanRecords } = wish
  const lives = world.summaries.of(namespace, id)
  const mine = await streamsOf(journal, world, wish, lives)
  const happenings: Happening[] = []
  let [bytes, scanned] = [0, 0]
  for (const { from, to } of spansOf(lives, journal)) {
    for await (const record of between(journal, from > after ? from : after + 1n, to)) {
      signal.throwIfAborted()
      if (scanned++ === scanMax) return { happenings, next: record.sequence - 1n, lives }
      if (!mine(record)) continue
      // One more than wanted is there: so there is a next page.
      if (happenings.length === limit || bytes > pageBytes)
        return { happenings, next: happenings.at(-1)?.sequence, lives }
      const happening = new Happening(record)
      happenings.push(happening)
      bytes += happening.bytes
    }
  }
  return { happenings, next: undefined, lives }
}

async function* between(journal: Journal, from: Sequence, to: Sequence): AsyncGenerator<JournalRecord> {
  const begin = from < journal.first() ? journal.first() : from
  if (begin > to) return
  try {
    for await (const record of journal.read(begin)) {
      if (record.sequence > to) return
      yield record
    }
  } catch (error) {
    throw unreadable(journal, begin, error)
  }
}

/** Parts of the journal in order, without overlap. All of it when nothing is known of that name any more. */
export function spansOf(
  lives: readonly Pick<Summary, 'firstSequence' | 'lastSequence'>[],
  journal: Pick<Journal, 'first' | 'last'>,
): { from: Sequence; to: Sequence }[] {
  const [first, last] = [journal.first(), journal.last()]
  if (lives.length === 0) return [{ from: first, to: last }]
  const spans: { from: Sequence; to: Sequence }[] = []
  for (const { firstSequence, lastSequence } of lives) {
    const from = firstSequence === '' ? first : BigInt(firstSequence) - aroundRecords
    const to = lastSequence === '' ? last : BigInt(lastSequence) + aroundRecords
    const before = spans.at(-1)
    if (before && from <= before.to) before.to = to
    else spans.push({ from, to })
  }
  return spans
}

async function streamsOf(
  journal: Journal,
  world: World,
  { namespace, id }: HistoryWish,
  lives: readonly Summary[],
): Promise<(record: JournalRecord) => boolean> {
  const streams = new Set(
    [containerStream, taskStream, networkStream, restartStream, sandboxRecordStream, sandboxStream].map(stream =>
      stream(namespace, id),
    ),
  )
  const execs = execStream(namespace, id, '')
  const present = world.namespace(namespace).container(id).facts.record
  if (present) addSnapshot(streams, namespace, present)
  for (const { firstSequence } of lives) {
    const created = firstSequence === '' ? undefined : await recordAt(journal, BigInt(firstSequence))
    if (created) addSnapshotOf(streams, namespace, created)
  }
  return record => {
    if (streams.has(record.stream)) {
      if (record.type === 'ContainerCreated' || record.type === 'ContainerUpdated')
        addSnapshotOf(streams, namespace, record)
      return true
    }
    return record.stream.startsWith(execs)
  }
}

function addSnapshotOf(streams: Set<string>, namespace: string, record: JournalRecord): void {
  const { event } = new Happening(record)
  if ('container' in event) addSnapshot(streams, namespace, event.container)
}

function addSnapshot(streams: Set<string>, namespace: string, { snapshotter, snapshotKey }: ContainerRecord): void {
  if (snapshotKey !== '') streams.add(snapshotStream(namespace, snapshotter, snapshotKey))
}
