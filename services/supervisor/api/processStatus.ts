// What containerd calls the states of our machines.
import { Status } from '../../../proto/gen/containerd/v1/types/task.js'
import type { ExecState } from '../domain/exec/events.js'
import type { TaskState } from '../domain/task/events.js'

export const statusOfTask: Record<TaskState, Status> = {
  absent: Status.UNKNOWN,
  creating: Status.UNKNOWN,
  created: Status.CREATED,
  starting: Status.CREATED,
  running: Status.RUNNING,
  pausing: Status.PAUSING,
  paused: Status.PAUSED,
  resuming: Status.PAUSED,
  checkpointing: Status.RUNNING,
  checkpointingPaused: Status.PAUSED,
  checkpointingStopped: Status.STOPPED,
  stopped: Status.STOPPED,
  deleting: Status.STOPPED,
}

export const statusOfExec: Record<ExecState, Status> = {
  absent: Status.UNKNOWN,
  adding: Status.CREATED,
  added: Status.CREATED,
  starting: Status.CREATED,
  running: Status.RUNNING,
  stopped: Status.STOPPED,
  deleting: Status.STOPPED,
}
