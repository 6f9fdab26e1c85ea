// The facts about a container's attachment to a network.

interface OfAttachment {
  containerId: string
  network: string
}

export interface NetworkAttachRequested extends OfAttachment {
  type: 'NetworkAttachRequested'
}
export interface NetworkAttached extends OfAttachment {
  type: 'NetworkAttached'
  netnsPath: string
  /** CIDR notation. */
  addresses: readonly string[]
  gateways: readonly string[]
  interface: string
}
export interface NetworkAttachFailed extends OfAttachment {
  type: 'NetworkAttachFailed'
  reason: string
}
export interface NetworkDetachRequested extends OfAttachment {
  type: 'NetworkDetachRequested'
}
export interface NetworkDetached extends OfAttachment {
  type: 'NetworkDetached'
}
export interface NetworkDetachFailed extends OfAttachment {
  type: 'NetworkDetachFailed'
  reason: string
}

export type NetworkEvent =
  | NetworkAttachRequested
  | NetworkAttached
  | NetworkAttachFailed
  | NetworkDetachRequested
  | NetworkDetached
  | NetworkDetachFailed

export interface NetworkFacts {
  network: string
  netnsPath: string
  addresses: readonly string[]
}

export type NetworkState = 'absent' | 'attaching' | 'attached' | 'detaching' | 'stranded'
