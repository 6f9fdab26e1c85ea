// Keeps tasks as the labels of their containers say, by the same commands that a client would use. Everything is read
// from the fold: a restart that was under way when the supervisor was killed is taken up like one that has just begun.
import type { Logger } from 'pino'
import { failedPrecondition, StatusError } from '../../../plugins/kit/errors.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'
import type { Clock } from '../clock.js'
import type { DomainEvent } from '../domain/decision.js'
import { restartFailed, stepRestart, watchRestart } from '../domain/restart/decide.js'
import type { RestartEvent } from '../domain/restart/events.js'
import { logOf, statusLabel } from '../domain/restart/labels.js'
import { containerStream, restartStream, taskStream } from '../domain/streams.js'
import { requestTask, stepTask } from '../domain/task/decide.js'
import type { TaskEvent } from '../domain/task/events.js'
import { formatNanos, nanosOf, parseTimestamp } from '../domain/time.js'
import type { Mount, Stdio } from '../domain/values.js'
import type { Cause, Runner } from '../runner.js'
import type { NamespaceState } from '../state/namespaceState.js'
import type { Store } from '../state/store.js'
import { answered, openIntent } from './answers.js'
import type { ReadHeavy } from './ports.js'
import { messageOf, ownCause } from './supervisor.js'

/** How long a task may take to end by SIGKILL. */
const killPatienceMs = 10_000
const sigkill = 9
/** Until what the journal did not take is tried again. */
const retryMs = 1_000

interface Place {
  namespace: string
  id: string
}

export class Restarts {
  /** By container: when it is looked at next. */
  private readonly timers = new Map<string, NodeJS.Timeout>()
  private readonly underWay = new Set<string>()
  private stopListening = (): void => {}

  constructor(
    private readonly runner: Runner,
    private readonly store: Store,
    private readonly readHeavy: ReadHeavy,
    private readonly clock: Clock,
    private readonly log: Logger,
  ) {}

  begin(): void {
    this.stopListening = this.store.subscribe(({ record: { namespace }, event }) => {
      const id = containerOf(event)
      if (id !== undefined) this.lookIfWatched({ namespace, id })
    })
    for (const [namespace, { containers, restarts }] of this.store.world.namespaces)
      for (const id of new Set([...containers.keys(), ...restarts.keys()])) this.lookIfWatched({ namespace, id })
  }

  close(): void {
    this.stopListening()
    this.stopListening = () => {}
    for (const timer of this.timers.values()) clearTimeout(timer)
    this.timers.clear()
  }

  private here({ namespace }: Place): NamespaceState {
    return this.store.world.namespace(namespace)
  }

  private lookIfWatched(place: Place): void {
    const here = this.here(place)
    const labels = here.container(place.id).facts.record?.labels
    if (here.restarts.has(place.id) || labels?.[statusLabel] !== undefined) void this.look(place)
  }

  /** One step towards what the labels say, and the time of the next. */
  private async look(place: Place): Promise<void> {
    const { namespace, id } = place
    try {
      await this.runner.run(ownCause('restart'), containerStream(namespace, id), world => {
        const here = world.namespace(namespace)
        const watched = { container: here.container(id), task: here.task(id), restart: here.restart(id) }
        return watchRestart(namespace, id, watched, this.clock.now())
      })
    } catch (error) {
      this.log.warn({ namespace, id, err: error }, 'a restart could not be recorded; it is tried again')
      this.lookAfter(place, retryMs)
      return
    }
    const { state, facts } = this.here(place).restart(id)
    if (state === 'restarting') await this.carryOut(place)
    if (state === 'waiting') this.lookAfter(place, this.msUntil(facts.due))
  }

  private lookAfter(place: Place, ms: number): void {
    const key = keyOf(place)
    clearTimeout(this.timers.get(key))
    const look = () => {
      this.timers.delete(key)
      void this.look(place)
    }
    this.timers.set(key, setTimeout(look, ms).unref())
  }

  private msUntil(due: string): number {
    const instant = parseTimestamp(due)
    const ms = instant ? Number((nanosOf(instant) - this.clock.now()) / 1_000_000n) : 0
    return Math.max(1, ms + 1)
  }

  private async carryOut(place: Place): Promise<void> {
    const key = keyOf(place)
    if (this.underWay.has(key)) return
    this.underWay.add(key)
    const { namespace, id } = place
    const cause = ownCause(`#${this.store.world.version(restartStream(namespace, id))}`)
    try {
      await this.record(cause, place, await this.outcome(cause, place))
    } catch (error) {
      this.log.warn({ namespace, id, err: error }, 'the end of a restart could not be recorded; it is tried again')
      this.lookAfter(place, retryMs)
    } finally {
      this.underWay.delete(key)
    }
  }

