// What is known of one snapshot, and its form on disk.

/** Views are read-only and cannot be committed; committed ones are layers, parents of others. */
export type SnapshotKind = 'active' | 'view' | 'committed'

/** What it takes of the disk, its parents not counted. */
export interface Usage {
  bytes: bigint
  inodes: bigint
}

export interface Snapshot {
  /** The name of its directory: a decimal number, never used twice. */
  readonly id: string
  /** The key of an active one or a view, the name of a committed one: they share one table. */
  readonly name: string
  readonly kind: SnapshotKind
  /** Name of a committed snapshot, '' for none. */
  readonly parent: string
  readonly labels: Readonly<Record<string, string>>
  /** Nanoseconds since 1970. */
  readonly createdAt: bigint
  readonly updatedAt: bigint
  /** Of a committed one, measured when it was committed. */
  readonly usage: Usage | undefined
}

const version = 1

export function encodeSnapshot(snapshot: Snapshot): string {
  const { name, kind, parent, labels, createdAt, updatedAt, usage } = snapshot
  return JSON.stringify({
    version,
    name,
    kind,
    parent,
    labels,
    createdAt: createdAt.toString(),
    updatedAt: updatedAt.toString(),
    ...(usage && { bytes: usage.bytes.toString(), inodes: usage.inodes.toString() }),
  })
}

/** Undefined when the text is not what encodeSnapshot writes. */
export function decodeSnapshot(id: string, text: string): Snapshot | undefined {
  const fields = parseObject(text)
  if (fields?.version !== version) return undefined
  const { name, kind, parent } = fields
  const createdAt = integer(fields.createdAt)
  const updatedAt = integer(fields.updatedAt)
  const labels = stringMap(fields.labels)
  if (typeof name !== 'string' || typeof parent !== 'string' || !isKind(kind)) return undefined
  if (createdAt === undefined || updatedAt === undefined || !labels) return undefined
  const bytes = integer(fields.bytes)
  const inodes = integer(fields.inodes)
  const usage = bytes === undefined || inodes === undefined ? undefined : { bytes, inodes }
  if ((kind === 'committed') !== (usage !== undefined)) return undefined
  return { id, name, kind, parent, labels, createdAt, updatedAt, usage }
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return isObject(value) ? value : undefined
  } catch {
    return undefined
  }
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const isKind = (value: unknown): value is SnapshotKind =>
  value === 'active' || value === 'view' || value === 'committed'

const integer = (value: unknown): bigint | undefined =>
  typeof value === 'string' && /^\d{1,20}$/.test(value) ? BigInt(value) : undefined

function stringMap(value: unknown): Record<string, string> | undefined {
  if (!isObject(value)) return undefined
  const entries: [string, string][] = []
  for (const [name, text] of Object.entries(value)) {
    if (typeof text !== 'string') return undefined
    entries.push([name, text])
  }
  return Object.fromEntries(entries)
}
