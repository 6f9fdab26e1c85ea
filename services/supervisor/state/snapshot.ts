// The fold as bytes and back.

import { NamespaceState } from './namespaceState.js'
import { newSummary, type StoredSummaries, Summaries } from './summaries.js'
import { World } from './world.js'

/** Raised when the fold's own shape changes; then `older` says how to read the one before. */
const shape = 2

type Marked = { $map: [unknown, unknown][] } | { $set: unknown[] } | { $big: string }

export function encodeWorld(world: World): Uint8Array {
  const { namespaces, plugins, versions, sequence, requests, summaries } = world
  const bounded = { requests: requests.entries(), summaries: summaries.toStored(), lost: world.lost }
  return Buffer.from(JSON.stringify({ shape, namespaces, plugins, versions, sequence, ...bounded }, mark))
}

/**
 * undefined for a shape that is not known here, newer or long past: then another snapshot, or the journal from its
 * beginning, has to tell.
 */
export function decodeWorld(state: Uint8Array): World | undefined {
  const stored = JSON.parse(Buffer.from(state).toString(), unmark)
  if (stored.shape !== shape && stored.shape !== 1) return undefined
  const world = new World()
  world.sequence = stored.sequence
  for (const [stream, sequence] of stored.versions) world.versions.set(stream, sequence)
  for (const [key, plugin] of stored.plugins) world.plugins.set(key, plugin)
  world.lost.push(...(stored.lost ?? []))
  world.requests.restore(stored.requests ?? []) // shape 1 had none
  for (const [name, namespace] of stored.namespaces) {
    const state: NamespaceState = Object.assign(new NamespaceState(), namespace)
    world.namespaces.set(name, state)
    for (const [snapshotter, keys] of state.snapshots)
      for (const { backendKey } of keys.values()) world.backendKeys.add(snapshotter, backendKey)
  }
  world.summaries = Summaries.from(stored.shape === 1 ? summariesOfLiving(world) : stored.summaries)
  return world
}

/** Shape 1 had no summaries: of what lives then, the record is known. */
function summariesOfLiving(world: World): StoredSummaries {
  const living = [...world.namespaces].flatMap(([namespace, { containers }]) =>
    [...containers.values()].flatMap(({ lifecycle, createdAt }) =>
      lifecycle.facts.record ? [newSummary(namespace, lifecycle.facts.record, createdAt, '')] : [],
    ),
  )
  return { finished: [], living }
}

function mark(_key: string, value: unknown): unknown {
  if (value instanceof Map) return { $map: [...value] } satisfies Marked
  if (value instanceof Set) return { $set: [...value] } satisfies Marked
  if (typeof value === 'bigint') return { $big: String(value) } satisfies Marked
  return value
}

function unmark(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  if ('$map' in value && Array.isArray(value.$map)) return new Map(value.$map)
  if ('$set' in value && Array.isArray(value.$set)) return new Set(value.$set)
  if ('$big' in value && typeof value.$big === 'string') return BigInt(value.$big)
  return value
}
