// Updates of things of which nothing but the labels can change: blobs and snapshots.
import { isRefusal } from '../domain/decision.js'
import type { Labels } from '../domain/values.js'
import { refusalStatus } from '../runner.js'
import { withoutEmpty } from '../state/convert.js'
import { applyMask, withLabel } from './masks.js'

/** The labels as the mask wants them; no mask replaces them all. Throws INVALID_ARGUMENT for any other field. */
export function maskedLabels(current: Labels, wanted: Labels, mask: readonly string[] | undefined): Labels {
  if (!mask || mask.length === 0) return withoutEmpty(wanted)
  const updatable = {
    fields: { labels: () => ({ labels: withoutEmpty(wanted) }) },
    entries: {
      labels: ({ labels }: { labels: Labels }, key: string) => ({ labels: withLabel(labels, key, wanted) }),
    },
  }
  const updated = applyMask({ labels: current }, mask, updatable, '')
  if (isRefusal(updated)) throw refusalStatus(updated)
  return updated.labels
}
