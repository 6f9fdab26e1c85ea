// The plugin host: it answers the supervisor's calls by acting on reality, late, out of order, not at all, or it dies.
import type { CallOptions } from '../../plugins/kit/calls.js'
import { Code, notFound, StatusError, unavailable, unimplemented } from '../../plugins/kit/errors.js'
import { CallsUnderWay } from '../../plugins/kit/underWay.js'
import { TaskExit } from '../../proto/gen/containerd/events/task.js'
import type { ListContentResponse } from '../../proto/gen/containerd/services/content/v1/content.js'
import { Info, type ListSnapshotsResponse } from '../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import type { Emit } from '../../proto/gen/purser/plugins/v1/registry.js'
import type { ListResponse, StatsResponse } from '../../proto/gen/purser/runtime/v1/runtime.js'
import type {
  ContentCalls,
  NetworkCalls,
  RuntimeCalls,
  SnapshotterCalls,
} from '../../services/supervisor/effects/ports.js'
import { Chance } from './random.js'
import { Attachments, BlobFiles, type Exit, Layers, Shims } from './reality.js'
import { type Entry, Party, type Time } from './time.js'

/** Where the host's plugins register, and where what they tell goes. */
export interface Registry {
  register(): Promise<void>
  emit(emission: Emit, acknowledged: () => void): void
  lost(): void
}

interface Pending {
  reject(error: StatusError): void
}

/** The chance that a plugin refuses a call without having done anything. */
const refusalChance = 0.02

/** The chance that it takes long for what it is asked, in microseconds, and others overtake it. */
const slowChance = 0.02
const slow = 200_000

/** As the plugins have it: how long a host waits for its next supervisor, and that one for what the last had asked. */
const lingerFor = 10_000_000
const abandonedPatienceMs = 500

/** What a shim has to answer. Who lists tasks, or destroys one, does not wait for it. */
const asksShim = new Set(['start', 'exec', 'delete', 'kill', 'pause', 'resume', 'state'])

const noSandbox = () => Promise.reject(unimplemented('sandboxes'))
/** There are none in this world. */
const noSandboxes = {
  ...{ createSandbox: noSandbox, startSandbox: noSandbox, stopSandbox: noSandbox, destroySandbox: noSandbox },
  ...{ sandboxPlatform: noSandbox, sandboxStatus: noSandbox, sandboxMetrics: noSandbox, listSandboxes: noSandbox },
}

export class Host {
  readonly shims: Shims
  readonly attachments = new Attachments()
  readonly layers = new Layers()
  readonly blobs: BlobFiles
  /** Undefined while no host runs. */
  private process: Party | undefined
  private serving = false
  /** Who was told last that the plugins are ready. */
  private servesFor: Party | undefined
  /** Undefined also while no supervisor has it. */
  private registry: Registry | undefined
  private begun = false
  private isLeaving = false
  private underWay = new CallsUnderWay()
  private lingering: Entry | undefined
  private readonly pending = new Set<Pending>()
  private readonly waiting = new Set<() => void>()
  private readonly chances = new Map<string, Chance>()
  /** Until then it does nothing, though it lives. */
  private stoppedUntil = 0
  /** By what was asked about: when the last of it that had to wait is done. */
  private readonly ordered = new Map<string, number>()
  /** Nothing goes wrong any more. */
  calm = false

  constructor(
    private readonly time: Time,
    private readonly seed: number,
    /** Hears what the plugins do. */
    private readonly tell?: (line: () => string) => void,
  ) {
    this.shims = new Shims(time, seed)
    this.blobs = new BlobFiles(time)
    this.shims.onExit = exit => this.tellExit(exit)
  }

  /** The supervisor starts a host, which registers. */
  start(registry: Registry, supervisor: Party): void {
    const process = new Party('host')
    this.process = process
    this.registry = registry
    this.begun = false
    this.isLeaving = false
    this.underWay = new CallsUnderWay()
    this.time.after(this.draw('start').delay(20_000), process, 'host starts', () => {
      this.begun = true
      this.time.after(50, supervisor, 'host registers', () => void registry.register())
    })
  }

  /** Its supervisor has crashed: it goes on with what it was asked for, and waits for the next one. */
  linger(): void {
    const { process } = this
    if (!this.begun) this.die()
    if (!process?.alive) return
    this.tell?.(() => 'the plugin host lingers')
    this.registry = undefined
    this.serving = false
    this.pending.clear()
    if (this.lingering) this.lingering.cancelled = true
    this.lingering = this.time.after(lingerFor, process, 'no supervisor has come', () => this.die())
  }

  /** It waits for a supervisor. */
  get lingers(): boolean {
    return this.runs && this.registry === undefined && !this.isLeaving
  }

