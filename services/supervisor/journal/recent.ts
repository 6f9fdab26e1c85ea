// The newest durable records in memory, for readers that are nearly up to date.
import type { JournalRecord, Sequence } from './journal.js'

export interface RecentLimits {
  records: number
  bytes: number
}

export class Recent {
  /** Those before `head` have been dropped and are undefined. */
  private kept: ({ record: JournalRecord; bytes: number } | undefined)[] = []
  private head = 0
  private bytes = 0

  constructor(private readonly limits: RecentLimits) {}

  /** Each with its size on disk. Records come in the order of their sequences, without a gap. */
  add(record: JournalRecord, bytes: number): void {
    this.kept.push({ record, bytes })
    this.bytes += bytes
    while (this.bytes > this.limits.bytes || this.kept.length - this.head > this.limits.records) {
      this.bytes -= this.kept[this.head]?.bytes ?? 0
      this.kept[this.head] = undefined
      this.head += 1
    }
    if (this.head < 64 || this.head < this.kept.length / 2) return
    this.kept = this.kept.slice(this.head)
    this.head = 0
  }

  get(sequence: Sequence): JournalRecord | undefined {
    const first = this.kept[this.head]?.record.sequence
    if (first === undefined || sequence < first) return undefined
    return this.kept[this.head + Number(sequence - first)]?.record
  }
}