  private async outcome(cause: Cause, place: Place): Promise<RestartEvent> {
    const { namespace, id } = place
    const restart = this.here(place).restart(id)
    const { action } = restart.facts
    try {
      await (action === 'start' ? this.start(cause, place) : this.stop(cause, place))
      this.log.info({ namespace, id, action }, 'a task was restarted or stopped, as its labels say')
      return { type: 'RestartDone', containerId: id, at: formatNanos(this.clock.now()) }
    } catch (error) {
      const failed = restartFailed(id, restart, messageOf(error), this.clock.now())
      this.log.warn({ namespace, id, action, err: error }, 'a task could not be kept as its labels say: tried again')
      return failed
    }
  }

  /** A task that somebody else, or we before a crash, made meanwhile is taken as it is. */
  private async start(cause: Cause, place: Place): Promise<void> {
    await this.settled(place)
    if (this.here(place).task(place.id).state === 'stopped') await this.delete(cause, place)
    if (this.here(place).task(place.id).state === 'absent') await this.create(cause, place)
    if (this.here(place).task(place.id).state === 'created')
      await this.step(cause, place, { type: 'TaskStartRequested', containerId: place.id })
  }

  private async stop(cause: Cause, place: Place): Promise<void> {
    const { namespace, id } = place
    await this.settled(place)
    const { state, facts } = this.here(place).task(id)
    if (state !== 'absent' && !facts.exit) await this.kill(cause, place)
    const lives = () => this.here(place).task(id).state !== 'absent' && !this.here(place).task(id).facts.exit
    await answered(this.store, () => (lives() ? taskStream(namespace, id) : undefined), { withinMs: killPatienceMs })
    if (lives()) throw failedPrecondition(`task ${id} was sent SIGKILL and has not ended`)
    if (this.here(place).task(id).state !== 'absent') await this.delete(cause, place)
  }

  private async kill(cause: Cause, place: Place): Promise<void> {
    try {
      await this.step(cause, place, { type: 'TaskSignalled', containerId: place.id, signal: sigkill, all: true })
    } catch (error) {
      // It may have ended by itself; whether it did is looked at next.
      if (!(error instanceof StatusError)) throw error
    }
  }

  private delete(cause: Cause, place: Place): Promise<void> {
    return this.step(cause, place, { type: 'TaskDeleteRequested', containerId: place.id })
  }

  private async create(cause: Cause, place: Place): Promise<void> {
    const { namespace, id } = place
    const { record } = this.here(place).container(id).facts
    if (!record?.spec) throw failedPrecondition(`container "${id}" has no spec`)
    const event = {
      type: 'TaskCreateRequested',
      containerId: id,
      runtime: record.runtime.name,
      stdio: stdioFor(logOf(record.labels), await this.readHeavy(record.spec)),
      rootfs: this.rootfsOf(place, record.snapshotter, record.snapshotKey),
      options: record.runtime.options,
      checkpoint: '',
    } as const
    await this.runner.complete(cause, containerStream(namespace, id), world => {
      const now = world.namespace(namespace)
      return requestTask(namespace, now.container(id), now.task(id), event)
    })
  }

  /** What clients ask the snapshotter for before they create a task. */
  private rootfsOf(place: Place, snapshotter: string, key: string): readonly Mount[] {
    if (key === '') return []
    const snapshot = this.here(place).snapshot(snapshotter, key)
    if (!snapshot) throw failedPrecondition(`snapshot ${key} of container "${place.id}" is not there`)
    return snapshot.mounts
  }

  private async step(cause: Cause, { namespace, id }: Place, event: TaskEvent): Promise<void> {
    await this.runner.complete(cause, containerStream(namespace, id), world =>
      stepTask(namespace, world.namespace(namespace).task(id), event),
    )
  }

  private async record(cause: Cause, { namespace, id }: Place, event: RestartEvent): Promise<void> {
    await this.runner.run(cause, containerStream(namespace, id), world =>
      stepRestart(namespace, world.namespace(namespace).restart(id), event),
    )
  }

  /** What was asked of the task before is answered first. */
  private settled(place: Place): Promise<void> {
    return answered(this.store, () => openIntent(this.here(place), place.namespace, place.id, ''))
  }
}

const keyOf = ({ namespace, id }: Place): string => `${namespace}/${id}`

/** Whose container an event may change the outlook of. */
function containerOf(event: DomainEvent): string | undefined {
  if (/^(Task|Restart)/.test(event.type) && 'containerId' in event) return event.containerId
  if (event.type === 'ContainerCreated' || event.type === 'ContainerUpdated') return event.container.id
  return event.type === 'ContainerDeleted' ? event.id : undefined
}

/** As containerd's restart monitor says it to a shim: one log for both streams, and nothing to read from. */
function stdioFor(log: string, spec: Any): Stdio {
  // Only a logger can take a terminal's output: shims open anything else as a FIFO.
  const terminal = log.startsWith('binary:') && wantsTerminal(spec)
  return { stdin: '', stdout: log, stderr: terminal ? '' : log, terminal }
}

function wantsTerminal({ value }: Any): boolean {
  try {
    const spec: { process?: { terminal?: unknown } } | null = JSON.parse(value.toString())
    return spec?.process?.terminal === true
  } catch {
    return false // a spec of another kind: its runtime knows what to do with it
  }
}
