// Snapshots between the journal, which knows their names, and the plugin, which holds their files.
import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from 'pino'
import { Code, failedPrecondition, StatusError, toStatusError, unavailable } from '../../../plugins/kit/errors.js'
import { Lanes } from '../../../plugins/kit/lanes.js'
import { type Decision, isRefusal, refuse } from '../domain/decision.js'
import { addLeaseResource, withLease } from '../domain/lease/decide.js'
import {
  commitFailed,
  committed,
  mayPrepare,
  prepared,
  requestCommit,
  type SnapshotPlace,
} from '../domain/snapshot/decide.js'
import type {
  OpenCommit,
  SnapshotCommitRequested,
  SnapshotCommitted,
  SnapshotRemoved,
} from '../domain/snapshot/events.js'
import { snapshotStream } from '../domain/streams.js'
import type { Labels, Mount } from '../domain/values.js'
import { type Cause, type Intent, type Runner, refusalStatus } from '../runner.js'
import { mountFromProto } from '../state/convert.js'
import type { NamespaceState, StoredSnapshot } from '../state/namespaceState.js'
import type { Store } from '../state/store.js'
import type { World } from '../state/world.js'
import { type AskAgain, answered, isInDoubt, settle } from './answers.js'
import { activeKey, byAge, isBackendKey, layerKey, newBackendKey } from './backendNames.js'
import type { SnapshotterCalls } from './ports.js'
import { answerTo, messageOf, ownCause } from './supervisor.js'

export interface SnapshotRequest {
  place: SnapshotPlace
  cause: Cause
  lease: string | undefined
  labels: Labels
  /** Of the call. */
  signal: AbortSignal
}

type Layer = Pick<SnapshotCommitted, 'backendKey' | 'usage'>

/** Labels with these names are meant for the plugin as well. */
const pluginLabel = /^containerd\.io\/snapshot[/.]/
/** The native snapshotter copies whole trees, and a commit syncs a file system. */
const copyDeadlineMs = 600_000
const listDeadlineMs = 60_000
/** How often a commit waits anew for others that came before it. */
const commitRounds = 20
const removalRetryMs = [100, 1000, 5000] as const

export class Snapshots {
  /** One operation on a key at a time: the plugin's answer and the journal's record belong together. */
  private readonly keys = new Lanes()
  /** Removals follow each other in the order in which they were journaled: children before parents. */
  private readonly removals = new Lanes()
  /** Backend keys that the plugin may have, and the journal not yet. */
  private readonly inMaking = new Set<string>()
  /** Open commits that somebody is at work on. */
  private readonly committing = new Set<string>()
  /** Snapshots upon which one is being made. */
  private readonly parents = new Set<SnapshotPlace>()
  private readonly stopping = new AbortController()

  constructor(
    private readonly runner: Runner,
    private readonly store: Store,
    /** The calls of a snapshotter by name; throws INVALID_ARGUMENT for one that nobody knows. */
    private readonly snapshotter: (name: string) => SnapshotterCalls,
    private readonly log: Logger,
    private readonly askAgain: AskAgain,
  ) {}

  /** No intent goes before it: what a crash leaves behind has a name that nobody else gets, and is removed. */
  async prepare(kind: 'active' | 'view', request: SnapshotRequest, parent: string): Promise<readonly Mount[]> {
    const { place, labels, lease } = request
    const { snapshotter, key } = place
    const calls = this.snapshotter(snapshotter)
    const backendKey = newBackendKey(place)
    await this.uncommitted(place, request.signal)
    return this.making(backendKey, place, parent, async () => {
      const { record } = this.allowed(place, parent)
      const forPlugin = {
        snapshotter,
        key: backendKey,
        parent: record?.backendKey ?? '',
        labels: Object.fromEntries(Object.entries(labels).filter(([name]) => pluginLabel.test(name))),
      }
      const options = { deadlineMs: copyDeadlineMs }
      const make = kind === 'view' ? calls.view : calls.prepare
      const { mounts: made } = await make(forPlugin, options).catch((error: unknown) => {
        if (isInDoubt(error)) this.askAgain('snapshotter') // it may be there, and no record will know it
        throw error
      })
      const mounts = made.map(mountFromProto)
      try {
        await this.runner.run(request.cause, snapshotLane(place), world => {
          const refusal = refusalToPrepare(world, place, parent, forPlugin.parent)
          if (refusal) return refusal
          const made = prepared(place, { kind, parent, labels, backendKey, mounts })
          return leased(world.namespace(place.namespace), made, place, key, lease)
        })
      } catch (error) {
        this.discard(snapshotter, backendKey)
        throw error
      }
      return mounts
    })
  }

