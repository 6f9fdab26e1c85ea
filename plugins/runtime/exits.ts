// Exits of one task's processes, or of a sandbox: written down first, then told to the supervisor until it has them, an
// init process's after those of the processes that were added to it.
import { TaskExit } from '../../proto/gen/containerd/events/task.js'
import type { Emission } from '../kit/plugin.js'
import type { TaskName } from './bundle.js'
import type { RuntimeBase } from './context.js'
import { within } from './deadline.js'
import { printTime } from './entry.js'
import type { Exit, History, HistoryEntry } from './history.js'

/** Between two attempts to tell an exit that was refused. */
const repeatMs = 5000

/**
 * How long the exit of an init process waits for those of the others. With the pid namespace they end before it; without
 * one the shim kills them when it has seen it end, and tells of them later.
 */
const othersMs = 5000

export class Exits {
  readonly #name: TaskName
  readonly #history: History
  readonly #context: Pick<RuntimeBase, 'emit' | 'log' | 'signal'>
  readonly #emissionOf: EmissionOf
  /** Emissions that are not durable yet, by execId. */
  readonly #telling = new Map<string, Promise<void>>()
  /** Added processes of which the shim has not said yet whether they run. */
  readonly #starting = new Set<string>()
  /** Called at whatever changes. */
  readonly #looks = new Set<() => void>()

  constructor(
    name: TaskName,
    history: History,
    context: Pick<RuntimeBase, 'emit' | 'log' | 'signal'>,
    emissionOf: EmissionOf = taskExit,
  ) {
    this.#name = name
    this.#history = history
    this.#context = context
    this.#emissionOf = emissionOf
  }

  /** The first report of an exit counts. Resolves when the supervisor has it; rejects when that cannot be told. */
  report(execId: string, exit: Exit): Promise<void> {
    if (!this.#history.processes.get(execId)?.exit) this.note({ kind: 'exited', execId, ...exit })
    return this.#tell(execId)
  }

  /**
   * As `report`, for a shim: it tells of the next exit when it has the answer to this one. An init process's may have to
   * wait for that, and is answered once it is written down.
   */
  async hear(execId: string, exit: Exit): Promise<void> {
    if (execId === '' && !this.#othersAreTold()) this.reportSoon(execId, exit)
    else await this.report(execId, exit)
  }

  /** An added process counts as running until the answered function is called. */
  starting(execId: string): () => void {
    this.#starting.add(execId)
    return () => {
      this.#starting.delete(execId)
      this.#look()
    }
  }

  /** As `report`, for callers that do not wait: a failure is told again later. */
  reportSoon(execId: string, exit: Exit): void {
    this.report(execId, exit).catch((error: unknown) => this.#repeatLater(execId, exit, error))
  }

  /** Tells again what an earlier run of the plugin may not have managed to. */
  repeatUntold(): void {
    for (const [execId, { exit, told }] of this.#history.processes) if (exit && !told) this.reportSoon(execId, exit)
  }

  /** Resolves when nothing is left to tell. */
  allTold(): Promise<void> {
    return this.#until(() => [...this.#history.processes.values()].every(({ exit, told }) => !exit || told))
  }

  /** A fact that cannot be written down is still acted upon: only the next start will not know of it. */
  note(entry: HistoryEntry): void {
    try {
      this.#history.record(entry)
    } catch (error) {
      this.#context.log.error(
        { ...this.#name, err: error },
        "a bundle's history cannot be written: make room on its disk",
      )
    }
    this.#look()
  }

  #tell(execId: string): Promise<void> {
    const facts = this.#history.processes.get(execId)
    if (!facts?.exit || facts.told) return Promise.resolve()
    const { exit } = facts
    const under = this.#telling.get(execId)
    if (under) return under
    const telling = this.#inTurn(execId)
      .then(() => this.#emit(execId, exit))
      .then(() => this.note({ kind: 'told', execId }))
      .finally(() => this.#telling.delete(execId))
    this.#telling.set(execId, telling)
    return telling
  }

  async #inTurn(execId: string): Promise<void> {
    if (execId !== '' || this.#othersAreTold()) return
    const { log } = this.#context
    const others = this.#until(() => this.#othersAreTold())
    await within(others, othersMs, 'waiting for the exits of added processes').catch((error: unknown) =>
      log.warn({ ...this.#name, err: error }, 'the exit of a task is told before those of processes added to it'),
    )
  }

  #othersAreTold(): boolean {
    return [...this.#history.processes].every(([execId, { pid, exit, told }]) => {
      const mayEnd = exit !== undefined || pid !== 0 || this.#starting.has(execId)
      return execId === '' || told || !mayEnd
    })
  }

  #until(isSo: () => boolean): Promise<void> {
    return new Promise(resolve => {
      const look = () => {
        if (!isSo()) return
        this.#looks.delete(look)
        resolve()
      }
      this.#looks.add(look)
      look()
    })
  }

  #look(): void {
    for (const look of [...this.#looks]) look()
  }

  #repeatLater(execId: string, exit: Exit, error: unknown): void {
    const { signal, log } = this.#context
    log.warn({ ...this.#name, execId, err: error }, 'an exit could not be told; it will be told again')
    if (!signal.aborted) setTimeout(() => signal.aborted || this.reportSoon(execId, exit), repeatMs).unref()
  }

  /** The id names the fact, so that the supervisor recognises one that it has already. */
  async #emit(execId: string, exit: Exit): Promise<void> {
    const { namespace, id } = this.#name
    const { topic, event } = this.#emissionOf(this.#name, exit, execId)
    const fact = `${namespace}/${id}/${execId}/${exit.pid}/${printTime(exit.at)}`
    await this.#context.emit({ id: `${topic === taskTopic ? 'exit' : topic}/${fact}`, namespace, topic, event })
  }
}

/** An exit in containerd's words. */
type EmissionOf = (name: TaskName, exit: Exit, execId: string) => Pick<Emission, 'topic' | 'event'>

const taskTopic = '/tasks/exit'

function taskExit({ id }: TaskName, { pid, status, at }: Exit, execId: string): Pick<Emission, 'topic' | 'event'> {
  const exit = TaskExit.create({ containerId: id, id: execId || id, pid, exitStatus: status, exitedAt: at })
  const value = Buffer.from(TaskExit.encode(exit).finish())
  return { topic: taskTopic, event: { typeUrl: 'containerd.events.TaskExit', value } }
}
