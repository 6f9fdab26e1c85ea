// Collects garbage: looks for what nothing holds, journals its removal, and lets the process managers remove the files.
import type { Logger } from 'pino'
import { Code, toStatusError } from '../../../plugins/kit/errors.js'
import type { Clock } from '../clock.js'
import type { DomainEvent, Fact } from '../domain/decision.js'
import { collect, staleIngests } from '../domain/garbage/decide.js'
import { nanosOf } from '../domain/time.js'
import type { Blobs } from '../effects/blobs.js'
import type { ContentCalls } from '../effects/ports.js'
import type { Snapshots } from '../effects/snapshots.js'
import { messageOf, ownCause } from '../effects/supervisor.js'
import type { Journal } from '../journal/journal.js'
import type { Runner } from '../runner.js'
import { collection } from '../state/envelopes.js'
import { missing } from '../state/losses.js'
import type { Store, Told } from '../state/store.js'
import { type Collected, Schedule, type ScheduleSettings } from './schedule.js'

export interface CollectionDeps {
  store: Store
  journal: Pick<Journal, 'health'>
  runner: Pick<Runner, 'alone'>
  clock: Clock
  blobs: Pick<Blobs, 'settled'>
  snapshots: Pick<Snapshots, 'settled' | 'inUse'>
  content: Pick<ContentCalls, 'listStatuses' | 'abort'>
  settings: ScheduleSettings
  observe(collection: { seconds?: number; removed: Readonly<Record<string, number>> }): void
  log: Logger
}

/** In one batch: others wait no longer than that takes. */
const factsMax = 500
/** What was kept for somebody at work is looked at again. */
const againMs = 1000
const ingestsEveryMs = 3600 * 1000

/** Garbage are these; a change of others makes none. */
const about = /^(Image|Content|Snapshot|Lease|Container)/
/** What held something may not hold it any more. */
const lettingGo = /^((Image|Content|Snapshot|Lease|LeaseResource|Container)(Deleted|Removed)|(Image|Container)Updated)$/

export class Collection {
  private readonly schedule: Schedule
  /** Namespaces that changed since they were looked through. */
  private readonly changed: Set<string>
  /** By namespace: when the next lease of it expires. */
  private readonly expiries = new Map<string, bigint>()
  /** Of files whose removal is journaled. */
  private removing: Promise<unknown> = Promise.resolve()
  private readonly forget: () => void
  private readonly ingestsTimer: NodeJS.Timeout

  /** Begins to watch. */
  constructor(private readonly deps: CollectionDeps) {
    this.changed = new Set(deps.store.world.namespaces.keys())
    this.schedule = new Schedule(deps.settings, () => this.run())
    this.forget = deps.store.subscribe(told => this.heard(told))
    this.ingestsTimer = setInterval(() => void this.abortStale(), ingestsEveryMs).unref()
  }

  /** Resolves when a collection that began after this is over, the files included. */
  collect(): Promise<void> {
    return this.schedule.wait()
  }

  async close(): Promise<void> {
    this.forget()
    clearInterval(this.ingestsTimer)
    await this.schedule.close()
  }

  private heard({ event, record }: Told): void {
    if (event.type === 'RecordLossAccepted') {
      // What was spared before may go now.
      for (const namespace of this.deps.store.world.namespaces.keys()) this.changed.add(namespace)
      this.schedule.dueIn(0)
    }
    if (!about.test(event.type) || record.causation === collection) return
    this.changed.add(record.namespace)
    this.schedule.mutated(lettingGo.test(event.type))
  }

  private async run(): Promise<Collected> {
    const { store, journal, log } = this.deps
    const health = journal.health()
    // A fold that lacks something does not know what holds what; nor may one whose disk has failed be trusted.
    if (missing(store.world.lost) > 0 || (!health.writable && health.reason !== 'full'))
      return { pauseMs: 0, removed: Promise.resolve() }
    const now = this.deps.clock.now()
    for (const [namespace, at] of this.expiries) if (at < now) this.changed.add(namespace)
    const begun = performance.now()
    const facts: Fact[] = []
    for (const namespace of [...this.changed]) {
      this.changed.delete(namespace)
      try {
        facts.push(...(await this.collectIn(namespace)))
      } catch (error) {
        this.changed.add(namespace)
        log.warn({ namespace, err: error }, 'garbage could not be collected; it is tried again')
        throw error
      }
    }
    const pauseMs = performance.now() - begun
    const removed = countsOf(facts)
    this.deps.observe({ seconds: pauseMs / 1000, removed })
    if (facts.length > 0) log.info({ ...removed, ms: Math.round(pauseMs) }, 'garbage was collected')
    this.arrangeExpiry()
    this.removing = Promise.all([this.removing, this.filesGone(facts)])
    return { pauseMs, removed: this.removing.then(() => {}) }
  }

