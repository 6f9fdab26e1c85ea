// Where to go on: what of this journal the stream already holds, read from the stream itself.
import type { JetStreamClient, JetStreamManager, MsgHdrs } from 'nats'
import type { Sequence } from '../journal/journal.js'
import { messageIdHeader, type Origin, type Place, parsePlace, sequenceOf, settledHeader } from './message.js'
import { orUndefined, type Stream, Unfit } from './stream.js'
import { subtree } from './subject.js'

/** How far the relay knows to have come, and in which stream. */
export interface Memory extends Place {
  stream: string
  created: string
}

export interface Recovery {
  /** Everything up to here is in the stream, or was and has left it for good. */
  settled: Place
  /** Later events that are in the stream too: a broker may lose one of several in flight and keep the next. */
  beyond: ReadonlySet<Sequence>
  reason: 'first' | 'continued' | 'removed' | 'refilled'
}

export interface Lookup {
  manager: JetStreamManager
  client: JetStreamClient
  stream: Stream
  origin: Origin
  memory: Memory | undefined
  signal: AbortSignal
}

const nothing: Place = { sequence: 0n, position: 0 }
const noMessageFound = 10037

/**
 * | the newest message of this node's subtree | the remembered place                    | go on after                  |
 * |-------------------------------------------|-----------------------------------------|------------------------------|
 * | is of this journal, and not older than it | whatever it is                          | that message, less its gaps  |
 * | is older, another journal's, or missing   | holds our message                       | that place, less later gaps  |
 * | is another journal's, or missing          | is older than the oldest message kept   | that place: limits removed it|
 * | is older, another journal's, or missing   | none, of another stream, holds no such  | the newest of ours, or start |
 *
 * So a stream that was deleted, or that lost its end in a power cut, is filled again from the journal, while messages
 * that an operator or a limit removed are not sent a second time.
 */
export async function recover(lookup: Lookup): Promise<Recovery> {
  const { origin, stream, memory } = lookup
  const own = subtree(origin.node)
  const newest = await newestOf(lookup, own)
  const remembered = memory?.created === stream.created && memory.stream === stream.name ? memory : undefined

  if (remembered && remembered.sequence > (newest?.place.sequence ?? 0n)) {
    if (!newest && remembered.position < stream.first) return gaps(lookup, 'purser.>', remembered, 'removed')
    // Wider than the subtree, because the node may have had another name.
    if (await holds(lookup, remembered)) return gaps(lookup, 'purser.>', remembered, 'continued')
  }
  const reason = memory && memory.sequence > (newest?.place.sequence ?? 0n) ? 'refilled' : 'continued'
  if (newest) return gaps(lookup, own, newest.settled ?? newest.place, reason)
  return { settled: nothing, beyond: new Set(), reason: memory && memory.sequence > 0n ? 'refilled' : 'first' }
}

/** Walks from a place after which gaps are possible, up to the end of the stream. */
async function gaps(lookup: Lookup, filter: string, from: Place, reason: Recovery['reason']): Promise<Recovery> {
  const beyond = new Set<Sequence>()
  let { sequence, position } = from
  // Limits remove from the old end: what is missing before the oldest message kept was there.
  let trimmed = from.position + 1 < lookup.stream.first
  for await (const found of messages(lookup, filter, from.position + 1)) {
    if (!found || found.place.sequence <= sequence) continue
    if (trimmed) sequence = found.place.sequence - 1n
    trimmed = false
    beyond.add(found.place.sequence)
    while (beyond.delete(sequence + 1n)) sequence += 1n
    position = Math.max(position, found.place.position)
  }
  // With gaps left, what comes after the settled sequence may lie anywhere behind the place where the walk began.
  return { settled: { sequence, position: beyond.size > 0 ? from.position : position }, beyond, reason }
}

/** A message of this journal. */
interface Found {
  place: Place
  /** What it says of those before it. */
  settled: Place | undefined
}

/** The newest message of this journal below `filter`. */
async function newestOf(lookup: Lookup, filter: string): Promise<Found | undefined> {
  const { origin } = lookup
  const last = await newestBelow(lookup, filter)
  if (!last) return undefined
  const found = ours(last.header, last.seq, origin)
  if (found) return found
  // Another journal published last under this node's name: a root that was replaced, or a name given twice.
  let newest: Found | undefined
  for await (const found of messages(lookup, filter, 1)) newest = found ?? newest
  return newest
}

/** Whoever published it. */
function newestBelow({ manager, stream }: Lookup, filter: string) {
  return orUndefined(manager.streams.getMessage(stream.name, { last_by_subj: filter }), noMessageFound)
}

async function holds({ manager, stream, origin }: Lookup, memory: Memory): Promise<boolean> {
  if (memory.position < 1 || memory.position > stream.last) return false
  const stored = await orUndefined(manager.streams.getMessage(stream.name, { seq: memory.position }), noMessageFound)
  return stored !== undefined && ours(stored.header, stored.seq, origin)?.place.sequence === memory.sequence
}

function ours(headers: MsgHdrs | undefined, position: number, origin: Origin): Found | undefined {
  const sequence = sequenceOf(headers?.get(messageIdHeader) ?? '', origin.journal)
  if (sequence === undefined) return undefined
  const settled = parsePlace(headers?.get(settledHeader) ?? '')
  // A place that is not before the message itself is of a stream that this one replaced.
  const usable = settled && settled.sequence < sequence && settled.position < position
  return { place: { sequence, position }, settled: usable ? settled : undefined }
}

/**
 * The stored messages below a filter, from a position to the end as it is now, without their data; others' are undefined.
 * Where that end is, the newest message tells: how many are pending, nats-server 2.9 only guesses for a consumer that
 * begins within a block of the store.
 */
async function* messages(lookup: Lookup, filter: string, from: number): AsyncGenerator<Found | undefined> {
  const { manager, client, stream, origin, signal } = lookup
  const newest = await newestBelow(lookup, filter)
  if (!newest || newest.seq < from) return
  const { AckPolicy, DeliverPolicy, nanos } = await import('./nats.js')
  const info = await manager.consumers.add(stream.name, {
    ack_policy: AckPolicy.None,
    deliver_policy: DeliverPolicy.StartSequence,
    opt_start_seq: Math.max(1, from),
    filter_subject: filter,
    headers_only: true,
    mem_storage: true,
    inactive_threshold: nanos(30_000),
  })
  const consumer = await client.consumers.get(stream.name, info.name)
  try {
    for (let at = from - 1; at < newest.seq; ) {
      signal.throwIfAborted()
      const before = at
      const batch = await consumer.fetch({ max_messages: Math.min(newest.seq - at, 500), expires: 5_000 })
      for await (const stored of batch) {
        at = stored.seq
        yield ours(stored.headers, stored.seq, origin)
        if (at >= newest.seq) break
      }
      if (at === before)
        throw new Unfit(
          `the stream ${stream.name} fell silent while it was read back`,
          "look at the broker's log and load",
        )
    }
  } finally {
    // Only tidiness: the broker forgets an idle consumer by itself.
    await consumer.delete().catch(() => false)
  }
}
