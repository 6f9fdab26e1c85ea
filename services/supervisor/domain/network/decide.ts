// Decides what may happen to a container's attachment to a network.
import { accept, type Decision } from '../decision.js'
import { illegal, type Lifecycle } from '../lifecycle.js'
import { networkStream } from '../streams.js'
import type { NetworkEvent, NetworkFacts, NetworkState } from './events.js'
import { networkMachine } from './machine.js'

export type Attachment = Lifecycle<NetworkState, NetworkFacts>

export function stepNetwork(namespace: string, attachment: Attachment, event: NetworkEvent): Decision {
  if (!networkMachine.next(attachment, event)) {
    const wish = { creates: event.type === 'NetworkAttachRequested', verb: event.type }
    return illegal(`network attachment of container "${event.containerId}"`, attachment.state, wish)
  }
  const ends = event.type === 'NetworkDetached' || event.type === 'NetworkAttachFailed'
  return accept({ namespace, stream: networkStream(namespace, event.containerId), event, ends })
}