  /**
   * Has a lease hold a snapshot that its client was told to be there, and counts on. Answers whether it is: in the step
   * that says so nothing can take it away.
   */
  async hold(place: SnapshotPlace, { cause, lease }: Pick<SnapshotRequest, 'cause' | 'lease'>): Promise<boolean> {
    const { namespace, snapshotter, key } = place
    const isThere = () => this.store.world.namespace(namespace).snapshot(snapshotter, key) !== undefined
    const resource = { type: `snapshots/${snapshotter}`, id: key }
    if (lease === undefined || !isThere()) return isThere()
    await this.runner.attempt(cause, snapshotLane(place), world => {
      const here = world.namespace(namespace)
      if (!here.snapshot(snapshotter, key)) return refuse('not-found', `snapshot "${key}"`)
      return addLeaseResource(namespace, here.lease(lease), lease, resource)
    })
    return isThere()
  }

  /** Resolves when the plugin has committed it. */
  async requestCommit(request: SnapshotRequest, name: string): Promise<unknown> {
    const named = { ...request.place, key: name }
    for (;;) {
      try {
        return await this.commitAs(request, name)
      } catch (error) {
        if (!(error instanceof StatusError) || error.code !== Code.ALREADY_EXISTS) throw error
        if (await this.hold(named, request)) throw error
      }
    }
  }

  private async commitAs({ place, labels, lease, cause, signal }: SnapshotRequest, name: string): Promise<unknown> {
    const { namespace, snapshotter, key } = place
    for (let round = 1; ; round++) {
      await this.uncommitted(place, signal)
      // Two pulls that share a layer commit to the same name: the second finds the first one's record.
      await this.uncommitted({ ...place, key: name }, signal)
      const met = { open: undefined as OpenCommit | undefined }
      try {
        return await this.runner.complete(cause, snapshotLane(place), world => {
          const here = world.namespace(namespace)
          if (lease !== undefined && !here.lease(lease)) return refuse('not-found', `lease "${lease}"`)
          met.open = here.commitAbout(snapshotter, key) ?? here.commitAbout(snapshotter, name)
          const found = { current: here.snapshot(snapshotter, key), existing: here.snapshot(snapshotter, name), ...met }
          return requestCommit(place, found, { name, labels, lease: lease ?? null })
        })
      } catch (error) {
        // Another was faster, after both had waited: its outcome is waited for, as those before were.
        if (!met.open || round === commitRounds || signal.aborted) throw error
      }
    }
  }

  async commit(intent: Intent, { snapshotter, key, lease }: SnapshotCommitRequested): Promise<void> {
    const place = { namespace: intent.namespace, snapshotter, key }
    const answer = (decide: (here: NamespaceState, open: OpenCommit | undefined) => Decision) =>
      this.runner.attempt(answerTo(intent), snapshotLane(place), world => {
        const here = world.namespace(place.namespace)
        return decide(here, here.commitAbout(snapshotter, key))
      })
    this.committing.add(keyOf(place))
    try {
      await settle(() => this.askAgain('snapshotter'), {
        call: () => this.commitFiles(place),
        succeeded: async layer => {
          const outcome = await answer((here, open) => {
            const decision = committed(place, here.snapshot(snapshotter, key), open, layer)
            const held = lease !== null && here.lease(lease) ? lease : undefined
            return leased(here, decision, place, open?.name ?? '', held)
          })
          if (isRefusal(outcome)) throw refusalStatus(outcome) // removed meanwhile
        },
        failed: async reason => {
          await answer((_, open) => commitFailed(place, open, reason))
        },
      })
    } finally {
      this.committing.delete(keyOf(place))
    }
  }

  async usage(place: SnapshotPlace, signal: AbortSignal): Promise<{ size: bigint; inodes: bigint }> {
    await this.uncommitted(place, signal)
    const record = this.recordOf(place)
    if (record.usage) return { size: BigInt(record.usage.size), inodes: BigInt(record.usage.inodes) }
    return this.snapshotter(place.snapshotter).usage({ snapshotter: place.snapshotter, key: record.backendKey })
  }

