// Where some of a segment's records begin, so that any can be found by reading little.
import type { Sequence } from './journal.js'

const RECORDS_APART = 64
const BYTES_APART = 16 * 1024

export interface Place {
  sequence: Sequence
  /** Byte position in the segment. */
  position: number
}

/** One entry for every 64 records or 16 KiB: 64 KiB of memory for a segment of 64 MiB. */
export class SparseIndex {
  /** Relative to the segment's first. */
  private readonly sequences: number[] = []
  private readonly positions: number[] = []

  constructor(private readonly first: Sequence) {}

  /** Records come in order; most are not remembered. */
  add(sequence: Sequence, position: number): void {
    const relative = Number(sequence - this.first)
    const last = this.sequences.length - 1
    const near =
      relative - (this.sequences[last] ?? Number.NEGATIVE_INFINITY) < RECORDS_APART &&
      position - (this.positions[last] ?? 0) < BYTES_APART
    if (!near) this.remember(relative, position)
  }

  /** A record behind a damaged place, which can't be reached from those before it. */
  addBehindDamage(sequence: Sequence, position: number): void {
    this.remember(Number(sequence - this.first), position)
  }

  /** Takes over what another index of the same segment knows about later records. */
  continueWith({ sequences, positions }: SparseIndex): void {
    const known = this.sequences.at(-1) ?? -1
    for (const [index, relative] of sequences.entries())
      if (relative > known) this.remember(relative, positions[index] ?? 0)
  }

  /** The nearest remembered record at or before `sequence`. */
  before(sequence: Sequence): Place | undefined {
    const relative = Number(sequence - this.first)
    let [low, high] = [0, this.sequences.length]
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.sequences[middle] ?? 0) <= relative) low = middle + 1
      else high = middle
    }
    const [found, position] = [this.sequences[low - 1], this.positions[low - 1]]
    return found === undefined || position === undefined
      ? undefined
      : { sequence: this.first + BigInt(found), position }
  }

  private remember(relative: number, position: number): void {
    this.sequences.push(relative)
    this.positions.push(position)
  }
}
