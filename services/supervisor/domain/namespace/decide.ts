// Decides what may happen to a namespace.
import { accept, type Decision, refuse } from '../decision.js'
import { namespaceStream } from '../streams.js'
import type { Labels } from '../values.js'

export interface NamespaceView {
  labels: Labels
}

export function createNamespace(current: NamespaceView | undefined, name: string, labels: Labels): Decision {
  if (current) return refuse('already-exists', `namespace "${name}"`)
  return accept({ namespace: name, stream: namespaceStream(name), event: { type: 'NamespaceCreated', name, labels } })
}

export function updateNamespace(current: NamespaceView | undefined, name: string, labels: Labels): Decision {
  if (!current) return refuse('not-found', `namespace "${name}"`)
  return accept({ namespace: name, stream: namespaceStream(name), event: { type: 'NamespaceUpdated', name, labels } })
}

/** `contents` says what is still in it, as containerd does: "containers, images". */
export function deleteNamespace(current: NamespaceView | undefined, name: string, contents: string[]): Decision {
  if (!current) return refuse('not-found', `namespace "${name}"`)
  if (contents.length > 0) {
    return refuse('failed-precondition', `namespace "${name}" must be empty, but it still has ${contents.join(', ')}`)
  }
  const event = { type: 'NamespaceDeleted', name } as const
  return accept({ namespace: name, stream: namespaceStream(name), event, ends: true })
}
