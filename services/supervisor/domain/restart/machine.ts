// The life of a restart: it waits until it is due, is carried out, and rests until the task has ended again.
import { assign, setup } from 'xstate'
import { intent, type LifecycleMachine, lifecycleOf } from '../lifecycle.js'
import type { RestartEvent, RestartFacts, RestartState } from './events.js'

const nothing: RestartFacts = { action: 'start', due: '', attempt: 0, doneAt: '' }

const schedule = { target: 'waiting', actions: 'rememberSchedule' } as const
const cancel = { target: 'absent', actions: 'forget' } as const

const machine = setup({
  types: {} as { context: RestartFacts; events: RestartEvent },
  actions: {
    rememberSchedule: assign(({ event }) =>
      event.type === 'RestartScheduled' ? { action: event.action, due: event.due, attempt: event.attempt } : {},
    ),
    rememberFailure: assign(({ event }) =>
      event.type === 'RestartFailed' ? { due: event.due, attempt: event.attempt } : {},
    ),
    rememberDone: assign(({ event }) => (event.type === 'RestartDone' ? { doneAt: event.at } : {})),
    forget: assign(() => nothing),
  },
}).createMachine({
  id: 'restart',
  context: nothing,
  initial: 'absent',
  states: {
    absent: { on: { RestartScheduled: schedule } },
    waiting: { on: { RestartBegun: 'restarting', RestartCancelled: cancel } },
    restarting: {
      tags: intent,
      on: {
        RestartDone: { target: 'resting', actions: 'rememberDone' },
        RestartFailed: { target: 'waiting', actions: 'rememberFailure' },
      },
    },
    resting: { on: { RestartScheduled: schedule, RestartCancelled: cancel } },
  },
})

export const restartMachine: LifecycleMachine<RestartState, RestartFacts, RestartEvent> = lifecycleOf(
  machine,
  snapshot => ({ state: snapshot.value as RestartState, facts: snapshot.context as RestartFacts }),
)
