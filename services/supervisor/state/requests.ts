// The part of the fold that remembers requests with an id, so that a repeat is answered as the first was. Bounded.
import type { RequestRecord } from '../domain/request/decide.js'
import type { RequestEvent } from '../domain/request/events.js'
import type { JournalRecord } from '../journal/journal.js'

/** Beyond either, the oldest is forgotten: a repeat that comes later than that is a request of its own. */
export const requestsMax = 20_000
export const requestAgeMaxNs = 24n * 3_600_000_000_000n

export class Requests {
  /** By namespace and id; a Map keeps the order of insertion, so the first is the oldest. */
  private readonly records = new Map<string, RequestRecord>()

  get size(): number {
    return this.records.size
  }

  get(namespace: string, id: string): RequestRecord | undefined {
    return this.records.get(keyOf(namespace, id))
  }

  apply({ namespace, sequence, timeUnixNano }: JournalRecord, event: RequestEvent): void {
    const key = keyOf(namespace, event.id)
    const { method, fingerprint } = event
    const known = this.records.get(key)
    const isAnswer = event.type === 'RequestAnswered'
    const answer = isAnswer ? { code: event.code, message: event.message, sequence: String(sequence) } : null
    const taken = isAnswer && known ? known.sequence : String(sequence)
    this.records.delete(key)
    this.records.set(key, { method, fingerprint, sequence: taken, at: String(timeUnixNano), answer })
    this.forget(timeUnixNano)
  }

  /** As a snapshot of the fold holds them, and back. */
  entries(): [string, RequestRecord][] {
    return [...this.records]
  }

  restore(entries: Iterable<[string, RequestRecord]>): void {
    for (const [key, record] of entries) this.records.set(key, record)
  }

  /** By the journal's clock, not by ours, so that a replay forgets the same. */
  private forget(now: bigint): void {
    for (const [key, { at }] of this.records) {
      if (this.records.size <= requestsMax && now - BigInt(at) <= requestAgeMaxNs) return
      this.records.delete(key)
    }
  }
}

/** No namespace holds a "/". */
const keyOf = (namespace: string, id: string) => `${namespace}/${id}`
