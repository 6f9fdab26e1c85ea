// How far the stream may be taken to lie on the broker's disk: JetStream acknowledges before it syncs.
import type { Sequence } from '../journal/journal.js'

/** nats-server syncs its files every two minutes at the latest, unless it is told otherwise. */
export const syncedAfterMs = 150_000

interface Mark {
  sequence: Sequence
  at: number
}

/** Remembers the relay's place as it was some minutes ago, in two marks that follow each other. */
export class SyncedPlace {
  #older: Mark = { sequence: 0n, at: 0 }
  #newer: Mark | undefined

  constructor(readonly afterMs = syncedAfterMs) {}

  /** The place is `sequence` at the moment `at`, in milliseconds of a clock that only goes forward. */
  reached(sequence: Sequence, at: number): void {
    if (this.#newer && at - this.#newer.at < this.afterMs) return
    if (this.#newer) this.#older = this.#newer
    this.#newer = { sequence, at }
  }

  /** The stream is no longer known to be what it was. */
  forget(): void {
    this.#older = { sequence: 0n, at: 0 }
    this.#newer = undefined
  }

  /** What was reached long enough ago. */
  at(now: number): Sequence {
    return this.#newer && now - this.#newer.at >= this.afterMs ? this.#newer.sequence : this.#older.sequence
  }
}