  private async collectIn(namespace: string): Promise<Fact[]> {
    const { runner, snapshots, store, clock } = this.deps
    const look = () => {
      const held = snapshots.inUse(namespace)
      const found = collect(namespace, store.world.namespace(namespace), { nanos: clock.now(), held, max: factsMax })
      return { ...found, isHeld: held.length > 0 || store.world.namespace(namespace).commits.size > 0 }
    }
    const all: Fact[] = []
    // Nobody waits while there is nothing to be found.
    for (let found = look(); ; found = look()) {
      if (found.facts.length === 0) {
        if (found.expires === undefined) this.expiries.delete(namespace)
        else this.expiries.set(namespace, found.expires)
        if (found.isHeld) {
          this.changed.add(namespace)
          this.schedule.dueIn(againMs)
        }
        return all
      }
      const removed = await runner.alone(ownCause(collection), namespace, () => look().facts)
      all.push(...removed)
    }
  }

  private arrangeExpiry(): void {
    const now = this.deps.clock.now()
    const [first] = [...this.expiries.values()].sort((a, b) => (a < b ? -1 : 1))
    if (first !== undefined) this.schedule.dueIn(Number((first - now) / 1_000_000n) + 1)
  }

  private async filesGone(facts: readonly Fact[]): Promise<void> {
    const { blobs, snapshots } = this.deps
    const snapshotters = new Set<string>()
    const gone: Promise<void>[] = []
    for (const { event } of facts) {
      if (event.type === 'SnapshotRemoved') snapshotters.add(event.snapshotter)
      if (event.type === 'ContentDeleted') gone.push(blobs.settled(event.digest))
    }
    await Promise.all([...gone, ...[...snapshotters].map(name => snapshots.settled(name))])
  }

  /** Uploads are the content plugin's; no record knows them. */
  private async abortStale(): Promise<void> {
    const { store, content, clock, log } = this.deps
    if (missing(store.world.lost) > 0) return
    for (const [namespace, { leases }] of [...store.world.namespaces]) {
      if (namespace === '') continue
      try {
        const { statuses } = await content.listStatuses({ filters: [] }, { namespace })
        const ingests = statuses.map(({ ref, updatedAt }) => ({
          ref,
          updatedAtNanos: updatedAt ? nanosOf(updatedAt) : 0n,
        }))
        const stale = staleIngests(ingests, leases, clock.now())
        for (const ref of stale) await abort(content, namespace, ref)
        if (stale.length === 0) continue
        this.deps.observe({ removed: { ingests: stale.length } })
        log.info({ namespace, ingests: stale.length }, 'uploads that nobody went on with for a day were given up')
      } catch (error) {
        log.warn(
          { namespace, reason: messageOf(error) },
          'old uploads could not be given up; it is tried again in an hour',
        )
      }
    }
  }
}

async function abort(content: Pick<ContentCalls, 'abort'>, namespace: string, ref: string): Promise<void> {
  try {
    await content.abort({ ref }, { namespace })
  } catch (error) {
    if (toStatusError(error).code !== Code.NOT_FOUND) throw error // committed or given up meanwhile
  }
}

function countsOf(facts: readonly Fact[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { event } of facts) {
    const type = types.get(event.type)
    if (type !== undefined) counts[type] = (counts[type] ?? 0) + 1
  }
  return counts
}

const types = new Map<DomainEvent['type'], string>([
  ['ImageDeleted', 'images'],
  ['SnapshotRemoved', 'snapshots'],
  ['ContentDeleted', 'blobs'],
  ['LeaseDeleted', 'leases'],
])
