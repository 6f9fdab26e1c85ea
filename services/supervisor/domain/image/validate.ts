// What an image's record may look like.
import { checkDigest, checkLabels, checkName, type Objection } from '../validate.js'
import type { ImageRecord } from './events.js'

export function objectionTo({ name, labels, target }: ImageRecord): Objection {
  const unnamed = checkName('image name', name)
  if (unnamed) return unnamed
  const unlabelled = checkLabels(labels)
  if (unlabelled) return `image.Labels: ${unlabelled}`
  if (checkDigest(target.digest)) {
    return `Target.Digest ${JSON.stringify(target.digest.slice(0, 160))} invalid: invalid checksum digest format`
  }
  if (BigInt(target.size) <= 0n) return 'Target.Size must be greater than zero'
  if (target.mediaType === '') return 'Target.MediaType must be set'
  return undefined
}
