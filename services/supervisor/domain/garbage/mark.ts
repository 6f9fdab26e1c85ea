// What nothing holds any more in a namespace: everything that can be reached from its roots is marked, the rest is garbage.
// Source: containerd 1.6 and 1.7, docs/garbage-collection.md.
import type { Container } from '../container/decide.js'
import type { ImageRecord } from '../image/events.js'
import type { OpenCommit, SnapshotRecord } from '../snapshot/events.js'
import { nanosOf, parseTimestamp } from '../time.js'
import type { Labels } from '../values.js'

/** All that one namespace has; the fold keeps it like this. */
export interface Contents {
  images: ReadonlyMap<string, { record: ImageRecord }>
  blobs: ReadonlyMap<string, { labels: Labels }>
  /** By snapshotter, then key. */
  snapshots: ReadonlyMap<string, ReadonlyMap<string, SnapshotRecord>>
  commits: ReadonlyMap<string, OpenCommit>
  leases: ReadonlyMap<string, Lease>
  containers: ReadonlyMap<string, { lifecycle: Container }>
  sandboxes: ReadonlyMap<string, { record: { labels: Labels } }>
}

export interface Lease {
  labels: Labels
  /** By type, then id. */
  resources: ReadonlyMap<string, ReadonlySet<string>>
}

export interface SnapshotName {
  snapshotter: string
  key: string
}

export interface Garbage {
  /** Expired. */
  leases: string[]
  /** Expired, and held by no lease. */
  images: string[]
  /** Children before their parents. */
  snapshots: SnapshotName[]
  blobs: string[]
  /** When the next lease or image expires that is there yet; nanoseconds since 1970. */
  expires: bigint | undefined
}

const rootLabel = 'containerd.io/gc.root'
const flatLabel = 'containerd.io/gc.flat'
const refLabel = 'containerd.io/gc.ref.'
const expireLabel = 'containerd.io/gc.expire'

/** `held` are snapshots that somebody is at work on, which no record tells. */
export function findGarbage(contents: Contents, nowNanos: bigint, held: readonly SnapshotName[] = []): Garbage {
  const { images, blobs, snapshots, leases } = contents
  const marked = new Marks(contents)
  for (const root of rootsOf(contents, nowNanos)) marked.add(root)
  for (const { snapshotter, key } of held) marked.add(snapshotNode(snapshotter, key))
  const deadSnapshots = [...snapshots].flatMap(([snapshotter, keys]) => {
    const dead = [...keys].filter(([key]) => !marked.has(snapshotNode(snapshotter, key)))
    return childrenFirst(new Map(dead)).map(key => ({ snapshotter, key }))
  })
  const expiries = [...leases.values(), ...[...images.values()].map(({ record }) => record)]
    .map(({ labels }) => expiryOf(labels) ?? 0n)
    .filter(at => at >= nowNanos)
  return {
    leases: [...leases].filter(([, { labels }]) => isExpired(labels, nowNanos)).map(([id]) => id),
    images: [...images.keys()].filter(key => !marked.has({ kind: 'image', key })),
    snapshots: deadSnapshots,
    blobs: [...blobs.keys()].filter(key => !marked.has({ kind: 'content', key })),
    expires: expiries.reduce<bigint | undefined>(
      (first, at) => (first === undefined || at < first ? at : first),
      undefined,
    ),
  }
}

/** The resources of leases that have not expired. */
export function* heldByLeases(leases: Contents['leases'], nowNanos: bigint) {
  for (const { labels, resources } of leases.values()) {
    if (isExpired(labels, nowNanos)) continue
    const flat = Object.hasOwn(labels, flatLabel)
    for (const [type, ids] of resources) for (const id of ids) yield { type, id, flat }
  }
}

/** What one thing is named by. A flat one holds itself and, if it is a snapshot, what it stands on: no labels count. */
interface Node {
  kind: 'content' | 'image' | 'snapshot' | 'container'
  /** Of a snapshot `snapshotter/key`. */
  key: string
  flat?: boolean
}

const snapshotNode = (snapshotter: string, key: string): Node => ({ kind: 'snapshot', key: `${snapshotter}/${key}` })

function* rootsOf(contents: Contents, now: bigint): Generator<Node> {
  const { images, blobs, snapshots, commits, leases, containers, sandboxes } = contents
  for (const { type, id, flat } of heldByLeases(leases, now)) {
    const [kind, snapshotter] = type.split('/')
    if (kind === 'content') yield { kind, key: id, flat }
    if (kind === 'images') yield { kind: 'image', key: id, flat }
    if (kind === 'snapshots' && snapshotter) yield { ...snapshotNode(snapshotter, id), flat }
  }
  for (const [key, { record }] of images) if (!isExpired(record.labels, now)) yield { kind: 'image', key }
  for (const [key, { labels }] of blobs) if (Object.hasOwn(labels, rootLabel)) yield { kind: 'content', key }
  for (const [snapshotter, keys] of snapshots)
    for (const [key, { labels }] of keys) if (Object.hasOwn(labels, rootLabel)) yield snapshotNode(snapshotter, key)
  for (const key of containers.keys()) yield { kind: 'container', key }
  // What a sandbox refers to; nobody refers to a sandbox.
  for (const { record } of sandboxes.values()) yield* labelled(record.labels, refLabel)
  // Whether it still is this snapshot nobody knows before the answer.
  for (const { snapshotter, key } of commits.values()) yield snapshotNode(snapshotter, key)
}

