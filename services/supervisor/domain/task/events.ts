// The facts in the life of a task, the init process of a container.
import type { Descriptor, Exit, Mount, SmallAny, Stdio } from '../values.js'

interface OfTask {
  containerId: string
}

export interface TaskCreateRequested extends OfTask {
  type: 'TaskCreateRequested'
  runtime: string
  stdio: Stdio
  rootfs: readonly Mount[]
  options: SmallAny | null
  /** The digest of content to restore from, or a directory of the client's; '' for a fresh start. */
  checkpoint: string
}
export interface TaskCreated extends OfTask {
  type: 'TaskCreated'
  pid: number
  bundle: string
  /** As requested, repeated so that the fact can be told on its own. */
  stdio: Stdio
  rootfs: readonly Mount[]
  checkpoint: string
  /** What the runtime changed in the spec so that this host can run it. */
  adjustments: readonly string[]
}
export interface TaskCreateFailed extends OfTask {
  type: 'TaskCreateFailed'
  reason: string
}
export interface TaskStartRequested extends OfTask {
  type: 'TaskStartRequested'
}
export interface TaskStarted extends OfTask {
  type: 'TaskStarted'
  pid: number
}
export interface TaskStartFailed extends OfTask {
  type: 'TaskStartFailed'
  reason: string
}
export interface TaskSignalled extends OfTask {
  type: 'TaskSignalled'
  signal: number
  all: boolean
}
export interface TaskPauseRequested extends OfTask {
  type: 'TaskPauseRequested'
}
export interface TaskPaused extends OfTask {
  type: 'TaskPaused'
}
export interface TaskPauseFailed extends OfTask {
  type: 'TaskPauseFailed'
  reason: string
}
export interface TaskResumeRequested extends OfTask {
  type: 'TaskResumeRequested'
}
export interface TaskResumed extends OfTask {
  type: 'TaskResumed'
}
export interface TaskResumeFailed extends OfTask {
  type: 'TaskResumeFailed'
  reason: string
}
export interface TaskResourcesUpdated extends OfTask {
  type: 'TaskResourcesUpdated'
}
/** Its memory and processes are about to be written out. */
export interface TaskCheckpointRequested extends OfTask {
  type: 'TaskCheckpointRequested'
  options: SmallAny | null
  /** The client's own directory; '' for content. */
  imagePath: string
  /** The lease that the content is added to, if it is still there then. */
  lease: string | null
}
export interface TaskCheckpointed extends OfTask {
  type: 'TaskCheckpointed'
  imagePath: string
  /** Image and config, unless the client has them in a directory of its own. */
  descriptors: readonly Descriptor[]
}
export interface TaskCheckpointFailed extends OfTask {
  type: 'TaskCheckpointFailed'
  reason: string
}
export interface TaskOutOfMemory extends OfTask {
  type: 'TaskOutOfMemory'
}
export interface TaskExited extends OfTask {
  type: 'TaskExited'
  pid: number
  exit: Exit
}
export interface TaskDeleteRequested extends OfTask {
  type: 'TaskDeleteRequested'
}
export interface TaskDeleted extends OfTask {
  type: 'TaskDeleted'
  pid: number
  exit: Exit
}
export interface TaskDeleteFailed extends OfTask {
  type: 'TaskDeleteFailed'
  reason: string
}

export type TaskEvent =
  | TaskCreateRequested
  | TaskCreated
  | TaskCreateFailed
  | TaskStartRequested
  | TaskStarted
  | TaskStartFailed
  | TaskSignalled
  | TaskPauseRequested
  | TaskPaused
  | TaskPauseFailed
  | TaskResumeRequested
  | TaskResumed
  | TaskResumeFailed
  | TaskResourcesUpdated
  | TaskCheckpointRequested
  | TaskCheckpointed
  | TaskCheckpointFailed
  | TaskOutOfMemory
  | TaskExited
  | TaskDeleteRequested
  | TaskDeleted
  | TaskDeleteFailed

/** What a task has learnt. */
export interface TaskFacts {
  runtime: string
  stdio: Stdio
  bundle: string
  /** 0 before it is created; of one that is restored, before it is started. */
  pid: number
  /** null while it lives. */
  exit: Exit | null
  outOfMemory: boolean
}

export type TaskState =
  | 'absent'
  | 'creating'
  | 'created'
  | 'starting'
  | 'running'
  | 'pausing'
  | 'paused'
  | 'resuming'
  | 'checkpointing'
  | 'checkpointingPaused'
  | 'checkpointingStopped'
  | 'stopped'
  | 'deleting'

export const neverExited: Exit = { status: 0, at: '' }
