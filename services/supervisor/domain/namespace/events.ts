// The facts about a namespace.
import type { Labels } from '../values.js'

export interface NamespaceCreated {
  type: 'NamespaceCreated'
  name: string
  labels: Labels
}
/** `labels` are all that it has now. */
export interface NamespaceUpdated {
  type: 'NamespaceUpdated'
  name: string
  labels: Labels
}
export interface NamespaceDeleted {
  type: 'NamespaceDeleted'
  name: string
}

export type NamespaceEvent = NamespaceCreated | NamespaceUpdated | NamespaceDeleted
