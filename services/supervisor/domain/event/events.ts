// An event that a client published or forwarded: it changes nothing, and is remembered and delivered like the rest.
import type { SmallAny, Timestamp } from '../values.js'

export interface EventPublished {
  type: 'EventPublished'
  topic: string
  /** When the publisher says that it happened; null: now. */
  at: Timestamp | null
  event: SmallAny | null
}

export type PublishedEvent = EventPublished