  /** The next supervisor takes it up as it is. */
  takeUp(registry: Registry, supervisor: Party): void {
    const { process, time } = this
    if (!process) return
    this.tell?.(() => 'the plugin host is taken up')
    if (this.lingering) this.lingering.cancelled = true
    this.registry = registry
    time.after(this.stopped() + this.draw('take up').delay(2_000), process, 'host comes back', () => {
      time.after(50, supervisor, 'host registers', () => void registry.register())
    })
  }

  /** The next supervisor wants another one. */
  leave(): void {
    const { process } = this
    if (!process) return
    this.isLeaving = true
    this.time.after(this.draw('leave').delay(100_000), process, 'host leaves', () => this.die())
  }

  /** It was welcomed; resolves when what a supervisor that is gone had asked for is over, or never: then it has ended. */
  ready(supervisor: Party): Promise<void> {
    const { process, time } = this
    return new Promise(resolve => {
      if (!process) return
      time.after(this.stopped() + 50, process, 'host is welcomed', () => {
        void this.underWay.abandonedOver(abandonedPatienceMs).then(isOver => {
          if (!process.alive) return
          if (isOver) time.after(50, supervisor, 'host is ready', resolve)
          else this.die()
        })
      })
    })
  }

  /** Its plugins serve. */
  serve(supervisor: Party): void {
    this.serving = true
    this.servesFor = supervisor
    for (const wake of this.waiting) wake()
    this.waiting.clear()
    for (const exit of this.shims.untold.values()) this.tellExit(exit)
  }

  /** It is killed: what it had not done yet is not done. The supervisor, if it lives, hears of it and starts another. */
  die(): void {
    if (!this.process) return
    this.process.alive = false
    this.process = undefined
    this.serving = false
    this.stoppedUntil = 0
    this.ordered.clear()
    const lost = [...this.pending]
    this.pending.clear()
    for (const call of lost) call.reject(unavailable('the plugin went away'))
    this.registry?.lost()
  }

  /** It hangs for a while, or for longer. */
  stop(microseconds: number): void {
    this.stoppedUntil = Math.max(this.stoppedUntil, this.time.now + microseconds)
  }

  /** What a host that hangs finds when it goes on about one thing, it does in the order in which it was asked. */
  private until(method: string, key: string, usual: number): number {
    const stopped = Math.max(this.stopped(), asksShim.has(method) ? this.shims.silence(key) : 0)
    const before = this.ordered.get(key) ?? 0
    if (stopped === 0 && before <= this.time.now) return usual
    const at = Math.max(this.time.now + stopped + usual, before)
    this.ordered.set(key, at)
    return at - this.time.now
  }

  get runs(): boolean {
    return this.process !== undefined
  }

  readonly runtime: RuntimeCalls = {
    create: ({ namespace, id }, options) =>
      this.call('create', `${namespace}/${id}`, 3_000, options, () => {
        const pid = this.shims.create(namespace, id)
        return { pid, bundle: `/bundles/${namespace}/${id}`, adjustments: [] }
      }),
    start: ({ namespace, id, execId }, options) =>
      this.call('start', `${namespace}/${id}`, 1_000, options, () => ({
        pid: this.shims.start(namespace, id, execId),
      })),
    exec: ({ namespace, id, execId }, options) =>
      this.call('exec', `${namespace}/${id}`, 500, options, () => {
        this.shims.exec(namespace, id, execId)
        return {}
      }),
    delete: ({ namespace, id, execId }, options) =>
      this.call('delete', `${namespace}/${id}`, 1_000, options, () => this.shims.delete(namespace, id, execId)),
    destroy: ({ namespace, id }, options) =>
      this.call('destroy', `${namespace}/${id}`, 1_000, options, () => {
        this.shims.destroy(namespace, id)
        return {}
      }),
    kill: ({ namespace, id, execId, signal }, options) =>
      this.call('kill', `${namespace}/${id}`, 300, options, () => {
        this.shims.kill(namespace, id, execId, signal)
        return {}
      }),
    pause: ({ namespace, id }, options) =>
      this.call('pause', `${namespace}/${id}`, 500, options, () => {
        this.shims.pause(namespace, id)
        return {}
      }),
    resume: ({ namespace, id }, options) =>
      this.call('resume', `${namespace}/${id}`, 500, options, () => {
        this.shims.resume(namespace, id)
        return {}
      }),
    state: ({ namespace, id, execId }, options) =>
      this.call('state', `${namespace}/${id}`, 300, options, () => this.shims.state(namespace, id, execId)),
    list: (_request, options) => this.listTasks(options),
    resizePty: (_request, options) => this.call('resize', 'runtime', 100, options, () => ({})),
    closeIo: (_request, options) => this.call('close', 'runtime', 100, options, () => ({})),
    update: (_request, options) => this.call('update', 'runtime', 500, options, () => ({})),
    pids: (_request, options) => this.call('pids', 'runtime', 300, options, () => ({ processes: [] })),
    stats: (_request, options) => this.measureTasks(options),
    checkpoint: () => Promise.reject(unimplemented('checkpoints')),
    ...noSandboxes,
  }

