// The fold as bytes and back.
import { NamespaceState, World } from './world.js'

/** Raised when the fold's own shape changes: an older snapshot is then passed over and the journal read instead. */
const shape = 1

type Marked = { $map: [unknown, unknown][] } | { $set: unknown[] } | { $big: string }

export function encodeWorld(world: World): Uint8Array {
  const { namespaces, plugins, versions, sequence } = world
  const requests = world.requests.entries()
  return Buffer.from(JSON.stringify({ shape, namespaces, plugins, versions, sequence, requests }, mark))
}

/** An unreadable or older shape is an empty world at 0: the journal then tells everything again. */
export function decodeWorld(state: Uint8Array): World {
  const world = new World()
  const stored = JSON.parse(Buffer.from(state).toString(), unmark)
  if (stored.shape !== shape) return world
  world.sequence = stored.sequence
  for (const [stream, sequence] of stored.versions) world.versions.set(stream, sequence)
  for (const [key, plugin] of stored.plugins) world.plugins.set(key, plugin)
  world.requests.restore(stored.requests ?? []) // there were none before they were remembered
  for (const [name, namespace] of stored.namespaces) {
    world.namespaces.set(name, Object.assign(new NamespaceState(), namespace))
  }
  return world
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
