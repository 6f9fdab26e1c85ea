// The life of a container: it can be deleted only while no task occupies it.
import { assign, setup } from 'xstate'
import { type LifecycleMachine, lifecycleOf } from '../lifecycle.js'
import type { TaskCreateFailed, TaskCreateRequested, TaskDeleted } from '../task/events.js'
import type { ContainerEvent, ContainerFacts, ContainerState } from './events.js'

/** A container hears when its task comes and goes. */
export type ContainerInput = ContainerEvent | TaskCreateRequested | TaskCreateFailed | TaskDeleted

const machine = setup({
  types: {} as { context: ContainerFacts; events: ContainerInput },
  actions: {
    remember: assign(({ event }) =>
      event.type === 'ContainerCreated' || event.type === 'ContainerUpdated' ? { record: event.container } : {},
    ),
    rememberPlaces: assign(({ context: { record }, event }) =>
      event.type === 'ContainerPartsMoved' && record
        ? { record: { ...record, spec: event.spec, extensions: event.extensions } }
        : {},
    ),
    forget: assign({ record: null }),
  },
}).createMachine({
  id: 'container',
  context: { record: null },
  initial: 'absent',
  states: {
    absent: { on: { ContainerCreated: { target: 'idle', actions: 'remember' } } },
    idle: {
      on: {
        ContainerUpdated: { actions: 'remember' },
        ContainerPartsMoved: { actions: 'rememberPlaces' },
        TaskCreateRequested: 'occupied',
        ContainerDeleted: { target: 'absent', actions: 'forget' },
      },
    },
    occupied: {
      on: {
        ContainerUpdated: { actions: 'remember' },
        ContainerPartsMoved: { actions: 'rememberPlaces' },
        TaskCreateFailed: 'idle',
        TaskDeleted: 'idle',
      },
    },
  },
})

export const containerMachine: LifecycleMachine<ContainerState, ContainerFacts, ContainerInput> = lifecycleOf(
  machine,
  snapshot => ({ state: snapshot.value as ContainerState, facts: snapshot.context as ContainerFacts }),
)
