// The facts about an image: a name for a descriptor.
import type { Descriptor, Labels, Timestamp } from '../values.js'

export interface ImageRecord {
  name: string
  labels: Labels
  target: Descriptor
}

/** `at` replaces the time of the fact when the client gave a source date epoch. */
export interface ImageCreated {
  type: 'ImageCreated'
  image: ImageRecord
  at: Timestamp | null
}
/** The whole record as it is now. */
export interface ImageUpdated {
  type: 'ImageUpdated'
  image: ImageRecord
  at: Timestamp | null
}
export interface ImageDeleted {
  type: 'ImageDeleted'
  name: string
}

export type ImageEvent = ImageCreated | ImageUpdated | ImageDeleted
