// The version of each living stream: the sequence of its last record, durable and with what is on its way.
import { type Batch, type JournalRecord, type Sequence, VersionConflict } from './journal.js'

export class StreamVersions {
  /** Streams that ended by a record on its way are 0 here. */
  private readonly ahead = new Map<string, Sequence>()

  constructor(private readonly durable: Map<string, Sequence> = new Map()) {}

  /** The conflict of a batch with all that was accepted before it, on disk or not. */
  conflict({ expected }: Batch): VersionConflict | undefined {
    for (const [stream, version] of expected) {
      const actual = this.ahead.get(stream) ?? this.durable.get(stream) ?? 0n
      if (actual !== version) return new VersionConflict(stream, version, actual)
    }
    return undefined
  }

  /** Counts records that are accepted but not yet durable. */
  stage(records: readonly JournalRecord[]): void {
    for (const { stream, sequence, ends } of records) this.ahead.set(stream, ends ? 0n : sequence)
  }

  /** Counts records that are durable now. */
  settle(records: readonly JournalRecord[]): void {
    for (const { stream, sequence, ends } of records) {
      if (ends) this.durable.delete(stream)
      else this.durable.set(stream, sequence)
      if (this.ahead.get(stream) === (ends ? 0n : sequence)) this.ahead.delete(stream)
    }
  }

  /** Forgets everything that is not durable. */
  discardStaged(): void {
    this.ahead.clear()
  }

  /** The durable versions, as they are now. */
  copy(): Map<string, Sequence> {
    return new Map(this.durable)
  }
}
