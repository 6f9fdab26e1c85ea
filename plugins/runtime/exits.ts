// Exits of one task's processes: written down first, then told to the supervisor until it has them.
import { TaskExit } from '../../proto/gen/containerd/events/task.js'
import type { TaskName } from './bundle.js'
import type { RuntimeContext } from './context.js'
import { printTime } from './entry.js'
import type { Exit, History, HistoryEntry } from './history.js'

/** Between two attempts to tell an exit that was refused. */
const repeatMs = 5000

export class Exits {
  readonly #name: TaskName
  readonly #history: History
  readonly #context: RuntimeContext
  /** Emissions that are not durable yet, by execId. */
  readonly #telling = new Map<string, Promise<void>>()
  #onTold: () => void = () => undefined

  constructor(name: TaskName, history: History, context: RuntimeContext) {
    this.#name = name
    this.#history = history
    this.#context = context
  }

  /** The first report of an exit counts. Resolves when the supervisor has it; rejects when that cannot be told. */
  report(execId: string, exit: Exit): Promise<void> {
    if (!this.#history.processes.get(execId)?.exit) this.note({ kind: 'exited', execId, ...exit })
    return this.#tell(execId)
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
    const isTold = () => [...this.#history.processes.values()].every(({ exit, told }) => !exit || told)
    return new Promise(resolve => {
      this.#onTold = () => {
        if (isTold()) resolve()
      }
      this.#onTold()
    })
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
  }

  #tell(execId: string): Promise<void> {
    const facts = this.#history.processes.get(execId)
    if (!facts?.exit || facts.told) return Promise.resolve()
    const under = this.#telling.get(execId)
    if (under) return under
    const telling = this.#emit(execId, facts.exit)
      .then(() => {
        this.note({ kind: 'told', execId })
        this.#onTold()
      })
      .finally(() => this.#telling.delete(execId))
    this.#telling.set(execId, telling)
    return telling
  }

  #repeatLater(execId: string, exit: Exit, error: unknown): void {
    const { signal, log } = this.#context
    log.warn({ ...this.#name, execId, err: error }, 'an exit could not be told; it will be told again')
    if (!signal.aborted) setTimeout(() => signal.aborted || this.reportSoon(execId, exit), repeatMs).unref()
  }

  /** The id names the fact, so that the supervisor recognises one that it has already. */
  async #emit(execId: string, { pid, status, at }: Exit): Promise<void> {
    const { namespace, id } = this.#name
    const exit = TaskExit.create({ containerId: id, id: execId || id, pid, exitStatus: status, exitedAt: at })
    await this.#context.emit({
      id: `exit/${namespace}/${id}/${execId}/${pid}/${printTime(at)}`,
      namespace,
      topic: '/tasks/exit',
      event: { typeUrl: 'containerd.events.TaskExit', value: Buffer.from(TaskExit.encode(exit).finish()) },
    })
  }
}
