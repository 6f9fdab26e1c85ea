// The life of a task. Source: OCI runtime spec, "Lifecycle"; containerd's task states.
import { assign, setup } from 'xstate'
import { intent, type LifecycleMachine, lifecycleOf } from '../lifecycle.js'
import type { TaskEvent, TaskFacts, TaskState } from './events.js'

const nothing: TaskFacts = {
  runtime: '',
  stdio: { stdin: '', stdout: '', stderr: '', terminal: false },
  bundle: '',
  pid: 0,
  exit: null,
  outOfMemory: false,
}

/** Asked of a task before a process is added to it; never journaled. */
export interface ExecAdmitted {
  type: 'ExecAdmitted'
}

const machine = setup({
  types: {} as { context: TaskFacts; events: TaskEvent | ExecAdmitted },
  actions: {
    rememberRequest: assign(({ event }) =>
      event.type === 'TaskCreateRequested' ? { ...nothing, runtime: event.runtime, stdio: event.stdio } : {},
    ),
    rememberProcess: assign(({ event }) =>
      event.type === 'TaskCreated' ? { pid: event.pid, bundle: event.bundle } : {},
    ),
    // One that is restored has a process from its start on only.
    rememberStart: assign(({ event }) => (event.type === 'TaskStarted' && event.pid !== 0 ? { pid: event.pid } : {})),
    rememberExit: assign(({ event }) => (event.type === 'TaskExited' ? { exit: event.exit } : {})),
    rememberOutOfMemory: assign({ outOfMemory: true }),
    forget: assign(() => nothing),
    admit: () => {},
  },
  guards: {
    exited: ({ context }) => context.exit !== null,
  },
}).createMachine({
  id: 'task',
  context: nothing,
  initial: 'absent',
  states: {
    absent: { on: { TaskCreateRequested: { target: 'creating', actions: 'rememberRequest' } } },
    creating: {
      tags: intent,
      on: {
        TaskCreated: { target: 'created', actions: 'rememberProcess' },
        TaskCreateFailed: { target: 'absent', actions: 'forget' },
      },
    },
    created: {
      on: {
        // As in containerd: its namespaces are there, though its own process waits.
        ExecAdmitted: { actions: 'admit' },
        TaskStartRequested: 'starting',
        TaskSignalled: { actions: 'admit' },
        TaskResourcesUpdated: { actions: 'admit' },
        TaskExited: { target: 'stopped', actions: 'rememberExit' },
        // A task that was never started can be deleted; the runtime kills its waiting init process.
        TaskDeleteRequested: 'deleting',
      },
    },
    starting: {
      tags: intent,
      on: {
        TaskStarted: { target: 'running', actions: 'rememberStart' },
        TaskStartFailed: 'created',
        TaskSignalled: { actions: 'admit' },
        TaskOutOfMemory: { actions: 'rememberOutOfMemory' },
      },
    },
    running: {
      on: {
        ExecAdmitted: { actions: 'admit' },
        TaskSignalled: { actions: 'admit' },
        TaskResourcesUpdated: { actions: 'admit' },
        TaskPauseRequested: 'pausing',
        TaskCheckpointRequested: 'checkpointing',
        TaskOutOfMemory: { actions: 'rememberOutOfMemory' },
        TaskExited: { target: 'stopped', actions: 'rememberExit' },
      },
    },
    pausing: {
      tags: intent,
      on: {
        TaskPaused: 'paused',
        TaskPauseFailed: 'running',
        TaskSignalled: { actions: 'admit' },
        TaskOutOfMemory: { actions: 'rememberOutOfMemory' },
        TaskExited: { target: 'stopped', actions: 'rememberExit' },
      },
    },
    paused: {
      on: {
        TaskResumeRequested: 'resuming',
        TaskCheckpointRequested: 'checkpointingPaused',
        TaskSignalled: { actions: 'admit' },
        TaskResourcesUpdated: { actions: 'admit' },
        TaskOutOfMemory: { actions: 'rememberOutOfMemory' },
        TaskExited: { target: 'stopped', actions: 'rememberExit' },
      },
    },
    resuming: {
      tags: intent,
      on: {
        TaskResumed: 'running',
        TaskResumeFailed: 'paused',
        TaskSignalled: { actions: 'admit' },
        TaskOutOfMemory: { actions: 'rememberOutOfMemory' },
        TaskExited: { target: 'stopped', actions: 'rememberExit' },
      },
    },
    checkpointing: {
      tags: intent,
      on: {
        TaskCheckpointed: 'running',
        TaskCheckpointFailed: 'running',
        TaskSignalled: { actions: 'admit' },
        TaskOutOfMemory: { actions: 'rememberOutOfMemory' },
        // A checkpoint that is to end it does so before it is answered; it cannot be deleted until then.
        TaskExited: { target: 'checkpointingStopped', actions: 'rememberExit' },
      },
    },
    checkpointingPaused: {
      tags: intent,
      on: {
        TaskCheckpointed: 'paused',
        TaskCheckpointFailed: 'paused',
        TaskSignalled: { actions: 'admit' },
        TaskOutOfMemory: { actions: 'rememberOutOfMemory' },
        TaskExited: { target: 'checkpointingStopped', actions: 'rememberExit' },
      },
    },
    checkpointingStopped: {
      tags: intent,
      on: {
        TaskCheckpointed: 'stopped',
        TaskCheckpointFailed: 'stopped',
        TaskOutOfMemory: { actions: 'rememberOutOfMemory' },
      },
    },
    stopped: {
      on: {
        TaskDeleteRequested: 'deleting',
        // The kernel's notice can come after the exit that it caused.
        TaskOutOfMemory: { actions: 'rememberOutOfMemory' },
      },
    },
    deleting: {
      tags: intent,
      on: {
        TaskDeleted: { target: 'absent', actions: 'forget' },
        TaskDeleteFailed: [{ guard: 'exited', target: 'stopped' }, { target: 'created' }],
        // Deleting a task that was only created ends its init process.
        TaskExited: { actions: 'rememberExit' },
      },
    },
  },
})

export const taskMachine: LifecycleMachine<TaskState, TaskFacts, TaskEvent | ExecAdmitted> = lifecycleOf(
  machine,
  snapshot => ({ state: snapshot.value as TaskState, facts: snapshot.context as TaskFacts }),
)