  readonly network: NetworkCalls = {
    attach: ({ namespace, id, network }, options) =>
      this.call('attach', `${namespace}/${id}`, 5_000, options, () => ({
        attachment: this.attachments.attach(namespace, id, network),
      })),
    detach: ({ namespace, id }, options) =>
      this.call('detach', `${namespace}/${id}`, 5_000, options, () => {
        this.attachments.detach(namespace, id)
        return {}
      }),
    list: (_request, options) =>
      this.call('list', 'network', 500, options, () => ({ attachments: [...this.attachments.attachments.values()] })),
    check: (_request, options) => this.call('check', 'network', 500, options, () => ({})),
    networks: (_request, options) => this.call('networks', 'network', 500, options, () => ({ names: [] })),
  }

  readonly snapshotter: SnapshotterCalls = {
    prepare: ({ key, parent }, options) =>
      this.call('prepare', key, 800, options, () => {
        this.layers.prepare('active', key, parent)
        return { mounts: [] }
      }),
    view: ({ key, parent }, options) =>
      this.call('view', key, 800, options, () => {
        this.layers.prepare('view', key, parent)
        return { mounts: [] }
      }),
    commit: ({ key, name }, options) =>
      this.call('commit', key, 2_000, options, () => {
        this.layers.commit(key, name)
        return {}
      }),
    remove: ({ key }, options) =>
      this.call('remove', key, 500, options, () => {
        this.layers.remove(key)
        return {}
      }),
    stat: ({ key }, options) =>
      this.call('stat', key, 200, options, () => {
        this.layers.stat(key)
        return { info: undefined }
      }),
    usage: ({ key }, options) =>
      this.call('usage', key, 500, options, () => {
        this.layers.stat(key)
        return { size: 4096n, inodes: 1n }
      }),
    mounts: (_request, options) => this.call('mounts', 'snapshotter', 200, options, () => ({ mounts: [] })),
    update: (_request, options) => this.call('update', 'snapshotter', 200, options, () => ({ info: undefined })),
    list: (_request, options) => this.listLayers(options),
    cleanup: (_request, options) => this.call('cleanup', 'snapshotter', 200, options, () => ({})),
  }

  readonly content: ContentCalls = {
    delete: ({ digest }, options) =>
      this.call('delete', digest, 500, options, () => {
        this.blobs.delete(digest)
        return {}
      }),
    info: ({ digest }, options) =>
      this.call('info', digest, 200, options, () => {
        const info = this.blobs.blobs.get(digest)
        if (!info) throw notFound(digest)
        return { info }
      }),
    update: () => Promise.reject(unimplemented('labels')),
    list: (_request, options) => this.listBlobs(options),
    read: () => {
      throw unimplemented('reading')
    },
    status: ({ ref }) => Promise.reject(notFound(ref)),
    listStatuses: () => Promise.resolve({ statuses: [] }),
    abort: ({ ref }) => Promise.reject(notFound(ref)),
  }

  /** A blob's bytes were received; its commit is asked for. */
  commitBlob(digest: string, size: bigint): Promise<void> {
    return this.call('blob', digest, 1_500, { deadlineMs: Number.POSITIVE_INFINITY }, () =>
      this.blobs.commit(digest, size),
    )
  }

  private async *listLayers(options: CallOptions | undefined): AsyncGenerator<ListSnapshotsResponse> {
    const names = await this.call('list', 'snapshotter', 500, options, () => [...this.layers.layers.keys()])
    yield { info: names.map(name => Info.fromPartial({ name })) }
  }

  private async *listBlobs(options: CallOptions | undefined): AsyncGenerator<ListContentResponse> {
    yield { info: await this.call('list', 'content', 500, options, () => [...this.blobs.blobs.values()]) }
  }

  /** First the names, then each task as it is when its shim answers. */
  private async *listTasks(options: CallOptions | undefined): AsyncGenerator<ListResponse> {
    const names = await this.call('list', 'runtime', 500, options, () => this.shims.list())
    yield { names: names.map(({ namespace, id }) => ({ namespace, id })), tasks: [] }
    for (const { namespace, id } of names) {
      const found = await this.call('look', `${namespace}/${id}`, 300, options, () => this.shims.list())
      yield { names: [], tasks: found.filter(task => task.namespace === namespace && task.id === id) }
    }
  }

  private async *measureTasks(options: CallOptions | undefined): AsyncGenerator<StatsResponse> {
    yield await this.call('stats', 'runtime', 300, options, () => ({ tasks: [] }))
  }

