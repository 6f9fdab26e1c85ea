// The life of a process that was added to a running task ("exec").
import { assign, setup } from 'xstate'
import { intent, type LifecycleMachine, lifecycleOf } from '../lifecycle.js'
import type { ExecEvent, ExecFacts, ExecState } from './events.js'

const nothing: ExecFacts = {
  stdio: { stdin: '', stdout: '', stderr: '', terminal: false },
  pid: 0,
  exit: null,
}

const machine = setup({
  types: {} as { context: ExecFacts; events: ExecEvent },
  actions: {
    rememberRequest: assign(({ event }) => (event.type === 'ExecRequested' ? { ...nothing, stdio: event.stdio } : {})),
    rememberPid: assign(({ event }) => (event.type === 'ExecStarted' ? { pid: event.pid } : {})),
    rememberExit: assign(({ event }) => (event.type === 'ExecExited' ? { exit: event.exit } : {})),
    forget: assign(() => nothing),
    admit: () => {},
  },
  guards: {
    exited: ({ context }) => context.exit !== null,
  },
}).createMachine({
  id: 'exec',
  context: nothing,
  initial: 'absent',
  // The task can be deleted at any time, and takes all its processes with it.
  on: { ExecAbandoned: { target: '.absent', actions: 'forget' } },
  states: {
    absent: { on: { ExecRequested: { target: 'adding', actions: 'rememberRequest' }, ExecAbandoned: {} } },
    adding: { tags: intent, on: { ExecAdded: 'added', ExecAddFailed: { target: 'absent', actions: 'forget' } } },
    added: { on: { ExecStartRequested: 'starting', ExecDeleteRequested: 'deleting' } },
    starting: {
      tags: intent,
      on: {
        ExecStarted: { target: 'running', actions: 'rememberPid' },
        ExecStartFailed: 'added',
        ExecSignalled: { actions: 'admit' },
      },
    },
    running: {
      on: {
        ExecSignalled: { actions: 'admit' },
        ExecExited: { target: 'stopped', actions: 'rememberExit' },
      },
    },
    stopped: { on: { ExecDeleteRequested: 'deleting' } },
    deleting: {
      tags: intent,
      on: {
        ExecDeleted: { target: 'absent', actions: 'forget' },
        ExecDeleteFailed: [{ guard: 'exited', target: 'stopped' }, { target: 'added' }],
      },
    },
  },
})

export const execMachine: LifecycleMachine<ExecState, ExecFacts, ExecEvent> = lifecycleOf(machine, snapshot => ({
  state: snapshot.value as ExecState,
  facts: snapshot.context as ExecFacts,
}))
