// Decides a collection of garbage: the facts are those of an explicit removal.
import { deleteContent } from '../content/decide.js'
import { type Decision, type Fact, isRefusal } from '../decision.js'
import { deleteImage } from '../image/decide.js'
import { deleteLease } from '../lease/decide.js'
import { removeSnapshot } from '../snapshot/decide.js'
import { type Contents, findGarbage, heldByLeases, type SnapshotName } from './mark.js'

/** At most `max` facts, in an order that may be cut anywhere: what is left is garbage as before. */
export function collect(
  namespace: string,
  contents: Contents,
  now: { nanos: bigint; held: readonly SnapshotName[]; max: number },
): { facts: Fact[]; expires: bigint | undefined } {
  const { leases, images, snapshots, blobs, expires } = findGarbage(contents, now.nanos, now.held)
  const facts: Fact[] = []
  const add = (decision: Decision) => {
    if (!isRefusal(decision)) facts.push(...decision.facts)
  }
  for (const id of leases) add(deleteLease(namespace, { labels: {}, has: () => false }, id))
  for (const name of images) add(deleteImage(namespace, contents.images.get(name)?.record, name, undefined))
  for (const { snapshotter, key } of snapshots)
    add(removeSnapshot({ namespace, snapshotter, key }, contents.snapshots.get(snapshotter)?.get(key), 0))
  for (const digest of blobs) add(deleteContent(namespace, contents.blobs.get(digest), digest))
  return { facts: facts.slice(0, now.max), expires }
}

/** An upload without a lease is given up after a day without news of it, as containerd does. */
const ingestLife = 24n * 3600n * 1_000_000_000n

export function staleIngests(
  ingests: readonly { ref: string; updatedAtNanos: bigint }[],
  leases: Contents['leases'],
  nowNanos: bigint,
): string[] {
  const old = ingests.filter(({ updatedAtNanos }) => nowNanos - updatedAtNanos > ingestLife)
  if (old.length === 0) return []
  const held = new Set([...heldByLeases(leases, nowNanos)].filter(({ type }) => type === 'ingests').map(({ id }) => id))
  return old.map(({ ref }) => ref).filter(ref => !held.has(ref))
}
