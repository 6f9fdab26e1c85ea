// Decides what may happen to a process that is added to a task.
import { accept, type Decision, type Fact, refuse } from '../decision.js'
import { illegal, type Lifecycle } from '../lifecycle.js'
import { execStream } from '../streams.js'
import type { Task } from '../task/decide.js'
import { taskMachine } from '../task/machine.js'
import type { Exit, Stdio } from '../values.js'
import type { ExecEvent, ExecFacts, ExecState } from './events.js'
import { execMachine } from './machine.js'

export type Exec = Lifecycle<ExecState, ExecFacts>

export interface ExecCommand {
  namespace: string
  containerId: string
  execId: string
  stdio: Stdio
  spec: { typeUrl: string; value: Uint8Array }
}

/** A process can be added only to a running task: not to one that is created, paused or stopped. */
export function requestExec(task: Task, exec: Exec, command: ExecCommand): Decision {
  const { namespace, containerId, execId } = command
  if (!taskMachine.next(task, { type: 'ExecAdmitted' })) {
    return illegal(`task ${containerId}`, task.state, { creates: false, verb: 'exec in' })
  }
  const event: ExecEvent = {
    type: 'ExecRequested',
    containerId,
    execId,
    stdio: command.stdio,
    spec: { typeUrl: command.spec.typeUrl, sequence: '', index: 0 },
  }
  if (!execMachine.next(exec, event)) {
    return illegal(`exec ${execId} of task ${containerId}`, exec.state, { creates: true, verb: 'add' })
  }
  return accept({ ...fact(namespace, event), attachments: [command.spec.value] })
}

const verbs: Partial<Record<ExecEvent['type'], string>> = {
  ExecStartRequested: 'start',
  ExecSignalled: 'signal',
  ExecDeleteRequested: 'delete',
}

/** Any single later step of its life. */
export function stepExec(namespace: string, exec: Exec, event: ExecEvent): Decision {
  if (execMachine.next(exec, event)) return accept(fact(namespace, event))
  if (event.type === 'ExecSignalled' && exec.facts.exit) return refuse('not-found', 'process already finished')
  const wish = { creates: false, verb: verbs[event.type] ?? event.type }
  return illegal(`exec ${event.execId} of task ${event.containerId}`, exec.state, wish)
}

/** Records its end, as `recordExit` does for a task: once, and never before its start. */
export function recordExecExit(
  namespace: string,
  containerId: string,
  execId: string,
  exec: Exec,
  report: { pid: number; exit: Exit },
): Decision {
  const exited: ExecEvent = { type: 'ExecExited', containerId, execId, pid: report.pid, exit: report.exit }
  if (exec.facts.exit || (exec.facts.pid !== 0 && exec.facts.pid !== report.pid)) return accept()
  if (exec.state === 'starting') {
    const started: ExecEvent = { type: 'ExecStarted', containerId, execId, pid: report.pid }
    return accept(fact(namespace, started), fact(namespace, exited))
  }
  return execMachine.next(exec, exited) ? accept(fact(namespace, exited)) : accept()
}

function fact(namespace: string, event: ExecEvent): Fact {
  const ends = event.type === 'ExecDeleted' || event.type === 'ExecAddFailed'
  return { namespace, stream: execStream(namespace, event.containerId, event.execId), event, ends }
}
