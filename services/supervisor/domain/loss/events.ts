// What a repair of the journal puts in the place of a record that could not be brought back, and what an operator says to it.

/** Something happened here, and nobody can tell any more what. */
export interface RecordLost {
  type: 'RecordLost'
  reason: string
}

/** What the journal does not know since may be removed: the operator has seen what that is. */
export interface RecordLossAccepted {
  type: 'RecordLossAccepted'
  /** How many records are meant. */
  records: number
}

export type LossEvent = RecordLost | RecordLossAccepted
