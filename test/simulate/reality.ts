// What exists beside the supervisor and outlives it: shims and their processes, attachments, snapshots, blobs. Each
// operation happens at one instant; when, and whether its answer arrives, is the plugin host's affair.
import { Code, StatusError } from '../../plugins/kit/errors.js'
import type { Info } from '../../proto/gen/containerd/services/content/v1/content.js'
import { Status } from '../../proto/gen/containerd/v1/types/task.js'
import type { Attachment } from '../../proto/gen/purser/network/v1/network.js'
import { Liveness, type StateResponse, type Task } from '../../proto/gen/purser/runtime/v1/runtime.js'
import { Chance } from './random.js'
import { Party, type Time } from './time.js'

export interface Process {
  pid: number
  status: Status
  exitStatus: number
  exitedAt: { seconds: bigint; nanos: number } | undefined
}

export interface Shim {
  namespace: string
  id: string
  /** The container's own processes go on whatever becomes of the plugin host. */
  party: Party
  init: Process
  execs: Map<string, Process>
  /** Its shim was killed: what is left waits to be cleared away. */
  dead: boolean
  /** Until then its shim answers nothing and tells nothing; its container goes on. */
  silentUntil: number
}

export interface Exit {
  emission: string
  namespace: string
  id: string
  execId: string
  process: Process
}

const refused = (code: Code, words: string) => new StatusError(code, words)
const absent = (what: string) => refused(Code.NOT_FOUND, `${what}: not found`)
const notNow = (what: string) => refused(Code.FAILED_PRECONDITION, `${what}: failed precondition`)

export class Shims {
  readonly shims = new Map<string, Shim>()
  /** Exits that the supervisor has not acknowledged: the plugin keeps them in its bundles. */
  readonly untold = new Map<string, Exit>()
  onExit: (exit: Exit) => void = () => {}
  private readonly chance: Chance
  private pids = 1000

  constructor(
    private readonly time: Time,
    seed: number,
  ) {
    this.chance = new Chance(seed, 'processes')
  }

  create(namespace: string, id: string): number {
    const key = `${namespace}/${id}`
    if (this.shims.has(key)) throw refused(Code.ALREADY_EXISTS, `task ${id}: already exists`)
    const party = new Party(`container ${key}`)
    const init = this.process()
    this.shims.set(key, { namespace, id, party, init, execs: new Map(), dead: false, silentUntil: 0 })
    return init.pid
  }

  start(namespace: string, id: string, execId: string): number {
    const shim = this.alive(namespace, id)
    const process = this.processOf(shim, execId)
    if (process.status !== Status.CREATED) throw notNow(`process of ${id}`)
    process.status = Status.RUNNING
    // Some end before anybody hears that they have begun.
    if (this.chance.happens(0.7)) {
      const life = this.chance.happens(0.3) ? this.chance.below(2_000) : this.chance.delay(400_000)
      this.time.after(life, shim.party, 'process ends', () => this.end(shim, execId, this.chance.below(3), process))
    }
    return process.pid
  }

  exec(namespace: string, id: string, execId: string): void {
    const shim = this.alive(namespace, id)
    if (shim.init.status !== Status.RUNNING) throw notNow(`task ${id}`)
    if (shim.execs.has(execId)) throw refused(Code.ALREADY_EXISTS, `exec ${execId}: already exists`)
    shim.execs.set(execId, this.process())
  }

  kill(namespace: string, id: string, execId: string, signal: number): void {
    const shim = this.alive(namespace, id)
    const process = this.processOf(shim, execId)
    if (process.status === Status.STOPPED) throw absent('process already finished')
    if (signal === 9 || this.chance.happens(0.5))
      this.time.after(this.chance.delay(500), shim.party, 'process ends', () =>
        this.end(shim, execId, 128 + signal, process),
      )
  }

  pause(namespace: string, id: string): void {
    const { init } = this.alive(namespace, id)
    if (init.status !== Status.RUNNING) throw notNow(`task ${id}`)
    init.status = Status.PAUSED
  }

  resume(namespace: string, id: string): void {
    const { init } = this.alive(namespace, id)
    if (init.status !== Status.PAUSED) throw notNow(`task ${id}`)
    init.status = Status.RUNNING
  }

  delete(namespace: string, id: string, execId: string): Process {
    const shim = this.shims.get(`${namespace}/${id}`)
    if (!shim) throw absent(`task ${id}`)
    const process = this.processOf(shim, execId)
    if (process.status === Status.RUNNING || process.status === Status.PAUSED) throw notNow(`process of ${id}`)
    if (execId !== '') shim.execs.delete(execId)
    else this.remove(shim)
    return process
  }

  destroy(namespace: string, id: string): void {
    const shim = this.shims.get(`${namespace}/${id}`)
    if (shim) this.remove(shim)
  }

  state(namespace: string, id: string, execId: string): StateResponse {
    return { ...this.processOf(this.alive(namespace, id), execId) }
  }

  list(): Task[] {
    return [...this.shims.values()].map(({ namespace, id, init, dead, silentUntil }) => {
      const isSilent = silentUntil > this.time.now
      const alive = isSilent ? Liveness.LIVENESS_UNRESPONSIVE : Liveness.LIVENESS_ALIVE
      return {
        namespace,
        id,
        bundle: `/bundles/${namespace}/${id}`,
        liveness: dead ? Liveness.LIVENESS_DEAD : alive,
        init: dead || isSilent ? undefined : { ...init },
      }
    })
  }

