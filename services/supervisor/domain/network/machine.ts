// The life of a container's attachment to a network.
import { assign, setup } from 'xstate'
import { intent, type LifecycleMachine, lifecycleOf } from '../lifecycle.js'
import type { NetworkEvent, NetworkFacts, NetworkState } from './events.js'

const nothing: NetworkFacts = { network: '', netnsPath: '', addresses: [] }

const machine = setup({
  types: {} as { context: NetworkFacts; events: NetworkEvent },
  actions: {
    rememberNetwork: assign(({ event }) => ({ ...nothing, network: event.network })),
    rememberAddresses: assign(({ event }) =>
      event.type === 'NetworkAttached' ? { netnsPath: event.netnsPath, addresses: event.addresses } : {},
    ),
    forget: assign(() => nothing),
  },
}).createMachine({
  id: 'network',
  context: nothing,
  initial: 'absent',
  states: {
    absent: { on: { NetworkAttachRequested: { target: 'attaching', actions: 'rememberNetwork' } } },
    attaching: {
      tags: intent,
      on: {
        NetworkAttached: { target: 'attached', actions: 'rememberAddresses' },
        NetworkAttachFailed: { target: 'absent', actions: 'forget' },
        // After a crash nobody knows how far the attaching came: it is taken back.
        NetworkDetachRequested: 'detaching',
      },
    },
    attached: { on: { NetworkDetachRequested: 'detaching' } },
    detaching: {
      tags: intent,
      on: {
        NetworkDetached: { target: 'absent', actions: 'forget' },
        NetworkDetachFailed: 'stranded',
      },
    },
    // Its addresses are still held; detaching is tried again.
    stranded: { tags: intent, on: { NetworkDetachRequested: 'detaching' } },
  },
})

export const networkMachine: LifecycleMachine<NetworkState, NetworkFacts, NetworkEvent> = lifecycleOf(
  machine,
  snapshot => ({ state: snapshot.value as NetworkState, facts: snapshot.context as NetworkFacts }),
)
