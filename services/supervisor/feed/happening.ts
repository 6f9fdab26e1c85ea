// A durable event as subscribers see it: containerd's envelope, topic and fields, made once and only when asked for.
import type { Envelope } from '../../../proto/gen/containerd/types/event.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'
import type { DomainEvent } from '../domain/decision.js'
import type { Fields } from '../domain/filter.js'
import type { JournalRecord, Sequence } from '../journal/journal.js'
import { decodeEvent } from '../state/codec.js'
import { anyFromSmall } from '../state/convert.js'
import { envelopeOf } from '../state/envelopes.js'
import { publicationOf } from '../state/publication.js'
import { fieldsOf } from './fields.js'

export class Happening {
  /** Without its heavy parts, which no subscriber is told: what waits for one shall not hold them. */
  readonly record: JournalRecord
  /** What it costs to keep it waiting, near enough for a limit. */
  readonly bytes: number
  #event: DomainEvent | undefined
  #envelope: Envelope | null | undefined
  #topic: string | undefined
  #fields: Fields | undefined

  constructor(record: JournalRecord, event?: DomainEvent) {
    this.record = record.attachments.length === 0 ? record : { ...record, attachments: [] }
    this.bytes = 512 + 2 * record.payload.length
    this.#event = event
  }

  get sequence(): Sequence {
    return this.record.sequence
  }

  get event(): DomainEvent {
    this.#event ??= decodeEvent(this.record)
    return this.#event
  }

  /** undefined for what containerd has no event for. */
  get envelope(): Envelope | undefined {
    if (this.#envelope === undefined) this.#envelope = envelopeOf(this) ?? null
    return this.#envelope ?? undefined
  }

  /** containerd's, or `/purser/<lifecycle>/<event>` as in NATS. */
  get topic(): string {
    this.#topic ??= this.envelope?.topic ?? publicationOf(this).topic
    return this.#topic
  }

  /** As containerd has it, or as a client or plugin published it. */
  get payload(): Any | undefined {
    if (this.envelope) return this.envelope.event
    const { event } = this
    return event.type === 'PluginEmitted' && event.event ? anyFromSmall(event.event) : undefined
  }

  /** What a filter may ask for: containerd's fields. */
  get fields(): Fields {
    this.#fields ??= fieldsOf({ topic: this.topic, namespace: this.record.namespace, event: this.payload })
    return this.#fields
  }
}
