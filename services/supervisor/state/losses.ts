// Records that a repair of the journal could not bring back: which they are, and whether somebody accepted that.
import type { Sequence } from '../journal/journal.js'

/** Sequences, decimal: from the first to the last of a row. */
export interface Loss {
  from: string
  to: string
  /** An operator said that what the journal does not know may be removed all the same. */
  accepted?: true
}

export function addLoss(losses: Loss[], sequence: Sequence): void {
  const before = losses.at(-1)
  if (before && !before.accepted && BigInt(before.to) + 1n === sequence) before.to = String(sequence)
  else losses.push({ from: String(sequence), to: String(sequence) })
}

export function acceptLosses(losses: Loss[]): void {
  for (const loss of losses) loss.accepted = true
}

/** How many records are lost and not accepted: while there are any, what the fold does not know need not be an orphan. */
export function missing(losses: readonly Loss[]): number {
  const open = losses.filter(({ accepted }) => !accepted)
  return open.reduce((total, { from, to }) => total + Number(BigInt(to) - BigInt(from)) + 1, 0)
}
