// Keeps the journal's size bounded: drops the oldest whole segments that nobody needs any more. What still needs them:
// the two newest snapshots of the fold, the relay, readers (both of these the journal and the relay know), and
// containers and sandboxes whose heavy parts lie in them. Such parts are brought again by a new record, so that one old container
// does not keep everything behind it.
import type { Logger } from 'pino'
import type { Clock } from './clock.js'
import { moveParts } from './domain/container/decide.js'
import type { Decision } from './domain/decision.js'
import { type MovedPart, type Parts, partsOf } from './domain/parts.js'
import { moveSandboxParts } from './domain/sandbox/record.js'
import { containerStream, sandboxRecordStream } from './domain/streams.js'
import type { HeavyAny } from './domain/values.js'
import { messageOf, ownCause } from './effects/supervisor.js'
import type { Journal, KeptSegment, Sequence } from './journal/journal.js'
import type { Runner } from './runner.js'
import { type HeavyParts, placeOf } from './state/heavy.js'
import type { Store } from './state/store.js'
import type { World } from './state/world.js'

/** What is kept at most; undefined: no bound. */
export interface RetentionPolicy {
  ageMs: number | undefined
  bytes: number | undefined
  events: number | undefined
}

export interface RetentionDeps {
  journal: Journal
  store: Store
  runner: Pick<Runner, 'run'>
  heavy: Pick<HeavyParts, 'read' | 'follow'>
  clock: Clock
  policy: RetentionPolicy
  /** Everything up to here has left the node; undefined when nothing is relayed. */
  relayed(): Sequence | undefined
  log: Logger
}

/** What one pass did. */
export interface Compaction {
  /** The journal begins with it now. */
  first: Sequence
  droppedSegments: number
  droppedEvents: bigint
  /** Containers and sandboxes whose heavy parts were brought again. */
  moved: number
  /** Why less was dropped than the policy wants; '' when it is content. */
  heldBy: string
}

const everyMs = 5 * 60_000

export class Retention {
  private underWay: Promise<Compaction> | undefined
  private closed = false
  private readonly timer: NodeJS.Timeout
  private readonly forget: () => void

  /** Begins to watch. */
  constructor(private readonly deps: RetentionDeps) {
    this.timer = setInterval(() => void this.quietly(), everyMs).unref()
    this.forget = deps.store.onSaved(() => void this.quietly())
  }

  /** One pass now, or the one that is under way. Rejects when the journal takes no writes or the disk fails. */
  run(): Promise<Compaction> {
    this.underWay ??= this.pass().finally(() => {
      this.underWay = undefined
    })
    return this.underWay
  }

  async close(): Promise<void> {
    this.closed = true
    clearInterval(this.timer)
    this.forget()
    await this.underWay?.catch(() => {})
  }

  private async quietly(): Promise<void> {
    const health = this.deps.journal.health()
    if (this.closed || (!health.writable && health.reason !== 'full')) return
    try {
      await this.run()
    } catch (error) {
      this.deps.log.error({ err: error }, 'old events could not be dropped; tried again in some minutes')
    }
  }

  private async pass(): Promise<Compaction> {
    const { journal, store, policy, clock, relayed, log } = this.deps
    const segments = journal.segments()
    const before = journal.first()
    const wanted = await surplus(segments, policy, clock.now(), sequence => timeOf(journal, sequence))
    const nothing = { first: before, droppedSegments: 0, droppedEvents: 0n, moved: 0 }
    if (wanted <= before) return { ...nothing, heldBy: '' }

    const outside = relayed()
    const relayedBefore = outside === undefined ? wanted : outside + 1n
    let cut = wholeSegments(segments, wanted < relayedBefore ? wanted : relayedBefore)
    let heldBy = cut < wanted ? `the relay: NATS has the events up to ${outside}` : ''
    if (cut <= before) return { ...nothing, heldBy }

    const { moved, failed } = await this.moveParts(cut)
    if (failed) {
      cut = wholeSegments(segments, failed.sequence)
      heldBy = `record ${failed.sequence}, which a ${failed.kind} needs: ${failed.reason}`
    }
    const snapshots = await journal.snapshots()
    if ((snapshots[1] ?? 0n) + 1n < cut && snapshots[0] !== store.world.sequence) await store.save()
    const first = await journal.dropBefore(cut)
    if (first < cut) heldBy ||= 'a reader, or until the state has been written out twice behind it'
    const droppedSegments = segments.filter(segment => segment.first < first).length
    if (droppedSegments > 0)
      log.info({ first, dropped: droppedSegments, moved, heldBy: heldBy || undefined }, 'old events were dropped')
    return { first, droppedSegments, droppedEvents: first - before, moved, heldBy }
  }

