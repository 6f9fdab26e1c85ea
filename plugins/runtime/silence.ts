// Which shims do not answer: each is asked now and then, and the supervisor is told of their tasks.
import { Gate } from '../kit/gate.js'
import type { RuntimeContext } from './context.js'
import type { Shim } from './shim.js'
import type { Task } from './task.js'

/** A shim that takes longer than this is called silent, as containerd's state_timeout has it. */
const patienceMs = 2000

/** Shims that are asked at once; one that takes longer than this no longer counts. */
const asksMax = 16
const askPatienceMs = 100

export class Silence {
  readonly #tasks: () => Iterable<Task>
  readonly #context: Pick<RuntimeContext, 'settings' | 'log' | 'tellUnresponsive'>
  readonly #gate = new Gate(asksMax, askPatienceMs)
  /** Shims that have been asked and have not answered yet: each is asked once, and then waited for. */
  readonly #asked = new Set<Shim>()
  readonly #silent = new Set<Shim>()
  readonly #timer: NodeJS.Timeout

  constructor(tasks: () => Iterable<Task>, context: RuntimeContext) {
    this.#tasks = tasks
    this.#context = context
    this.#timer = setInterval(() => this.#askAll(), context.settings.askMs).unref()
  }

  close(): void {
    clearInterval(this.#timer)
    this.#context.tellUnresponsive([])
  }

  #askAll(): void {
    for (const { shim } of this.#tasks()) {
      if (!shim || this.#asked.has(shim)) continue
      this.#asked.add(shim)
      void this.#gate.run(() => this.#ask(shim))
    }
  }

  async #ask(shim: Shim): Promise<void> {
    const late = setTimeout(() => this.#set(shim, true), patienceMs)
    try {
      await shim.answers()
    } catch {
      // It is gone, which its tasks hear as well.
    } finally {
      clearTimeout(late)
      this.#asked.delete(shim)
      if (this.#silent.has(shim)) this.#set(shim, false)
    }
  }

  #set(shim: Shim, isSilent: boolean): void {
    const { log, tellUnresponsive } = this.#context
    if (isSilent) this.#silent.add(shim)
    else this.#silent.delete(shim)
    const tasks = [...this.#tasks()]
    const ids = tasks.filter(task => task.shim === shim).map(({ name: { namespace, id } }) => `${namespace}/${id}`)
    const facts = { tasks: ids, pid: shim.facts?.process.pid }
    if (isSilent) log.warn(facts, 'a shim does not answer: if it stays silent, end it and delete its tasks')
    else log.info(facts, 'a shim that was silent answers again, or is gone')
    tellUnresponsive(tasks.filter(task => task.shim && this.#silent.has(task.shim)).map(({ name }) => name))
  }
}
