// Decides what may happen to an image's name.
import { accept, type Decision, refuse } from '../decision.js'
import { imageStream } from '../streams.js'
import type { Timestamp } from '../values.js'
import type { ImageRecord } from './events.js'

export function createImage(
  namespace: string,
  current: ImageRecord | undefined,
  image: ImageRecord,
  at: Timestamp | null,
): Decision {
  if (current) return refuse('already-exists', `image "${image.name}"`)
  return accept({ namespace, stream: imageStream(namespace, image.name), event: { type: 'ImageCreated', image, at } })
}

export function updateImage(
  namespace: string,
  current: ImageRecord | undefined,
  image: ImageRecord,
  at: Timestamp | null,
): Decision {
  if (!current) return refuse('not-found', `image "${image.name}"`)
  return accept({ namespace, stream: imageStream(namespace, image.name), event: { type: 'ImageUpdated', image, at } })
}

/** With `targetDigest` only if the name still means that digest. */
export function deleteImage(
  namespace: string,
  current: ImageRecord | undefined,
  name: string,
  targetDigest: string | undefined,
): Decision {
  if (!current) return refuse('not-found', `image "${name}"`)
  if (targetDigest !== undefined && current.target.digest !== targetDigest) {
    return refuse('not-found', `image "${name}" has a different target`)
  }
  return accept({ namespace, stream: imageStream(namespace, name), event: { type: 'ImageDeleted', name }, ends: true })
}
