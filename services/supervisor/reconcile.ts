// Compares the journal with reality, part by part, as soon as the plugin that knows reality has registered.
import type { Logger } from 'pino'
import type { Blobs } from './effects/blobs.js'
import type { PluginName } from './effects/emissions.js'
import type { NetworkRecovery } from './effects/recovery/networks.js'
import type { SandboxRecovery } from './effects/recovery/sandboxes.js'
import type { TaskRecovery } from './effects/recovery/tasks.js'
import type { Snapshots } from './effects/snapshots.js'
import type { Journal } from './journal/journal.js'
import { missing } from './state/losses.js'
import type { Store } from './state/store.js'

export interface Reconciled {
  tasks: TaskRecovery
  sandboxes: SandboxRecovery
  networks: NetworkRecovery
  snapshots: Snapshots
  blobs: Blobs
}

/** How long until what could not be settled is looked at again. */
const pauseMinMs = 500
const pauseMaxMs = 30_000

/**
 * Nothing is compared with a damaged journal, whose fold may lack what the damage hides: what it lacks would be taken
 * for an orphan. Registering is itself a fact, so there it does not begin. Nor with one whose disk has failed, until a
 * restart has read it.
 */
export class Reconciliation {
  private readonly watched = new Map<string, Part>()
  private stopListening = (): void => {}

  constructor(
    private readonly store: Store,
    private readonly journal: Pick<Journal, 'health'>,
    private readonly log: Logger,
  ) {}

  /** From now on, whenever a plugin has (re)registered, its part is compared, and again until nothing is left open. */
  begin(parts: Reconciled): void {
    this.stopListening = this.store.subscribe(({ event }) => {
      if (event.type === 'PluginReady') this.part(parts, event.kind, event.id).begin()
      // What was spared before may go now.
      if (event.type === 'RecordLossAccepted') for (const part of this.watched.values()) part.begin()
    })
  }

  /** Resolves when no comparison is under way. */
  async settled(): Promise<void> {
    await Promise.all([...this.watched.values()].map(({ running }) => running))
  }

  /** Something of this kind is open that its plugin alone can tell: it is asked soon. */
  again(kind: string): void {
    for (const part of this.watched.values()) if (part.options.kind === kind) part.later()
  }

  stop(): void {
    this.stopListening()
    for (const part of this.watched.values()) part.stop()
  }

  private part(parts: Reconciled, kind: string, id: string): Part {
    const { store, journal, log } = this
    const known =
      this.watched.get(`${kind}/${id}`) ??
      new Part({ kind, id, store, journal, log, compare: isWhole => partOf(parts, kind, id, isWhole) })
    this.watched.set(`${kind}/${id}`, known)
    return known
  }
}

interface PartOptions extends PluginName {
  store: Store
  journal: Pick<Journal, 'health'>
  log: Logger
  /** Answers whether nothing is left open. Of a journal that is not whole, nothing passes for an orphan. */
  compare(isWhole: boolean): Promise<boolean>
}

/** What one plugin knows, compared again and again until nothing is open; one comparison at a time. */
class Part {
  running: Promise<void> | undefined
  private isAskedFor = false
  private isStopped = false
  private pauseMs = pauseMinMs
  private endedAt = 0
  private timer: NodeJS.Timeout | undefined

  constructor(readonly options: PartOptions) {}

  begin(): void {
    clearTimeout(this.timer)
    this.timer = undefined
    this.pauseMs = pauseMinMs
    if (this.running) this.isAskedFor = true
    else this.run()
  }

  later(): void {
    if (this.running) this.isAskedFor = true
    else if (!this.timer) {
      // What fails again and again is asked for ever more seldom.
      if (performance.now() - this.endedAt > 2 * this.pauseMs) this.pauseMs = pauseMinMs
      this.schedule()
    }
  }

  stop(): void {
    this.isStopped = true
    clearTimeout(this.timer)
  }

  private run(): void {
    this.isAskedFor = false
    this.running = this.compare().then(isDone => {
      this.running = undefined
      this.endedAt = performance.now()
      if (!isDone || this.isAskedFor) this.schedule()
    })
  }

  private schedule(): void {
    if (this.isStopped) return
    this.timer = setTimeout(() => {
      this.timer = undefined
      const { store, journal, kind, id } = this.options
      // One that is away is asked when it is back.
      if (store.world.plugin(kind, id).state !== 'ready') return
      const health = journal.health()
      if (health.writable || health.reason === 'full') this.run()
      else this.schedule()
    }, this.pauseMs).unref()
    this.pauseMs = Math.min(2 * this.pauseMs, pauseMaxMs)
  }

  private async compare(): Promise<boolean> {
    const { kind, id, store, log, compare } = this.options
    const lost = missing(store.world.lost)
    const isWhole = lost === 0
    if (kind !== 'runtime' && !isWhole) {
      log.warn(
        { kind, id, lost },
        'the journal lost records: what they told of must not pass for an orphan; `purser journal accept` shows what is not known, and lets it be removed',
      )
    }
    const begun = performance.now()
    try {
      const isDone = await compare(isWhole)
      const ms = Math.round(performance.now() - begun)
      if (isDone) log.info({ kind, id, ms }, 'reconciled with the plugin')
      else log.info({ kind, id, ms }, 'not everything could be reconciled with the plugin: it is tried again')
      return isDone
    } catch (error) {
      log.warn({ kind, id, err: error }, 'could not reconcile with the plugin; it is tried again')
      return false
    }
  }
}

async function partOf(parts: Reconciled, kind: string, id: string, isWhole: boolean): Promise<boolean> {
  switch (kind) {
    case 'runtime':
      return (await Promise.all([parts.tasks.run(), parts.sandboxes.run()])).every(isDone => isDone)
    case 'network':
      return isWhole ? parts.networks.run() : true
    case 'snapshotter':
      if (!(await parts.snapshots.finishCommits(id))) return false
      if (isWhole) await parts.snapshots.removeOrphans(id)
      return true
    case 'content':
      if (isWhole) await parts.blobs.reconcile()
      return true
    default:
      return true
  }
}
