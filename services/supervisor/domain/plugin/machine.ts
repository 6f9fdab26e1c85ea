// The life of a plugin, by (kind, id): registrations follow each other, the newest one counts.
import { assign, setup } from 'xstate'
import { type LifecycleMachine, lifecycleOf } from '../lifecycle.js'
import { emissionsRemembered, type PluginEvent, type PluginFacts, type PluginState } from './events.js'

const nothing: PluginFacts = { version: '', endpoint: '', capabilities: [], epoch: 0, emissions: [] }

const register = { target: 'opening', guard: 'isNewer', actions: 'rememberRegistration' } as const
const lose = { target: 'lost', guard: 'isCurrent' } as const
const leave = { target: 'left', guard: 'isCurrent' } as const

const machine = setup({
  types: {} as { context: PluginFacts; events: PluginEvent },
  actions: {
    rememberRegistration: assign(({ event }) =>
      event.type === 'PluginRegistered'
        ? {
            version: event.version,
            endpoint: event.endpoint,
            capabilities: event.capabilities,
            epoch: event.epoch,
          }
        : {},
    ),
    rememberEmission: assign(({ context, event }) =>
      event.type === 'PluginEmitted'
        ? { emissions: [...context.emissions, event.emissionId].slice(-emissionsRemembered) }
        : {},
    ),
  },
  guards: {
    isCurrent: ({ context, event }) => 'epoch' in event && event.epoch === context.epoch,
    isNewer: ({ context, event }) => 'epoch' in event && event.epoch > context.epoch,
    isNews: ({ context, event }) => event.type === 'PluginEmitted' && !context.emissions.includes(event.emissionId),
  },
}).createMachine({
  id: 'plugin',
  context: nothing,
  initial: 'absent',
  on: { PluginEmitted: { guard: 'isNews', actions: 'rememberEmission' } },
  states: {
    absent: { on: { PluginRegistered: register, PluginEmitted: {} } },
    opening: {
      on: {
        PluginRegistered: register,
        PluginReady: { target: 'ready', guard: 'isCurrent' },
        PluginLost: lose,
        PluginLeft: leave,
      },
    },
    ready: {
      on: {
        // A newer one takes over while this one finishes its calls.
        PluginRegistered: register,
        PluginDraining: { target: 'draining', guard: 'isCurrent' },
        PluginLost: lose,
        PluginLeft: leave,
      },
    },
    draining: { on: { PluginRegistered: register, PluginLost: lose, PluginLeft: leave } },
    lost: { on: { PluginRegistered: register } },
    left: { on: { PluginRegistered: register } },
  },
})

export const pluginMachine: LifecycleMachine<PluginState, PluginFacts, PluginEvent> = lifecycleOf(
  machine,
  snapshot => ({ state: snapshot.value as PluginState, facts: snapshot.context as PluginFacts }),
)
