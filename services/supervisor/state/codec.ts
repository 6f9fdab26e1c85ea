// Events as the journal's payloads, and the fold as its snapshots: JSON both.
import type { DomainEvent, Fact } from '../domain/decision.js'
import type { Entry, JournalRecord } from '../journal/journal.js'
import { inTodaysShape, NewerEvent, versions } from './upcast.js'

export function encodeFact(fact: Fact): Entry {
  const { type, ...payload } = fact.event
  return {
    namespace: fact.namespace,
    stream: fact.stream,
    type,
    schema: versions[type],
    payload: Buffer.from(JSON.stringify(payload)),
    attachments: fact.attachments ?? [],
    ends: fact.ends ?? false,
  }
}

/** The journal's checksum has vouched for the bytes, and a version of this program wrote them: their shape is trusted. */
export function decodeEvent({ sequence, type, schema, payload }: JournalRecord): DomainEvent {
  const text = inTodaysShape(type, schema, Buffer.from(payload).toString())
  if (text === undefined) throw new NewerEvent(sequence, type, schema)
  return { type, ...JSON.parse(text) }
}
