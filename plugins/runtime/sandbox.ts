// One sandbox: a shim that serves containerd.runtime.sandbox.v1, and in which containers are run.
import { SandboxExit } from '../../proto/gen/containerd/events/sandbox.js'
import { SandboxService } from '../../proto/gen/containerd/runtime/sandbox/v1/sandbox.js'
import { Any } from '../../proto/gen/google/protobuf/any.js'
import type { Timestamp } from '../../proto/gen/google/protobuf/timestamp.js'
import {
  type CreateSandboxRequest,
  Liveness,
  type Sandbox as SandboxInfo,
  type StartSandboxResponse,
} from '../../proto/gen/purser/runtime/v1/runtime.js'
import { failedPrecondition, unknown } from '../kit/errors.js'
import { isAlive } from '../kit/identity.js'
import type { TaskName } from './bundle.js'
import { cleanUpContainer, shimCommand } from './cleanup.js'
import type { RuntimeBase, SandboxShim } from './context.js'
import { within } from './deadline.js'
import { Exits } from './exits.js'
import type { Exit, History } from './history.js'
import { type CallLimits, ShimLost, type TaskMethod } from './shim.js'
import type { Seat } from './shims.js'
import { endMarked, newMark } from './strays.js'

/** What containerd says of a sandbox whose end nobody saw. */
const unknownStatus = 255

/** How long the removal of a sandbox waits for its exit to be taken. */
const tellMs = 1000

/** containerd's shims are shared by what this names; no container's id has a slash. */
const groupOf = (id: string) => `sandbox/${id}`

export class Sandbox {
  readonly name: TaskName
  readonly history: History
  readonly #exits: Exits
  readonly #context: RuntimeBase
  #seat: Seat | undefined
  #startedAt: Timestamp | undefined
  /** Somebody may know of it, and wants to know of its end. */
  #isMade = false
  /** What is left of it is being ended; resolves when only the bundle is left. */
  #dead: Promise<void> | undefined
  #destroyed: Promise<void> | undefined

  constructor(name: TaskName, history: History, context: RuntimeBase) {
    this.name = name
    this.history = history
    this.#context = context
    this.#exits = new Exits(name, history, context, emissionOf)
  }

  /** On failure nothing is left, and the error has the shim's own words. */
  async create(request: CreateSandboxRequest, binary: string): Promise<void> {
    const { id, runtime, rootfs, options, netnsPath, annotations, spec, runtimeOptions } = request
    const { starts, sandboxBundles, shims, settings } = this.#context
    const { shimStartMs, reconnectMs, createMs } = settings.deadlines
    sandboxBundles.make(this.name, spec?.value ?? '{}', 0)
    try {
      const made = { ...this.name, runtime, binary, group: groupOf(id), ownUserNamespace: false, mark: newMark() }
      this.history.record({ kind: 'made', ...made })
      const input = runtimeOptions && Any.encode(runtimeOptions).finish()
      const command = shimCommand(this.#context, this.name, this.history, made.mark)
      await starts.run(async () => {
        const seat = await shims.join(command, made.group, input, { startMs: shimStartMs, connectMs: reconnectMs })
        this.#seat = seat
        await seat.shim.identify(id, { deadlineMs: createMs })
        if (seat.shim.facts) this.history.record({ kind: 'shim', ...seat.shim.facts })
        await seat.shim.call(
          SandboxService.createSandbox,
          { sandboxId: id, bundlePath: this.history.bundle, rootfs, options, netnsPath, annotations },
          { deadlineMs: createMs },
        )
      })
      this.#isMade = true
      this.#watch()
    } catch (error) {
      await this.destroy()
      // A lost shim is not to be mistaken for a plugin that may be asked again.
      if (error instanceof ShimLost) throw unknown(`sandbox ${id}: the shim ended before it answered`, error)
      throw error
    }
  }

  /** Of an earlier run of this plugin: in its shim again, or known to have none. */
  async restore(): Promise<void> {
    const { shim, origin, bundle } = this.history
    this.#isMade = true
    this.#exits.repeatUntold()
    // Its creation was never answered, or its shim is gone: the supervisor decides what becomes of it.
    if (!shim || !origin || !isAlive(shim.process)) return this.#bury()
    try {
      const place = { ...this.name, bundle, group: origin.group }
      this.#seat = await this.#context.shims.rejoin(place, shim, this.#context.settings.deadlines.reconnectMs)
    } catch (error) {
      this.#context.log.warn({ ...this.name, err: error }, "a sandbox's shim takes no connection; it counts as dead")
      return this.#bury()
    }
    this.#watch()
    if (this.#pid !== 0) void this.#awaitExit()
  }

  async start(): Promise<StartSandboxResponse> {
    const { startMs } = this.#context.settings.deadlines
    const request = { sandboxId: this.name.id }
    const { pid, createdAt } = await this.call(SandboxService.startSandbox, request, { deadlineMs: startMs })
    this.#startedAt = createdAt
    this.#exits.note({ kind: 'started', execId: '', pid })
    void this.#awaitExit()
    return this.#started(pid)
  }

  /** Whatever the shim answers. FAILED_PRECONDITION once it is gone. */
  async call<Request, Response>(
    method: TaskMethod<Request, Response>,
    request: Request,
    limits: CallLimits = { deadlineMs: this.#context.settings.deadlines.callMs },
  ): Promise<Response> {
    if (this.#seat && !this.#dead) {
      try {
        return await this.#seat.shim.call(method, request, limits)
      } catch (error) {
        if (!(error instanceof ShimLost)) throw error
        this.#bury()
      }
    }
    throw failedPrecondition(`the shim of sandbox ${this.name.id} is gone: shut the sandbox down`)
  }

  /** Shuts it down, and removes shim and bundle. What still runs in its shim ends with that. */
  destroy(): Promise<void> {
    this.#destroyed ??= this.#destroy()
    return this.#destroyed
  }

  describe(): SandboxInfo {
    const exit = this.history.processes.get('')?.exit
    const alive = this.#seat !== undefined && this.#dead === undefined
    return {
      ...this.name,
      liveness: alive ? Liveness.LIVENESS_ALIVE : Liveness.LIVENESS_DEAD,
      started: this.#pid === 0 ? undefined : this.#started(this.#pid),
      exitedAt: exit?.at,
      exitStatus: exit?.status ?? 0,
    }
  }

  /** Where its containers are run; undefined when it has no shim. */
  get shim(): SandboxShim | undefined {
    const { origin, shim } = this.history
    return origin && shim && !this.#dead ? { binary: origin.binary, group: origin.group, facts: shim } : undefined
  }

  get #pid(): number {
    return this.history.processes.get('')?.pid ?? 0
  }

  #started(pid: number): StartSandboxResponse {
    const { address = '', version = 0 } = this.history.shim ?? {}
    return { pid, createdAt: this.#startedAt, address, version }
  }

  #watch(): void {
    void this.#seat?.shim.lost.then(() => this.#destroyed ?? this.#bury())
  }

  /** The shim tells no event of a sandbox's end: it is waited for. */
  async #awaitExit(): Promise<void> {
    try {
      const { exitStatus, exitedAt } = await this.call(
        SandboxService.waitSandbox,
        { sandboxId: this.name.id },
        { deadlineMs: 0 },
      )
      this.#exits.reportSoon('', { pid: this.#pid, status: exitStatus, at: exitedAt ?? now() })
    } catch (error) {
      this.#context.log.debug({ ...this.name, err: error }, 'the end of a sandbox has to be learned otherwise')
    }
  }