  /** One call: it travels, is done at one instant, and its answer travels back. */
  private call<T>(
    method: string,
    key: string,
    usual: number,
    { deadlineMs = 30_000 }: CallOptions = {},
    work: () => T,
  ): Promise<T> {
    const { time } = this
    const supervisor = time.party
    const chance = this.draw(`${method} ${key}`)
    return new Promise<T>((resolve, reject) => {
      let isOver = false
      const end = (settle: () => void) => {
        if (isOver) return
        isOver = true
        this.pending.delete(pending)
        for (const timer of timers) timer.cancelled = true
        settle()
      }
      const pending: Pending = {
        reject: error =>
          void time.after(chance.delay(50), supervisor, `${method} lost`, () => end(() => reject(error))),
      }
      const timers: { cancelled: boolean }[] = []
      const arrive = (host: Party) => {
        this.pending.add(pending)
        const refusal = !this.calm && chance.happens(refusalChance)
        const over = this.underWay.begin({
          get cancelled() {
            return !supervisor.alive
          },
        })
        const isSlow = !this.calm && chance.happens(slowChance)
        // The plugin finds the task when the call arrives: of a later one of that name it knows nothing.
        const meant = asksShim.has(method) ? this.shims.shims.get(key) : undefined
        const act = () => {
          if (meant && this.shims.shims.get(key) !== meant) throw notFound(`task of ${method} ${key}`)
          return work()
        }
        time.after(this.until(method, key, chance.delay(isSlow ? slow : usual)), host, `${method} done`, () => {
          over()
          // Its successor has looked at what there was before this was done.
          if (supervisor !== this.servesFor && this.servesFor?.alive)
            throw new Error(`${method} is done for a supervisor that is gone`)
          const answer = this.answerOf(refusal, method, act)
          this.tell?.(() => `  plugin: ${method} ${key}${'error' in answer ? `: ${String(answer.error)}` : ''}`)
          time.after(chance.delay(150), supervisor, `${method} answered`, () =>
            end(() => ('error' in answer ? reject(answer.error) : resolve(answer.value))),
          )
        })
      }
      const send = () => {
        if (!supervisor.alive) return // it waited for a host, and died before one came
        const host = this.process
        if (host && this.serving) arrive(host)
        else this.waiting.add(send)
      }
      if (deadlineMs < Number.POSITIVE_INFINITY)
        timers.push(
          time.after(deadlineMs * 1000, supervisor, `${method} late`, () =>
            end(() => reject(new StatusError(Code.DEADLINE_EXCEEDED, `${method}: deadline exceeded`))),
          ),
        )
      if (!this.serving)
        timers.push(
          time.after(10_000_000, supervisor, `${method} unheard`, () => {
            if (this.waiting.delete(send)) end(() => reject(unavailable('the plugin is not running')))
          }),
        )
      send()
    })
  }

  private answerOf<T>(refusal: boolean, method: string, work: () => T): { value: T } | { error: unknown } {
    if (refusal) return { error: new StatusError(Code.UNKNOWN, `${method} failed, as the simulation wants it`) }
    try {
      return { value: work() }
    } catch (error) {
      return { error }
    }
  }

  private tellExit(exit: Exit): void {
    const { process, registry, time, shims } = this
    if (!process || !registry || !this.serving) return
    const chance = this.draw(`exit ${exit.namespace}/${exit.id}`)
    const { exitStatus, exitedAt, pid } = exit.process
    const value = { containerId: exit.id, id: exit.execId || exit.id, pid, exitStatus, exitedAt }
    const emission: Emit = {
      id: exit.emission,
      namespace: exit.namespace,
      topic: '/tasks/exit',
      timestamp: exitedAt,
      event: { typeUrl: 'containerd.events.TaskExit', value: Buffer.from(TaskExit.encode(value).finish()) },
    }
    const silence = shims.silence(`${exit.namespace}/${exit.id}`)
    const times = !this.calm && chance.happens(0.1) ? 2 : 1
    for (let copy = 0; copy < times; copy++)
      time.after(chance.delay(200) + Math.max(this.stopped(), silence), process, 'exit told', () =>
        registry.emit(emission, () => {
          time.after(chance.delay(30), process, 'exit acknowledged', () => void shims.untold.delete(exit.emission))
        }),
      )
  }

  private stopped(): number {
    return Math.max(0, this.stoppedUntil - this.time.now)
  }

  /** `name` must be the same in every run of a seed: of a snapshot's name at the plugin the part in the middle is not. */
  private draw(full: string): Chance {
    const name = full.replace(/\/[0-9a-z]{12,}\//, '/')
    const known = this.chances.get(name) ?? new Chance(this.seed, `host ${name}`)
    this.chances.set(name, known)
    return known
  }
}