/** What was reached. A thing that was reached flat may be reached again, and then its labels count. */
class Marks {
  private readonly reached = { whole: new Set<string>(), flat: new Set<string>() }
  /** By the thing whose life they share: what names it with a label of its own. */
  private readonly followers: Map<string, Node[]>

  constructor(private readonly contents: Contents) {
    this.followers = followersIn(contents)
  }

  has(node: Node): boolean {
    const name = nameOf(node)
    return this.reached.whole.has(name) || this.reached.flat.has(name)
  }

  add(root: Node): void {
    const open = [root]
    for (let node = open.pop(); node; node = open.pop()) {
      const seen = node.flat ? this.reached.flat : this.reached.whole
      const name = nameOf(node)
      if (seen.has(name)) continue
      seen.add(name)
      open.push(...this.referencesOf(node))
    }
  }

  private *referencesOf(node: Node): Generator<Node> {
    const { kind, key, flat = false } = node
    const thing = this.find(node)
    if (!thing) return
    if (kind === 'image' && thing.target !== undefined) yield { kind: 'content', key: thing.target, flat }
    if (kind === 'snapshot' && thing.parent)
      yield { ...snapshotNode(key.slice(0, key.indexOf('/')), thing.parent), flat }
    if (flat) return
    if (thing.snapshot) yield thing.snapshot
    yield* labelled(thing.labels, refLabel)
    yield* this.followers.get(nameOf(node)) ?? []
  }

  private find({ kind, key }: Node): Thing | undefined {
    const { images, blobs, snapshots, containers } = this.contents
    switch (kind) {
      case 'content':
        return blobs.get(key)
      case 'image': {
        const record = images.get(key)?.record
        return record && { labels: record.labels, target: record.target.digest }
      }
      case 'snapshot': {
        const slash = key.indexOf('/')
        return snapshots.get(key.slice(0, slash))?.get(key.slice(slash + 1))
      }
      case 'container': {
        const record = containers.get(key)?.lifecycle.facts.record
        if (!record) return undefined
        const { labels, snapshotter, snapshotKey } = record
        return { labels, ...(snapshotter !== '' && { snapshot: snapshotNode(snapshotter, snapshotKey) }) }
      }
    }
  }
}

interface Thing {
  labels: Labels
  /** Of an image. */
  target?: string
  /** Of a snapshot; '' for none. */
  parent?: string
  /** Of a container. */
  snapshot?: Node
}

const nameOf = ({ kind, key }: Node) => `${kind} ${key}`

/** Back references: the label is on what follows, and names what it lives as long as. */
function followersIn({ images, blobs, snapshots }: Contents): Map<string, Node[]> {
  const followers = new Map<string, Node[]>()
  const add = (labels: Labels, follower: Node) => {
    for (const node of labelled(labels, 'containerd.io/gc.bref.')) {
      const name = nameOf(node)
      followers.set(name, [...(followers.get(name) ?? []), follower])
    }
  }
  for (const [key, { record }] of images) add(record.labels, { kind: 'image', key })
  for (const [key, { labels }] of blobs) add(labels, { kind: 'content', key })
  for (const [snapshotter, keys] of snapshots)
    for (const [key, { labels }] of keys) add(labels, snapshotNode(snapshotter, key))
  return followers
}

/** `…content`, `…content.NAME`, `…content/NAME`; `…snapshot.SNAPSHOTTER`, `…snapshot.SNAPSHOTTER/NAME`. */
function* labelled(labels: Labels, prefix: string): Generator<Node> {
  for (const label in labels) {
    if (!label.startsWith(prefix)) continue
    const value = labels[label] ?? ''
    const [, what = '', rest = ''] =
      /^(content|image|container|snapshot)(?:$|[./](.*)$)/s.exec(label.slice(prefix.length)) ?? []
    if (what === 'content' || what === 'image' || what === 'container') yield { kind: what, key: value }
    const [snapshotter = ''] = rest.split('/')
    if (what === 'snapshot' && snapshotter !== '') yield snapshotNode(snapshotter, value)
  }
}

/** One that cannot be read does not count. */
function expiryOf(labels: Labels): bigint | undefined {
  const text = Object.hasOwn(labels, expireLabel) ? labels[expireLabel] : undefined
  const instant = text === undefined ? undefined : parseTimestamp(text)
  return instant && nanosOf(instant)
}

const isExpired = (labels: Labels, nowNanos: bigint): boolean => (expiryOf(labels) ?? nowNanos) < nowNanos

function childrenFirst(snapshots: ReadonlyMap<string, { parent: string }>): string[] {
  const children = new Map<string, number>()
  for (const { parent } of snapshots.values()) children.set(parent, (children.get(parent) ?? 0) + 1)
  const order = [...snapshots.keys()].filter(key => !children.has(key))
  for (const key of order) {
    const parent = snapshots.get(key)?.parent ?? ''
    const left = (children.get(parent) ?? 0) - 1
    children.set(parent, left)
    if (left === 0 && snapshots.has(parent)) order.push(parent)
  }
  return order
}
