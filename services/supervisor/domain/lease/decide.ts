// Decides what may happen to a lease.
import { accept, type Decision, type Fact, refuse } from '../decision.js'
import { leaseStream } from '../streams.js'
import type { Labels } from '../values.js'
import type { LeaseResource } from './events.js'

export interface LeaseView {
  labels: Labels
  has(resource: LeaseResource): boolean
}

export function createLease(namespace: string, current: LeaseView | undefined, id: string, labels: Labels): Decision {
  if (current) return refuse('already-exists', `lease "${id}"`)
  return accept({ namespace, stream: leaseStream(namespace, id), event: { type: 'LeaseCreated', id, labels } })
}

export function deleteLease(namespace: string, current: LeaseView | undefined, id: string): Decision {
  if (!current) return refuse('not-found', `lease "${id}"`)
  return accept({ namespace, stream: leaseStream(namespace, id), event: { type: 'LeaseDeleted', id }, ends: true })
}

export function addLeaseResource(
  namespace: string,
  current: LeaseView | undefined,
  id: string,
  resource: LeaseResource,
): Decision {
  if (!current) return refuse('not-found', `lease "${id}"`)
  return current.has(resource) ? accept() : accept(resourceAdded(namespace, id, resource))
}

export function removeLeaseResource(
  namespace: string,
  current: LeaseView | undefined,
  id: string,
  resource: LeaseResource,
): Decision {
  if (!current) return refuse('not-found', `lease "${id}"`)
  if (!current.has(resource)) return accept()
  const event = { type: 'LeaseResourceRemoved', id, resource } as const
  return accept({ namespace, stream: leaseStream(namespace, id), event })
}

/** A call that carries a lease adds what it makes to it, in the same batch as the making. */
export function withLease(
  decision: Decision,
  namespace: string,
  lease: { id: string; view: LeaseView | undefined } | undefined,
  resource: LeaseResource,
): Decision {
  if (!lease || 'refused' in decision || decision.facts.length === 0) return decision
  // containerd refuses work under a lease that is gone: what it makes would be collected at once.
  if (!lease.view) return refuse('not-found', `lease "${lease.id}"`)
  if (lease.view.has(resource)) return decision
  return accept(...decision.facts, resourceAdded(namespace, lease.id, resource))
}

function resourceAdded(namespace: string, id: string, resource: LeaseResource): Fact {
  return { namespace, stream: leaseStream(namespace, id), event: { type: 'LeaseResourceAdded', id, resource } }
}
