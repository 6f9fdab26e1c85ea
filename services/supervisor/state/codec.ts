// Events as the journal's payloads, and the fold as its snapshots: JSON both.
import type { DomainEvent, Fact } from '../domain/decision.js'
import type { Entry, JournalRecord } from '../journal/journal.js'

/** The version of the events' shapes. A change of shape raises it and adds an upcaster. */
export const schemaVersion = 1

export function encodeFact(fact: Fact): Entry {
  const { type, ...payload } = fact.event
  return {
    namespace: fact.namespace,
    stream: fact.stream,
    type,
    schema: schemaVersion,
    payload: Buffer.from(JSON.stringify(payload)),
    attachments: fact.attachments ?? [],
    ends: fact.ends ?? false,
  }
}

/** The journal's checksum has vouched for the bytes, and this version wrote them: their shape is trusted. */
export function decodeEvent(record: JournalRecord): DomainEvent {
  if (record.schema > schemaVersion) {
    throw new Error(
      `record ${record.sequence} was written by a newer version (schema ${record.schema}; this one reads up to ${schemaVersion}): install that version again`,
    )
  }
  return { type: record.type, ...JSON.parse(Buffer.from(record.payload).toString()) }
}
