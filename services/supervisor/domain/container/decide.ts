// Decides what may happen to a container's record.
import { accept, type Decision, refuse } from '../decision.js'
import { illegal, type Lifecycle } from '../lifecycle.js'
import { type MovedPart, moved } from '../parts.js'
import { containerStream } from '../streams.js'
import type { ContainerFacts, ContainerRecord, ContainerState } from './events.js'
import { containerMachine } from './machine.js'

export type Container = Lifecycle<ContainerState, ContainerFacts>

/** `record` names its heavy parts by their index in `attachments`. */
export function createContainer(
  namespace: string,
  current: Container,
  record: ContainerRecord,
  attachments: Uint8Array[],
): Decision {
  const event = { type: 'ContainerCreated', container: record } as const
  if (!containerMachine.next(current, event)) return refuse('already-exists', `container "${record.id}"`)
  return accept({ namespace, stream: containerStream(namespace, record.id), event, attachments })
}

/**
 * The record as it shall be. What a running task was made from cannot be changed: id, runtime name and (as in
 * containerd) the snapshotter.
 */
export function updateContainer(
  namespace: string,
  current: Container,
  record: ContainerRecord,
  attachments: Uint8Array[],
): Decision {
  const event = { type: 'ContainerUpdated', container: record } as const
  const before = current.facts.record
  if (!before || !containerMachine.next(current, event)) {
    return illegal(`container "${record.id}"`, current.state, { creates: false, verb: 'update' })
  }
  const immutable =
    before.snapshotter !== record.snapshotter
      ? 'snapshotter'
      : before.runtime.name !== record.runtime.name
        ? 'runtime.name'
        : null
  if (immutable) return refuse('invalid-argument', `container.${immutable} field is immutable`)
  return accept({ namespace, stream: containerStream(namespace, record.id), event, attachments })
}

/** Brings the heavy parts again, if they still lie where `read` found them; else there is nothing to do. */
export function moveParts(namespace: string, current: Container, read: readonly MovedPart[]): Decision {
  const { record } = current.facts
  const again = record && moved(record, read)
  if (!record || !again) return accept()
  const event = { type: 'ContainerPartsMoved', id: record.id, ...again.parts } as const
  const { attachments } = again
  return accept({ namespace, stream: containerStream(namespace, record.id), event, attachments })
}

export function deleteContainer(namespace: string, current: Container, id: string): Decision {
  const event = { type: 'ContainerDeleted', id } as const
  if (containerMachine.next(current, event)) {
    return accept({ namespace, stream: containerStream(namespace, id), event, ends: true })
  }
  if (current.state === 'absent') return refuse('not-found', `container "${id}"`)
  return refuse('failed-precondition', `cannot delete container "${id}": it has a task; delete the task first`)
}