  async cleanup(snapshotter: string): Promise<void> {
    await this.settled(snapshotter)
    await this.snapshotter(snapshotter).cleanup({ snapshotter })
  }

  /** Mounts of an active snapshot or view, as the plugin gave them. */
  async mounts(place: SnapshotPlace, signal: AbortSignal): Promise<readonly Mount[]> {
    await this.uncommitted(place, signal)
    const { kind, mounts } = this.recordOf(place)
    if (kind === 'committed') throw failedPrecondition(`snapshot "${place.key}" is committed: prepare or view it`)
    return mounts
  }

  /** Resolves when the removals that were journaled before are done, or given up for now. */
  async settled(snapshotter: string): Promise<void> {
    await this.removals.run(snapshotter, async () => {})
  }

  /** What a snapshot is being made upon in a namespace. */
  inUse(namespace: string): SnapshotPlace[] {
    return [...this.parents].filter(place => place.namespace === namespace)
  }

  /** Its removal is durable: the files follow, without anybody waiting. */
  removed(_intent: Intent, { snapshotter, backendKey }: SnapshotRemoved): void {
    this.discard(snapshotter, backendKey)
  }

  /** What nobody knows of whether it was committed is committed now. Answers whether every commit has its answer. */
  async finishCommits(snapshotter: string): Promise<boolean> {
    const unanswered = () =>
      [...this.store.world.namespaces].flatMap(([namespace, { commits }]) =>
        [...commits.values()]
          .filter(commit => commit.snapshotter === snapshotter && !this.committing.has(keyOf({ namespace, ...commit })))
          .map(commit => ({ namespace, event: { type: 'SnapshotCommitRequested', ...commit } as const })),
      )
    await Promise.allSettled(
      unanswered().map(({ namespace, event }) => {
        this.log.info({ namespace, snapshotter, key: event.key, name: event.name }, 'finishing a commit')
        return this.commit({ namespace, event, sequence: 0n, cause: ownCause('recovery') }, event)
      }),
    )
    return unanswered().length === 0
  }

  /** Removes what the plugin has for namespaces' snapshots that the journal does not know: left over from a crash. */
  async removeOrphans(snapshotter: string): Promise<void> {
    const orphans = await this.orphans(snapshotter)
    if (orphans.length > 0)
      this.log.info({ snapshotter, count: orphans.length }, 'removing snapshots that no record knows')
    // Children were made after their parents, and names grow with time: the youngest goes first.
    for (const key of orphans.sort(byAge).reverse()) this.discard(snapshotter, key)
  }

  /** Those of our making that the journal does not know. */
  async orphans(snapshotter: string): Promise<string[]> {
    const listed = await this.keysOf(snapshotter)
    const { backendKeys } = this.store.world
    const isKnown = (key: string) => backendKeys.has(snapshotter, key) || backendKeys.has(snapshotter, activeKey(key))
    return listed.filter(key => isBackendKey(key) && !isKnown(key) && !this.inMaking.has(key))
  }

  close(): void {
    this.stopping.abort()
  }

  /** Until no commit of the key, or to it, is open: what comes of it decides what may be done. */
  private uncommitted({ namespace, snapshotter, key }: SnapshotPlace, signal: AbortSignal): Promise<void> {
    const open = () => {
      const commit = this.store.world.namespace(namespace).commitAbout(snapshotter, key)
      return commit && snapshotStream(namespace, snapshotter, commit.key)
    }
    return answered(this.store, open, { signal })
  }

  private recordOf({ namespace, snapshotter, key }: SnapshotPlace): StoredSnapshot {
    const record = this.store.world.namespace(namespace).snapshot(snapshotter, key)
    if (!record) throw refusalStatus(refuse('not-found', `snapshot "${key}"`))
    return record
  }

