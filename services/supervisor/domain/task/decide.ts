// Decides what may happen to a task: pure; the machine says yes or no, this puts it in words.
import type { Container } from '../container/decide.js'
import { containerMachine } from '../container/machine.js'
import { accept, type Decision, type Fact, refuse } from '../decision.js'
import type { ExecFacts, ExecState } from '../exec/events.js'
import { execMachine } from '../exec/machine.js'
import { illegal, type Lifecycle } from '../lifecycle.js'
import { execStream, taskStream } from '../streams.js'
import type { Exit } from '../values.js'
import { neverExited, type TaskCreateRequested, type TaskEvent, type TaskFacts, type TaskState } from './events.js'
import { taskMachine } from './machine.js'

export type Task = Lifecycle<TaskState, TaskFacts>
type Exec = Lifecycle<ExecState, ExecFacts>

/** What each wish is called in a refusal. */
const verbs: Partial<Record<TaskEvent['type'], string>> = {
  TaskCreateRequested: 'create',
  TaskStartRequested: 'start',
  TaskSignalled: 'signal',
  TaskPauseRequested: 'pause',
  TaskResumeRequested: 'resume',
  TaskResourcesUpdated: 'update',
  TaskCheckpointRequested: 'checkpoint',
  TaskDeleteRequested: 'delete',
}

/** Any single step of a task's life, whether a wish of a client or an answer of the runtime. */
export function stepTask(namespace: string, task: Task, event: TaskEvent): Decision {
  if (taskMachine.next(task, event)) return accept(fact(namespace, event))
  // containerd answers NOT_FOUND for a signal to a process that has ended, and clients branch on it.
  if (event.type === 'TaskSignalled' && task.facts.exit) return refuse('not-found', 'process already finished')
  const wish = { creates: event.type === 'TaskCreateRequested', verb: verbs[event.type] ?? event.type }
  return illegal(`task ${event.containerId}`, task.state, wish)
}

/** A task occupies a container, which may have been deleted since its client looked. */
export function requestTask(namespace: string, container: Container, task: Task, event: TaskCreateRequested): Decision {
  if (container.state === 'absent') return refuse('not-found', `container "${event.containerId}"`)
  if (task.state === 'absent' && !containerMachine.next(container, event)) {
    return illegal(`container "${event.containerId}"`, container.state, { creates: false, verb: 'create a task of' })
  }
  return stepTask(namespace, task, event)
}

/**
 * Records that the init process ended. Reports may come twice (from the shim, and again after a restart): the second
 * changes nothing. An exit can overtake the answer to Start; the start is then recorded first, so that subscribers
 * always see start before exit.
 */
export function recordExit(
  namespace: string,
  containerId: string,
  task: Task,
  report: { pid: number; exit: Exit },
): Decision {
  const exited: TaskEvent = { type: 'TaskExited', containerId, pid: report.pid, exit: report.exit }
  if (task.facts.exit || (task.facts.pid !== 0 && task.facts.pid !== report.pid)) return accept()
  if (task.state === 'starting') {
    const started: TaskEvent = { type: 'TaskStarted', containerId, pid: report.pid }
    return accept(fact(namespace, started), fact(namespace, exited))
  }
  return taskMachine.next(task, exited) ? accept(fact(namespace, exited)) : accept()
}

/** Records that the runtime has removed the task; whatever was left of its added processes goes with it. */
export function recordDeleted(
  namespace: string,
  containerId: string,
  task: Task,
  execs: ReadonlyMap<string, Exec>,
  report: { pid: number; exit: Exit },
): Decision {
  const deleted: TaskEvent = { type: 'TaskDeleted', containerId, pid: report.pid, exit: report.exit }
  if (!taskMachine.next(task, deleted))
    return illegal(`task ${containerId}`, task.state, { creates: false, verb: 'delete' })
  return accept(...abandonedExecs(namespace, containerId, execs), fact(namespace, deleted))
}

function abandonedExecs(namespace: string, containerId: string, execs: ReadonlyMap<string, Exec>): Fact[] {
  return [...execs]
    .filter(([, exec]) => exec.state !== execMachine.absent.state)
    .map(([execId, exec]) => ({
      namespace,
      stream: execStream(namespace, containerId, execId),
      event: { type: 'ExecAbandoned', containerId, execId, exit: exec.facts.exit ?? neverExited },
      ends: true,
    }))
}

function fact(namespace: string, event: TaskEvent): Fact {
  const ends = event.type === 'TaskDeleted' || event.type === 'TaskCreateFailed'
  return { namespace, stream: taskStream(namespace, event.containerId), event, ends }
}
