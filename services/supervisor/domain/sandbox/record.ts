// Decides what may happen to a sandbox's record. It comes and goes by itself: a controller needs none, as in containerd.
import { accept, type Decision, refuse } from '../decision.js'
import { type MovedPart, moved } from '../parts.js'
import { sandboxRecordStream } from '../streams.js'
import type { SandboxRecord } from './events.js'

type Current = SandboxRecord | undefined

/** `record` names its heavy parts by their index in `attachments`. */
export function createSandboxRecord(
  namespace: string,
  current: Current,
  record: SandboxRecord,
  attachments: Uint8Array[],
): Decision {
  if (current) return refuse('already-exists', `sandbox "${record.id}"`)
  const event = { type: 'SandboxRecordCreated', sandbox: record } as const
  return accept({ namespace, stream: sandboxRecordStream(namespace, record.id), event, attachments })
}

/** The record as it shall be. Its id and its controller stay. */
export function updateSandboxRecord(
  namespace: string,
  current: Current,
  record: SandboxRecord,
  attachments: Uint8Array[],
): Decision {
  if (!current) return refuse('not-found', `sandbox "${record.id}"`)
  const event = { type: 'SandboxRecordUpdated', sandbox: { ...record, sandboxer: current.sandboxer } } as const
  return accept({ namespace, stream: sandboxRecordStream(namespace, record.id), event, attachments })
}

export function deleteSandboxRecord(namespace: string, current: Current, id: string): Decision {
  if (!current) return refuse('not-found', `sandbox "${id}"`)
  const event = { type: 'SandboxRecordDeleted', id } as const
  return accept({ namespace, stream: sandboxRecordStream(namespace, id), event, ends: true })
}

/** Brings the heavy parts again, if they still lie where `read` found them; else there is nothing to do. */
export function moveSandboxParts(namespace: string, current: Current, read: readonly MovedPart[]): Decision {
  const again = current && moved(current, read)
  if (!current || !again) return accept()
  const event = { type: 'SandboxRecordPartsMoved', id: current.id, ...again.parts } as const
  const { attachments } = again
  return accept({ namespace, stream: sandboxRecordStream(namespace, current.id), event, attachments })
}