  /** For how long nothing will be heard from a shim. */
  silence(key: string): number {
    const shim = this.shims.get(key)
    return shim && !shim.dead ? Math.max(0, shim.silentUntil - this.time.now) : 0
  }

  /** A shim is killed, and its container with it. */
  killShim(shim: Shim): void {
    if (shim.dead) return
    this.end(shim, '', 137)
    shim.dead = true
  }

  /** The machine starts anew: nothing that ran is there, and nobody tells how it ended. */
  forget(): void {
    for (const shim of [...this.shims.values()]) this.remove(shim)
    this.untold.clear()
  }

  /** `meant`: only if it is still this one, for another may have taken its name. */
  private end(shim: Shim, execId: string, exitStatus: number, meant?: Process): void {
    const process = execId === '' ? shim.init : shim.execs.get(execId)
    if (shim.dead || !process || process.status === Status.STOPPED || process !== (meant ?? process)) return
    const now = this.time.milliseconds()
    process.status = Status.STOPPED
    process.exitStatus = exitStatus
    process.exitedAt = { seconds: BigInt(Math.floor(now / 1000)), nanos: (now % 1000) * 1_000_000 }
    // Added processes end with it; of those that were never started nothing is told.
    if (execId === '')
      for (const [other, { status }] of shim.execs) if (status === Status.RUNNING) this.end(shim, other, 137)
    const { namespace, id } = shim
    const exit = { emission: `${namespace}/${id}/${execId}/${process.pid}`, namespace, id, execId, process }
    this.untold.set(exit.emission, exit)
    this.onExit(exit)
  }

  private remove(shim: Shim): void {
    shim.party.alive = false
    this.shims.delete(`${shim.namespace}/${shim.id}`)
  }

  private alive(namespace: string, id: string): Shim {
    const shim = this.shims.get(`${namespace}/${id}`)
    if (!shim || shim.dead) throw absent(`task ${id}`)
    return shim
  }

  private processOf(shim: Shim, execId: string): Process {
    const process = execId === '' ? shim.init : shim.execs.get(execId)
    if (!process) throw absent(`exec ${execId}`)
    return process
  }

  private process(): Process {
    return { pid: ++this.pids, status: Status.CREATED, exitStatus: 0, exitedAt: undefined }
  }
}

export class Attachments {
  readonly attachments = new Map<string, Attachment>()
  private addresses = 1

  attach(namespace: string, id: string, network: string): Attachment {
    const address = `10.0.${this.addresses >> 8}.${this.addresses++ & 255}/16`
    const attachment: Attachment = {
      namespace,
      id,
      network,
      netnsPath: `/run/netns/${namespace}-${id}`,
      addresses: [address],
      gateways: ['10.0.0.1'],
      interface: 'eth0',
      result: Buffer.alloc(0),
    }
    this.attachments.set(`${namespace}/${id}`, attachment)
    return attachment
  }

  detach(namespace: string, id: string): void {
    this.attachments.delete(`${namespace}/${id}`)
  }
}

interface Layer {
  kind: 'active' | 'view' | 'committed'
  parent: string
}

export class Layers {
  readonly layers = new Map<string, Layer>()

  prepare(kind: 'active' | 'view', key: string, parent: string): void {
    if (this.layers.has(key)) throw refused(Code.ALREADY_EXISTS, `snapshot ${key}: already exists`)
    if (parent !== '' && this.layers.get(parent)?.kind !== 'committed') throw absent(`parent ${parent}`)
    this.layers.set(key, { kind, parent })
  }

  commit(key: string, name: string): void {
    const layer = this.layers.get(key)
    if (!layer) throw absent(`snapshot ${key}`)
    if (this.layers.has(name)) throw refused(Code.ALREADY_EXISTS, `snapshot ${name}: already exists`)
    this.layers.delete(key)
    this.layers.set(name, { kind: 'committed', parent: layer.parent })
  }

  stat(key: string): Layer {
    const layer = this.layers.get(key)
    if (!layer) throw absent(`snapshot ${key}`)
    return layer
  }

  remove(key: string): void {
    this.stat(key)
    if (this.childrenOf(key).length > 0) throw notNow(`snapshot ${key}`)
    this.layers.delete(key)
  }

  childrenOf(key: string): string[] {
    return [...this.layers].filter(([, { parent }]) => parent === key).map(([child]) => child)
  }
}

export class BlobFiles {
  readonly blobs = new Map<string, Info>()

  constructor(private readonly time: Time) {}

  commit(digest: string, size: bigint): void {
    if (this.blobs.has(digest)) throw refused(Code.ALREADY_EXISTS, `content ${digest}: already exists`)
    const now = { seconds: BigInt(Math.floor(this.time.milliseconds() / 1000)), nanos: 0 }
    this.blobs.set(digest, { digest, size, createdAt: now, updatedAt: now, labels: {} })
  }

  delete(digest: string): void {
    if (!this.blobs.delete(digest)) throw absent(`content ${digest}`)
  }
}