  /** Of everything with a part before `cut`. One that fails is told: nothing behind it may be dropped. */
  private async moveParts(cut: Sequence): Promise<{ moved: number; failed?: Failed }> {
    const { store, heavy, log } = this.deps
    const moves: { from: HeavyAny; to: HeavyAny }[] = []
    let moved = 0
    let failed: Failed | undefined
    for (const owner of old(store, cut)) {
      const { namespace, id } = owner
      const parts = partsOf(owner.record(store.world))
      try {
        const read: MovedPart[] = []
        for (const from of parts) read.push({ from, bytes: (await heavy.read(from)).value })
        const decide = (world: World) => owner.move(world, read)
        await (await this.deps.runner.run(ownCause('retention'), owner.lane, decide)).settled
        const now = partsOf(owner.record(store.world))
        // Beside each other in the same order: a move changes nothing else.
        for (const [index, from] of parts.entries()) {
          const to = now[index]
          if (to && placeOf(to) !== placeOf(from)) moves.push({ from, to })
        }
        moved += 1
      } catch (error) {
        const sequence = oldestOf(parts)
        if (!failed || sequence < failed.sequence) failed = { kind: owner.kind, sequence, reason: messageOf(error) }
        log.warn({ namespace, id, sequence, err: error }, 'heavy parts could not be brought again')
      }
    }
    heavy.follow(moves)
    return { moved, ...(failed && { failed }) }
  }
}

/** The sequence before which the policy wants nothing to be kept, at a boundary of segments. Never the last segment's. */
export async function surplus(
  segments: readonly KeptSegment[],
  policy: RetentionPolicy,
  nowNanos: bigint,
  timeOf: (sequence: Sequence) => Promise<bigint>,
): Promise<Sequence> {
  let cut = segments[0]?.first ?? 1n
  let bytes = segments.reduce((total, segment) => total + segment.bytes, 0)
  let events = Number((segments.at(-1)?.last ?? 0n) - cut) + 1
  const oldest = policy.ageMs === undefined ? undefined : nowNanos - BigInt(policy.ageMs) * 1_000_000n
  for (const segment of segments.slice(0, -1)) {
    const tooMany =
      bytes > (policy.bytes ?? Number.POSITIVE_INFINITY) || events > (policy.events ?? Number.POSITIVE_INFINITY)
    const tooOld = async () => oldest !== undefined && (await timeOf(segment.last)) < oldest
    if (!tooMany && !(await tooOld())) break
    cut = segment.last + 1n
    bytes -= segment.bytes
    events -= Number(segment.last - segment.first) + 1
  }
  return cut
}

/** The last boundary of segments at or before `sequence`. */
function wholeSegments(segments: readonly KeptSegment[], sequence: Sequence): Sequence {
  return segments.findLast(({ first }) => first <= sequence)?.first ?? 0n
}

async function timeOf(journal: Journal, sequence: Sequence): Promise<bigint> {
  for await (const { timeUnixNano } of journal.read(sequence)) return timeUnixNano
  throw new RangeError(`there is no record ${sequence}`)
}

/** Whose parts could not be brought again. */
interface Failed {
  kind: Owner['kind']
  sequence: Sequence
  reason: string
}

/** A record that has heavy parts. */
interface Owner {
  kind: 'container' | 'sandbox'
  namespace: string
  id: string
  lane: string
  record(world: World): Parts | null | undefined
  move(world: World, read: readonly MovedPart[]): Decision
}

function* old({ world }: Store, cut: Sequence): Generator<Owner> {
  for (const owner of [...owners(world)])
    if (partsOf(owner.record(world)).some(({ sequence }) => BigInt(sequence) < cut)) yield owner
}

function* owners({ namespaces }: World): Generator<Owner> {
  for (const [namespace, { containers, sandboxes }] of namespaces) {
    for (const id of containers.keys())
      yield {
        ...{ kind: 'container', namespace, id, lane: containerStream(namespace, id) },
        record: world => world.namespace(namespace).container(id).facts.record,
        move: (world, read) => moveParts(namespace, world.namespace(namespace).container(id), read),
      }
    for (const id of sandboxes.keys()) {
      const record = (world: World) => world.namespace(namespace).sandboxes.get(id)?.record
      const move = (world: World, read: readonly MovedPart[]) => moveSandboxParts(namespace, record(world), read)
      yield { kind: 'sandbox', namespace, id, lane: sandboxRecordStream(namespace, id), record, move }
    }
  }
}

function oldestOf(parts: readonly HeavyAny[]): Sequence {
  const [oldest] = parts.map(({ sequence }) => BigInt(sequence)).sort((a, b) => Number(a - b))
  return oldest ?? 0n
}
