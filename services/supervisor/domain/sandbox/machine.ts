// The life that a controller gives a sandbox, from the wish to create it until its shim is gone.
import { assign, setup } from 'xstate'
import { intent, type LifecycleMachine, lifecycleOf } from '../lifecycle.js'
import type { SandboxEvent, SandboxFacts, SandboxState } from './events.js'

const nothing: SandboxFacts = { sandboxer: '', pid: 0, createdAt: '', address: '', version: 0, exit: null }

const exited = { target: 'stopped', actions: 'rememberExit' } as const
const remove = 'removing'

const machine = setup({
  types: {} as { context: SandboxFacts; events: SandboxEvent },
  actions: {
    rememberRequest: assign(({ event }) =>
      event.type === 'SandboxCreateRequested' ? { ...nothing, sandboxer: event.sandboxer } : {},
    ),
    rememberStart: assign(({ event }) => {
      if (event.type !== 'SandboxStarted') return {}
      const { pid, createdAt, address, version } = event
      return { pid, createdAt, address, version }
    }),
    rememberExit: assign(({ event }) => (event.type === 'SandboxExited' ? { exit: event.exit } : {})),
    forget: assign(() => nothing),
    admit: () => {},
  },
  guards: {
    exited: ({ context }) => context.exit !== null,
    started: ({ context }) => context.pid !== 0,
  },
}).createMachine({
  id: 'sandbox',
  context: nothing,
  initial: 'absent',
  states: {
    absent: { on: { SandboxCreateRequested: { target: 'creating', actions: 'rememberRequest' } } },
    creating: {
      tags: intent,
      on: {
        SandboxCreated: 'created',
        SandboxCreateFailed: { target: 'absent', actions: 'forget' },
      },
    },
    created: {
      on: {
        SandboxStartRequested: 'starting',
        SandboxStopRequested: { actions: 'admit' },
        SandboxExited: exited,
        SandboxShutdownRequested: remove,
      },
    },
    starting: {
      tags: intent,
      on: {
        SandboxStarted: { target: 'running', actions: 'rememberStart' },
        SandboxStartFailed: 'created',
        // Its shim died before it could answer.
        SandboxExited: exited,
      },
    },
    running: {
      on: {
        SandboxStopRequested: { actions: 'admit' },
        SandboxExited: exited,
        SandboxShutdownRequested: remove,
      },
    },
    stopped: { on: { SandboxShutdownRequested: remove } },
    removing: {
      tags: intent,
      on: {
        SandboxRemoved: { target: 'absent', actions: 'forget' },
        SandboxExited: { actions: 'rememberExit' },
        SandboxShutdownFailed: [
          { guard: 'exited', target: 'stopped' },
          { guard: 'started', target: 'running' },
          { target: 'created' },
        ],
      },
    },
  },
})

export const sandboxMachine: LifecycleMachine<SandboxState, SandboxFacts, SandboxEvent> = lifecycleOf(
  machine,
  snapshot => ({ state: snapshot.value as SandboxState, facts: snapshot.context as SandboxFacts }),
)
