// The facts about a blob as one namespace sees it; the bytes are shared between namespaces.
import type { Labels } from '../values.js'

export interface ContentCommitted {
  type: 'ContentCommitted'
  digest: string
  /** Bytes, decimal. */
  size: string
  labels: Labels
}
/** `labels` are all that it has now. */
export interface ContentUpdated {
  type: 'ContentUpdated'
  digest: string
  labels: Labels
}
export interface ContentDeleted {
  type: 'ContentDeleted'
  digest: string
}

export type ContentEvent = ContentCommitted | ContentUpdated | ContentDeleted