  private async commitFiles(place: SnapshotPlace): Promise<Layer> {
    const { snapshotter } = place
    const { backendKey } = this.recordOf(place)
    const layer = layerKey(backendKey)
    const calls = this.snapshotter(snapshotter)
    const commit = { snapshotter, name: layer, key: backendKey, labels: {}, parent: '' }
    let refusal: unknown
    await calls.commit(commit, { deadlineMs: copyDeadlineMs }).catch((error: unknown) => {
      if (isInDoubt(error)) throw error
      // Whatever it says: it may have been committed before, and the answer was lost.
      refusal = error
    })
    try {
      const { size, inodes } = await calls.usage({ snapshotter, key: layer })
      return { backendKey: layer, usage: { size: String(size), inodes: String(inodes) } }
    } catch (error) {
      if (toStatusError(error).code === Code.NOT_FOUND) throw refusal ?? error // it has neither the one nor the other
      throw unavailable(`snapshot "${place.key}" is a layer now, but of unknown size: ${messageOf(error)}`)
    }
  }

  private async making<T>(
    backendKey: string,
    place: SnapshotPlace,
    parent: string,
    work: () => Promise<T>,
  ): Promise<T> {
    const below = { ...place, key: parent }
    this.inMaking.add(backendKey)
    this.parents.add(below)
    try {
      return await this.keys.run(keyOf(place), work)
    } finally {
      this.inMaking.delete(backendKey)
      this.parents.delete(below)
    }
  }

  private async keysOf(snapshotter: string): Promise<string[]> {
    const keys: string[] = []
    const list = this.snapshotter(snapshotter).list({ snapshotter, filters: [] }, { deadlineMs: listDeadlineMs })
    for await (const { info } of list) keys.push(...info.map(({ name }) => name))
    return keys
  }

  private discard(snapshotter: string, backendKey: string): void {
    void this.removals.run(snapshotter, async () => {
      for (const pause of [0, ...removalRetryMs]) {
        if (this.stopping.signal.aborted) return // the next start finds it
        await delay(pause, undefined, { signal: this.stopping.signal, ref: false }).catch(() => {})
        const end = await this.tryRemove(snapshotter, backendKey)
        // A commit that was cut short has left it under its other name.
        const last = end === 'missing' ? await this.tryRemove(snapshotter, layerKey(backendKey)) : end
        if (last !== 'not yet') return
      }
      this.log.error({ snapshotter, key: backendKey }, 'a removed snapshot still has files; it is tried again')
      this.askAgain('snapshotter')
    })
  }

  private async tryRemove(snapshotter: string, key: string): Promise<'removed' | 'missing' | 'not yet'> {
    // What looked like a leftover when the plugin listed it may have been committed and recorded since.
    if (this.store.world.backendKeys.has(snapshotter, key)) return 'removed'
    try {
      await this.snapshotter(snapshotter).remove({ snapshotter, key })
      return 'removed'
    } catch (error) {
      if (error instanceof StatusError && error.code === Code.NOT_FOUND) return 'missing'
      this.log.debug({ snapshotter, key, reason: messageOf(error) }, 'a snapshot cannot be removed yet')
      return 'not yet'
    }
  }

  private allowed(place: SnapshotPlace, parent: string) {
    const { world } = this.store
    const refusal = refusalToPrepare(world, place, parent)
    if (refusal) throw refusalStatus(refusal)
    return { record: parent === '' ? undefined : world.namespace(place.namespace).snapshot(place.snapshotter, parent) }
  }
}

function refusalToPrepare(
  world: World,
  { namespace, snapshotter, key }: SnapshotPlace,
  parent: string,
  madeOn?: string,
) {
  const here = world.namespace(namespace)
  const record = parent === '' ? undefined : here.snapshot(snapshotter, parent)
  return mayPrepare(
    here.snapshot(snapshotter, key),
    here.commitAbout(snapshotter, key),
    { name: parent, record, ...(madeOn !== undefined && { madeOn }) },
    key,
  )
}

function leased(
  here: NamespaceState,
  decision: Decision,
  { namespace, snapshotter }: SnapshotPlace,
  key: string,
  lease: string | undefined,
) {
  const held = lease === undefined ? undefined : { id: lease, view: here.lease(lease) }
  return withLease(decision, namespace, held, { type: `snapshots/${snapshotter}`, id: key })
}

/**
 * All snapshots of a snapshotter in a namespace are decided one after the other, since parents and children depend on
 * each other. It takes no longer than a flush.
 */
export const snapshotLane = ({ namespace, snapshotter }: SnapshotPlace) => `snapshot/${namespace}/${snapshotter}`

/** Held while the plugin works on a key. */
const keyOf = ({ namespace, snapshotter, key }: SnapshotPlace) => `${namespace}/${snapshotter}/${key}`