  #bury(): void {
    this.#dead ??= this.#end()
  }

  /** Without its shim: what that has left is ended, and its end told. */
  async #end(): Promise<void> {
    const { origin, shim, bundle } = this.history
    const { settings, shims } = this.#context
    await endMarked(shim?.mark ?? origin?.mark ?? '', settings.deadlines.callMs)
    if (origin) await cleanUpContainer(this.#context, shimCommand(this.#context, this.name, this.history))
    if (this.#seat) await this.#seat.leave('byForce')
    else if (origin && shim) await shims.removeSocket({ ...this.name, bundle, group: origin.group }, shim.address)
    if (shim && this.#isMade && !this.history.processes.get('')?.exit)
      this.#exits.reportSoon('', { pid: this.#pid, status: unknownStatus, at: now() })
  }

  async #destroy(): Promise<void> {
    const { settings, log, sandboxBundles } = this.#context
    const seat = this.#dead ? undefined : this.#seat
    if (seat) {
      const limits = { deadlineMs: settings.deadlines.callMs }
      await seat.shim
        .call(SandboxService.shutdownSandbox, { sandboxId: this.name.id }, limits)
        .catch((error: unknown) => log.debug({ ...this.name, err: error }, 'a sandbox did not answer to its shutdown'))
      await seat.shim.kill()
    }
    this.#bury()
    await this.#dead
    // The supervisor shall know how it ended before it hears that it is gone.
    await within(this.#exits.allTold(), tellMs, 'telling the end of a sandbox').catch(() => undefined)
    this.#exits.note({ kind: 'removed', execId: '' })
    try {
      this.history.bundle = sandboxBundles.retire(this.history.bundle)
      sandboxBundles.remove(this.history.bundle)
      this.history.bundle = ''
    } catch (error) {
      log.error({ ...this.name, err: error }, 'the bundle of a sandbox could not be removed')
    }
  }
}

function emissionOf({ id }: TaskName, { status, at }: Exit) {
  const exit = SandboxExit.create({ sandboxId: id, exitStatus: status, exitedAt: at })
  return {
    topic: '/sandboxes/exit',
    event: { typeUrl: 'containerd.events.SandboxExit', value: Buffer.from(SandboxExit.encode(exit).finish()) },
  }
}

function now(): Timestamp {
  const milliseconds = Date.now()
  return { seconds: BigInt(Math.floor(milliseconds / 1000)), nanos: (milliseconds % 1000) * 1_000_000 }
}
