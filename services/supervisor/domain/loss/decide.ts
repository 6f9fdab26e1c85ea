// The decision to live with what a repair could not bring back.
import { accept, type Decision } from '../decision.js'
import { lossStream } from '../streams.js'

/** `records`: how many are lost and not accepted yet. */
export function acceptLoss(records: number): Decision {
  if (records === 0) return accept()
  return accept({ namespace: '', stream: lossStream, event: { type: 'RecordLossAccepted', records }, ends: true })
}
