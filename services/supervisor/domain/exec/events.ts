// The facts in the life of a process that was added to a running task.
import type { Exit, HeavyAny, Stdio } from '../values.js'

interface OfExec {
  containerId: string
  execId: string
}

export interface ExecRequested extends OfExec {
  type: 'ExecRequested'
  stdio: Stdio
  /** The OCI process, as attachment 0. */
  spec: HeavyAny
}
export interface ExecAdded extends OfExec {
  type: 'ExecAdded'
}
export interface ExecAddFailed extends OfExec {
  type: 'ExecAddFailed'
  reason: string
}
export interface ExecStartRequested extends OfExec {
  type: 'ExecStartRequested'
}
export interface ExecStarted extends OfExec {
  type: 'ExecStarted'
  pid: number
}
export interface ExecStartFailed extends OfExec {
  type: 'ExecStartFailed'
  reason: string
}
export interface ExecSignalled extends OfExec {
  type: 'ExecSignalled'
  signal: number
}
export interface ExecExited extends OfExec {
  type: 'ExecExited'
  pid: number
  exit: Exit
}
export interface ExecDeleteRequested extends OfExec {
  type: 'ExecDeleteRequested'
}
export interface ExecDeleted extends OfExec {
  type: 'ExecDeleted'
}
export interface ExecDeleteFailed extends OfExec {
  type: 'ExecDeleteFailed'
  reason: string
}
/** Its task was deleted, and it went with it. */
export interface ExecAbandoned extends OfExec {
  type: 'ExecAbandoned'
  exit: Exit
}

export type ExecEvent =
  | ExecRequested
  | ExecAdded
  | ExecAddFailed
  | ExecStartRequested
  | ExecStarted
  | ExecStartFailed
  | ExecSignalled
  | ExecExited
  | ExecDeleteRequested
  | ExecDeleted
  | ExecDeleteFailed
  | ExecAbandoned

/** What an exec has learnt. */
export interface ExecFacts {
  stdio: Stdio
  /** 0 before it is started. */
  pid: number
  exit: Exit | null
}

export type ExecState = 'absent' | 'adding' | 'added' | 'starting' | 'running' | 'stopped' | 'deleting'
