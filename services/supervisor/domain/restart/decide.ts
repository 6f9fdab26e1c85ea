// Decides when a task is started again, or stopped, because its container's labels say so.

import type { Container } from '../container/decide.js'
import { updateContainer } from '../container/decide.js'
import { accept, type Decision, isRefusal } from '../decision.js'
import { illegal, type Lifecycle } from '../lifecycle.js'
import { restartStream } from '../streams.js'
import type { Task } from '../task/decide.js'
import { formatNanos, nanosOf, parseTimestamp } from '../time.js'
import type { Timestamp } from '../values.js'
import type { RestartAction, RestartEvent, RestartFacts, RestartState } from './events.js'
import { counted, mayRestart, statusLabel } from './labels.js'
import { restartMachine } from './machine.js'

export type Restart = Lifecycle<RestartState, RestartFacts>

export interface Watched {
  container: Container
  task: Task
  restart: Restart
}

/**
 * containerd looks every ten seconds. Nobody waits longer here, and one that ends for the first time is back sooner; but
 * its client gets a moment to remove it first, as `ctr run --rm` does.
 */
const firstDelaySeconds = 1
const delayMaxSeconds = 10
/** One that ran for so long did last. */
const lastingNanos = 10_000_000_000n
const nanosPerSecond = 1_000_000_000

/** The next step towards what the labels say; no facts when there is nothing to do now. */
export function watchRestart(namespace: string, id: string, watched: Watched, now: bigint): Decision {
  const { state, facts } = watched.restart
  if (state === 'restarting') return accept()
  const wish = wishOf(watched)
  if (state !== 'waiting') {
    if (wish) return accept(fact(namespace, schedule(id, wish, watched, now)))
    const isForgotten = watched.container.facts.record?.labels[statusLabel] === undefined
    return state === 'resting' && isForgotten ? accept(fact(namespace, cancelled(id))) : accept()
  }
  if (wish !== facts.action) return accept(fact(namespace, cancelled(id)))
  if (facts.due > formatNanos(now)) return accept()
  return begin(namespace, id, watched)
}

/** What came of one that was begun. */
export function stepRestart(namespace: string, restart: Restart, event: RestartEvent): Decision {
  if (restartMachine.next(restart, event)) return accept(fact(namespace, event))
  return illegal(`restart of container "${event.containerId}"`, restart.state, { creates: false, verb: event.type })
}

export function restartFailed(id: string, { facts }: Restart, reason: string, now: bigint): RestartEvent {
  const attempt = facts.attempt + 1
  return { type: 'RestartFailed', containerId: id, reason, attempt, due: after(now, delaySeconds(attempt)) }
}

/** Each attempt is counted where containerd's clients look for it. */
function begin(namespace: string, id: string, { container, restart }: Watched): Decision {
  const begun = fact(namespace, { type: 'RestartBegun', containerId: id })
  const { record } = container.facts
  if (restart.facts.action === 'stop' || !record) return accept(begun)
  const update = updateContainer(namespace, container, { ...record, labels: counted(record.labels) }, [])
  return isRefusal(update) ? update : accept(begun, ...update.facts)
}

/** A task that is being made, started or paused is somebody's business, and left to them. */
function wishOf({ container, task, restart }: Watched): RestartAction | undefined {
  const labels = container.facts.record?.labels ?? {}
  switch (labels[statusLabel]) {
    case 'running':
      if (task.state === 'deleting') return restart.state === 'waiting' ? restart.facts.action : undefined
      if (task.state !== 'absent' && task.state !== 'stopped') return undefined
      return mayRestart(labels, task.facts.exit?.status ?? 0) ? 'start' : undefined
    case 'stopped':
      return ['created', 'running', 'pausing', 'paused', 'resuming'].includes(task.state) ? 'stop' : undefined
    default:
      return undefined
  }
}

function schedule(id: string, action: RestartAction, watched: Watched, now: bigint): RestartEvent {
  const attempt = attemptAfter(watched)
  const stopped = watched.task.state === 'stopped'
  // Of a container without a task its client may be about to make one.
  const seconds = action === 'stop' ? 0 : stopped ? delaySeconds(attempt) : delayMaxSeconds
  return { type: 'RestartScheduled', containerId: id, action, attempt, due: after(now, seconds) }
}

function attemptAfter({ restart, task }: Watched): number {
  const { attempt, doneAt } = restart.facts
  const { exit } = task.facts
  if (restart.state !== 'resting' || !exit) return 0
  return nanosAt(exit.at) - nanosAt(doneAt) < lastingNanos ? attempt + 1 : 0
}

const cancelled = (id: string): RestartEvent => ({ type: 'RestartCancelled', containerId: id })
const delaySeconds = (attempt: number): number => Math.min(firstDelaySeconds * 2 ** attempt, delayMaxSeconds)
const after = (now: bigint, seconds: number): Timestamp => formatNanos(now + BigInt(seconds * nanosPerSecond))

function nanosAt(timestamp: Timestamp): bigint {
  const instant = parseTimestamp(timestamp)
  return instant ? nanosOf(instant) : 0n
}

function fact(namespace: string, event: RestartEvent) {
  const stream = restartStream(namespace, event.containerId)
  return { namespace, stream, event, ends: event.type === 'RestartCancelled' }
}
