// Decides what may happen to a blob in a namespace.
import { accept, type Decision, refuse } from '../decision.js'
import { contentStream } from '../streams.js'
import type { Labels } from '../values.js'

export interface BlobView {
  labels: Labels
}

export function commitContent(
  namespace: string,
  current: BlobView | undefined,
  blob: { digest: string; size: bigint; labels: Labels },
): Decision {
  if (current) return refuse('already-exists', `content ${blob.digest}`)
  const event = { type: 'ContentCommitted', digest: blob.digest, size: String(blob.size), labels: blob.labels } as const
  return accept({ namespace, stream: contentStream(namespace, blob.digest), event })
}

export function updateContent(
  namespace: string,
  current: BlobView | undefined,
  digest: string,
  labels: Labels,
): Decision {
  if (!current) return refuse('not-found', `content ${digest}`)
  const event = { type: 'ContentUpdated', digest, labels } as const
  return accept({ namespace, stream: contentStream(namespace, digest), event })
}

export function deleteContent(namespace: string, current: BlobView | undefined, digest: string): Decision {
  if (!current) return refuse('not-found', `content ${digest}`)
  const event = { type: 'ContentDeleted', digest } as const
  return accept({ namespace, stream: contentStream(namespace, digest), event, ends: true })
}
