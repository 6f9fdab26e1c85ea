// The facts about a lease, which keeps resources from garbage collection.
import type { Labels } from '../values.js'

/** `type` is "content", "snapshots/<snapshotter>", "ingests" or "images". */
export interface LeaseResource {
  type: string
  id: string
}

export interface LeaseCreated {
  type: 'LeaseCreated'
  id: string
  labels: Labels
}
export interface LeaseDeleted {
  type: 'LeaseDeleted'
  id: string
}
export interface LeaseResourceAdded {
  type: 'LeaseResourceAdded'
  id: string
  resource: LeaseResource
}
export interface LeaseResourceRemoved {
  type: 'LeaseResourceRemoved'
  id: string
  resource: LeaseResource
}

export type LeaseEvent = LeaseCreated | LeaseDeleted | LeaseResourceAdded | LeaseResourceRemoved
