// What a repair of the journal puts in the place of a record that could not be brought back.

/** Something happened here, and nobody can tell any more what. */
export interface RecordLost {
  type: 'RecordLost'
  reason: string
}
