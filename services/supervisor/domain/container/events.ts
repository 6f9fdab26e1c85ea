// The facts about a container: the record from which tasks are made.
import type { HeavyAny, Labels, SmallAny } from '../values.js'

/** What a client says of a container; heavy parts by place. Source: containerd.services.containers.v1.Container. */
export interface ContainerRecord {
  id: string
  labels: Labels
  image: string
  runtime: { name: string; options: SmallAny | null }
  spec: HeavyAny | null
  snapshotter: string
  snapshotKey: string
  extensions: Readonly<Record<string, HeavyAny>>
  sandbox: string
}

export interface ContainerCreated {
  type: 'ContainerCreated'
  container: ContainerRecord
}
/** The whole record as it is now; parts that did not change keep their place. */
export interface ContainerUpdated {
  type: 'ContainerUpdated'
  container: ContainerRecord
}
export interface ContainerDeleted {
  type: 'ContainerDeleted'
  id: string
}
/** Nothing changed but the place of its heavy parts: this record brings them again, so that older ones can be dropped. */
export interface ContainerPartsMoved {
  type: 'ContainerPartsMoved'
  id: string
  spec: HeavyAny | null
  extensions: Readonly<Record<string, HeavyAny>>
}

export type ContainerEvent = ContainerCreated | ContainerUpdated | ContainerDeleted | ContainerPartsMoved

export interface ContainerFacts {
  record: ContainerRecord | null
}

export type ContainerState = 'absent' | 'idle' | 'occupied'
