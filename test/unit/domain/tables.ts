// What the machines of tasks and processes should do, said a second time and in full, independent of the machines.
import type { ExecEvent, ExecState } from '../../../services/supervisor/domain/exec/events.js'
import type { TaskEvent, TaskState } from '../../../services/supervisor/domain/task/events.js'
import type { ExecAdmitted } from '../../../services/supervisor/domain/task/machine.js'
import type { Transitions } from './given.js'

/** As reached without surprises: `deleting` after an exit. */
export const taskTransitions: Transitions<TaskState, (TaskEvent | ExecAdmitted)['type']> = {
  absent: { TaskCreateRequested: 'creating' },
  creating: { TaskCreated: 'created', TaskCreateFailed: 'absent' },
  created: {
    ExecAdmitted: 'created',
    TaskStartRequested: 'starting',
    TaskSignalled: 'created',
    TaskResourcesUpdated: 'created',
    TaskExited: 'stopped',
    TaskDeleteRequested: 'deleting',
  },
  starting: {
    TaskStarted: 'running',
    TaskStartFailed: 'created',
    TaskSignalled: 'starting',
    TaskOutOfMemory: 'starting',
  },
  running: {
    ExecAdmitted: 'running',
    TaskSignalled: 'running',
    TaskResourcesUpdated: 'running',
    TaskOutOfMemory: 'running',
    TaskPauseRequested: 'pausing',
    TaskCheckpointRequested: 'checkpointing',
    TaskExited: 'stopped',
  },
  pausing: {
    TaskPaused: 'paused',
    TaskPauseFailed: 'running',
    TaskSignalled: 'pausing',
    TaskOutOfMemory: 'pausing',
    TaskExited: 'stopped',
  },
  paused: {
    TaskResumeRequested: 'resuming',
    TaskCheckpointRequested: 'checkpointingPaused',
    TaskSignalled: 'paused',
    TaskResourcesUpdated: 'paused',
    TaskOutOfMemory: 'paused',
    TaskExited: 'stopped',
  },
  resuming: {
    TaskResumed: 'running',
    TaskResumeFailed: 'paused',
    TaskSignalled: 'resuming',
    TaskOutOfMemory: 'resuming',
    TaskExited: 'stopped',
  },
  checkpointing: {
    TaskCheckpointed: 'running',
    TaskCheckpointFailed: 'running',
    TaskSignalled: 'checkpointing',
    TaskOutOfMemory: 'checkpointing',
    TaskExited: 'checkpointingStopped',
  },
  checkpointingPaused: {
    TaskCheckpointed: 'paused',
    TaskCheckpointFailed: 'paused',
    TaskSignalled: 'checkpointingPaused',
    TaskOutOfMemory: 'checkpointingPaused',
    TaskExited: 'checkpointingStopped',
  },
  checkpointingStopped: {
    TaskCheckpointed: 'stopped',
    TaskCheckpointFailed: 'stopped',
    TaskOutOfMemory: 'checkpointingStopped',
  },
  stopped: { TaskDeleteRequested: 'deleting', TaskOutOfMemory: 'stopped' },
  deleting: { TaskDeleted: 'absent', TaskDeleteFailed: 'stopped', TaskExited: 'deleting' },
}

/** `deleting` before it was ever started. */
export const execTransitions: Transitions<ExecState, ExecEvent['type']> = {
  absent: { ExecRequested: 'adding' },
  adding: { ExecAdded: 'added', ExecAddFailed: 'absent', ExecAbandoned: 'absent' },
  added: { ExecStartRequested: 'starting', ExecDeleteRequested: 'deleting', ExecAbandoned: 'absent' },
  starting: { ExecStarted: 'running', ExecStartFailed: 'added', ExecSignalled: 'starting', ExecAbandoned: 'absent' },
  running: { ExecSignalled: 'running', ExecExited: 'stopped', ExecAbandoned: 'absent' },
  stopped: { ExecDeleteRequested: 'deleting', ExecAbandoned: 'absent' },
  deleting: { ExecDeleted: 'absent', ExecDeleteFailed: 'added', ExecAbandoned: 'absent' },
}
