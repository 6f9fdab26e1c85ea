// All running shims, and who uses which: several containers may share one, and the last to leave ends it.
import { lstatSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from 'pino'
import type { ShimFacts } from './history.js'
import { type ShimCommand, type StartedShim, startShim } from './launch.js'
import { drainShimLog, type ShimLog } from './log.js'
import { Shim } from './shim.js'
import { endMarked } from './strays.js'

/** A task's place in a shim. */
export interface Seat {
  readonly shim: Shim
  /** Nobody else is in this shim, or about to be. */
  readonly sole: boolean
  /** Resolves, when this was the last one, after the shim has ended and its socket is gone. */
  leave(how: Leaving): Promise<void>
}

/** Where a task belongs. */
export interface Place {
  namespace: string
  id: string
  bundle: string
  group: string
}

/** `politely` shuts an empty shim down, `byForce` kills it: for one that does not answer, or died. */
export type Leaving = 'politely' | 'byForce'

/** A shim may have to be killed for longer than this; nobody can do more about it. */
const strayMs = 5000

export class Shims {
  readonly #log: Logger
  /** By namespace and group. */
  readonly #groups = new Map<string, Group>()

  constructor(log: Logger) {
    this.#log = log
  }

  /**
   * Starts the shim, or joins the one that the shim's `start` names. Waits for an earlier one of the same group to
   * end, since it would be the one that is named.
   */
  async join(
    command: ShimCommand,
    group: string,
    options: Uint8Array | undefined,
    limits: { startMs: number; connectMs: number },
  ): Promise<Seat> {
    const entered = await this.#enter(command.namespace, group)
    const starting = startShim(command, options, limits.startMs)
    let log: ShimLog | undefined
    try {
      // Meanwhile: the shim itself waits for the reading end, its `start` does not.
      log = drainShimLog(join(command.bundle, 'log'), this.#logOf(command.namespace, command.id))
      const shim = { ...(await starting), mark: command.mark }
      return await this.#seat(entered, shim, log, command, limits.connectMs)
    } catch (error) {
      log?.close()
      const started = await starting.catch(() => undefined)
      await endMarked(command.mark, strayMs)
      // One that has died by itself is not found by its mark any more, and has left its socket.
      if (started && !entered.isOthers()) removeSocketAt(started.address)
      throw error
    } finally {
      entered.settle()
    }
  }

  /** Takes up a shim of an earlier run of this plugin. Rejects when it cannot be reached. */
  async rejoin(place: Place, facts: ShimFacts, connectMs: number): Promise<Seat> {
    const entered = await this.#enter(place.namespace, place.group)
    const log = drainShimLog(join(place.bundle, 'log'), this.#logOf(place.namespace, place.id))
    try {
      return await this.#seat(entered, facts, log, place, connectMs)
    } catch (error) {
      log.close()
      throw error
    } finally {
      entered.settle()
    }
  }

  /** Of a shim that died unseen, unless another has taken its address. */
  async removeSocket({ namespace, group }: Place, address: string): Promise<void> {
    const entered = await this.#enter(namespace, group)
    if (!entered.isOthers()) removeSocketAt(address)
    entered.settle()
  }

  /** Lets go of all shims; they run on. */
  close(): void {
    for (const group of this.#groups.values()) group.close()
  }

  async #enter(namespace: string, name: string): Promise<Group> {
    const key = `${namespace}/${name}`
    for (;;) {
      const group = this.#groups.get(key) ?? new Group(this.#log, () => this.#groups.delete(key))
      this.#groups.set(key, group)
      if (group.ending === undefined) {
        group.entering += 1
        return group
      }
      await group.ending
    }
  }

  async #seat(
    group: Group,
    { address, version, mark }: StartedShim & { mark: string },
    log: ShimLog,
    { namespace, id }: { namespace: string; id: string },
    connectMs: number,
  ): Promise<Seat> {
    const connect = () =>
      Shim.connect({ address, version, mark, namespace, log: this.#log.child({ namespace, id }) }, connectMs)
    return group.seat(address, id, log, connect)
  }

  #logOf(namespace: string, id: string): Logger {
    return this.#log.child({ namespace, id })
  }
}

interface SharedShim {
  shim: Promise<Shim>
  users: number
  log: ShimLog
  /** How the last one left, and which container it was. */
  leaving: Leaving
  lastId: string
}

/** The shims of one group: one, unless the shim does not know how to share. */
class Group {
  readonly #shims = new Map<string, SharedShim>()
  readonly #log: Logger
  readonly #empty: () => void
  /** Tasks that have not found their shim yet: they may be about to join any of these. */
  entering = 0
  ending: Promise<void> | undefined

  constructor(log: Logger, empty: () => void) {
    this.#log = log
    this.#empty = empty
  }

  async seat(address: string, id: string, log: ShimLog, connect: () => Promise<Shim>): Promise<Seat> {
    const known = this.#living(address)
    if (known) log.close() // the shim writes to the log of the task that it was started for
    const shared = known ?? { shim: connect(), users: 0, log, leaving: 'politely' as const, lastId: id }
    this.#shims.set(address, shared)
    try {
      const shim = await shared.shim
      shared.users += 1
      return this.#seatIn(shared, shim, id)
    } catch (error) {
      this.#shims.delete(address)
      throw error
    }
  }

  isOthers(): boolean {
    return this.entering > 1 || this.#shims.size > 0
  }

  /** One that was entering has found its place, or given up. */
  settle(): void {
    this.entering -= 1
    this.#endUnused()
  }

  close(): void {
    for (const { shim, log } of this.#shims.values()) {
      log.close()
      shim.then(
        open => open.close(),
        () => undefined, // it never opened
      )
    }
  }

  /** A new shim may have taken the address of one that died while somebody was entering. */
  #living(address: string): SharedShim | undefined {
    const known = this.#shims.get(address)
    if (!known || known.users > 0 || known.leaving === 'politely') return known
    known.log.close()
    this.#shims.delete(address)
    return undefined
  }

  #seatIn(shared: SharedShim, shim: Shim, id: string): Seat {
    const isSole = () => shared.users === 1 && this.entering === 0
    let left = false
    return {
      shim,
      get sole() {
        return isSole()
      },
      leave: async how => {
        if (left) return
        left = true
        shared.users -= 1
        shared.leaving = how
        shared.lastId = id
        this.#endUnused()
        if (shared.users === 0) await this.ending
      },
    }
  }

  #endUnused(): void {
    if (this.entering > 0 || this.ending) return
    const unused = [...this.#shims].filter(([, { users }]) => users === 0)
    if (unused.length === 0 && this.#shims.size > 0) return
    this.ending = Promise.all(unused.map(([address, shared]) => this.#end(address, shared))).then(() => {
      this.ending = undefined
      if (this.#shims.size === 0) this.#empty()
    })
  }

  async #end(address: string, { shim, log, leaving, lastId }: SharedShim): Promise<void> {
    try {
      const open = await shim
      if (leaving === 'politely') await open.shutdown(lastId)
      else await open.kill()
    } catch (error) {
      this.#log.error({ err: error, address }, 'a shim could not be ended')
    } finally {
      log.close()
      this.#shims.delete(address)
      removeSocketAt(address) // a shim that was killed leaves its socket behind
    }
  }
}

/** A path that a shim has told: whatever else lies there is none of ours. */
function removeSocketAt(path: string): void {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket()) rmSync(path, { force: true })
}
