// What is garbage: containerd's rules one by one, and worlds made of chance against a model that knows no shortcuts.
import t from 'tap'
import { containerMachine } from '../../../services/supervisor/domain/container/machine.js'
import { collect, staleIngests } from '../../../services/supervisor/domain/garbage/decide.js'
import { type Contents, findGarbage } from '../../../services/supervisor/domain/garbage/mark.js'
import type { SnapshotRecord } from '../../../services/supervisor/domain/snapshot/events.js'
import type { Labels } from '../../../services/supervisor/domain/values.js'
import { Chance } from '../../simulate/random.js'

const now = 1_800_000_000_000_000_000n
const past = '2026-01-01T00:00:00Z'
const future = '2030-01-01T00:00:00+02:00'

type Snapshots = Record<string, { parent?: string; labels?: Labels }>
interface Given {
  images?: Record<string, { target: string; labels?: Labels }>
  blobs?: Record<string, Labels>
  /** All of overlayfs. */
  snapshots?: Snapshots
  leases?: Record<string, { labels?: Labels; resources?: [type: string, id: string][] }>
  /** By id: the snapshot's key. */
  containers?: Record<string, { key: string; labels?: Labels }>
  sandboxes?: Record<string, Labels>
  committing?: string
}

function contents({
  images = {},
  blobs = {},
  snapshots = {},
  leases = {},
  containers = {},
  sandboxes = {},
  committing,
}: Given): Contents {
  const map = <In, Out>(of: Record<string, In>, make: (value: In, key: string) => Out) =>
    new Map(Object.entries(of).map(([key, value]) => [key, make(value, key)]))
  const snapshot = ({ parent = '', labels = {} }: Snapshots[string], key: string): SnapshotRecord => {
    return { kind: 'committed', parent, labels, backendKey: `ns/1/${key}`, mounts: [], usage: null }
  }
  const record = { image: '', runtime: { name: '', options: null }, spec: null, extensions: {}, sandbox: '' }
  return {
    images: map(images, ({ target, labels = {} }, name) => ({
      record: { name, labels, target: { mediaType: '', digest: target, size: '1', annotations: {} } },
    })),
    blobs: map(blobs, labels => ({ labels })),
    snapshots: new Map([['overlayfs', map(snapshots, snapshot)]]),
    commits: new Map(
      committing === undefined
        ? []
        : [['c', { snapshotter: 'overlayfs', key: committing, name: 'n', labels: {}, lease: null }]],
    ),
    leases: map(leases, ({ labels = {}, resources = [] }) => {
      const byType = new Map<string, Set<string>>()
      for (const [type, id] of resources) byType.set(type, (byType.get(type) ?? new Set()).add(id))
      return { labels, resources: byType }
    }),
    sandboxes: map(sandboxes, labels => ({ record: { labels } })),
    containers: map(containers, ({ key: snapshotKey, labels = {} }, id) => {
      const facts = { record: { ...record, id, labels, snapshotter: 'overlayfs', snapshotKey } }
      return { lifecycle: { ...containerMachine.absent, state: 'idle' as const, facts } }
    }),
  }
}

/** What is garbage, as one sorted line. */
function dead(given: Given, held: string[] = []): string {
  const places = held.map(key => ({ snapshotter: 'overlayfs', key }))
  const { leases, images, snapshots, blobs } = findGarbage(contents(given), now, places)
  return [...leases, ...images, ...snapshots.map(({ key }) => key), ...blobs].sort().join(' ')
}

const ref = (name: string) => `containerd.io/gc.ref.${name}`
const bref = (name: string) => `containerd.io/gc.bref.${name}`
const expire = (at: string) => ({ 'containerd.io/gc.expire': at })

const image: Given = {
  blobs: {
    manifest: { [ref('content.config')]: 'config', [ref('content.l.0')]: 'layer' },
    config: { [ref('snapshot.overlayfs')]: 'top' },
    layer: {},
    loose: {},
  },
  snapshots: { base: {}, top: { parent: 'base' }, other: { parent: 'base' } },
}

t.test('an image holds what its labels lead to, and the snapshots below', async t => {
  t.equal(dead({ ...image, images: { busybox: { target: 'manifest' } } }), 'loose other')
  t.equal(dead(image), 'base config layer loose manifest other top')
  t.equal(
    dead({ ...image, images: { gone: { target: 'missing', labels: { [ref('content')]: 'config' } } } }),
    'layer loose manifest other',
  )
})

t.test('an image that has expired goes, unless a lease holds it', async t => {
  const images = { old: { target: 'layer', labels: expire(past) }, new: { target: 'loose', labels: expire(future) } }
  const blobs = { layer: {}, loose: {} }
  t.equal(dead({ images, blobs }), 'layer old')
  t.equal(dead({ images, blobs, leases: { l: { resources: [['images', 'old']] } } }), '')
})

t.test('references may bear names, behind a dot or a slash, and nothing else', async t => {
  const labels = { [ref('content')]: 'a', [ref('content.x.y')]: 'b', [ref('content/x')]: 'c', [ref('contents')]: 'd' }
  t.equal(dead({ images: { i: { target: 'm' } }, blobs: { m: labels, a: {}, b: {}, c: {}, d: {} } }), 'd')
  const toSnapshots = { [ref('snapshot.overlayfs')]: 'a', [ref('snapshot.overlayfs/x')]: 'b', [ref('snapshot')]: 'c' }
  t.equal(dead({ images: { i: { target: 'm' } }, blobs: { m: toSnapshots }, snapshots: { a: {}, b: {}, c: {} } }), 'c')
})

t.test('a sandbox holds what its labels lead to', async t => {
  const blobs = { a: {}, b: {} }
  t.equal(dead({ sandboxes: { pod: { [ref('content')]: 'a' } }, blobs }), 'b')
  t.equal(
    dead({
      sandboxes: { pod: { [ref('snapshot.overlayfs')]: 'top' } },
      snapshots: { base: {}, top: { parent: 'base' } },
    }),
    '',
  )
})

t.test('a root label holds a blob or a snapshot, whatever it says', async t => {
  const root = { 'containerd.io/gc.root': 'no' }
  t.equal(
    dead({ blobs: { a: root, b: {} }, snapshots: { base: {}, top: { parent: 'base', labels: root }, x: {} } }),
    'b x',
  )
})

t.test('a lease holds its resources and what they refer to; a flat one only what they stand on', async t => {
  const resources: [string, string][] = [
    ['content', 'manifest'],
    ['snapshots/overlayfs', 'other'],
  ]
  t.equal(dead({ ...image, leases: { l: { resources } } }), 'loose')
  const flat = { 'containerd.io/gc.flat': '1' }
  t.equal(dead({ ...image, leases: { l: { resources, labels: flat } } }), 'config layer loose top')
  t.equal(dead({ ...image, leases: { f: { resources, labels: flat }, l: { resources } } }), 'loose')
})

t.test('a lease that has expired holds nothing and goes; one whose time cannot be read stays', async t => {
  const resources: [string, string][] = [['content', 'a']]
  t.equal(dead({ blobs: { a: {} }, leases: { l: { resources, labels: expire(past) } } }), 'a l')
  t.equal(dead({ blobs: { a: {} }, leases: { l: { resources, labels: expire(future) } } }), '')
  t.equal(dead({ blobs: { a: {} }, leases: { l: { resources, labels: expire('tomorrow') } } }), '')
  const { expires } = findGarbage(contents({ leases: { l: { labels: expire(future) }, m: {} } }), now)
  t.equal(expires, BigInt(Date.parse(future)) * 1_000_000n)
})

t.test('a container holds its snapshot and what its labels name', async t => {
  const containers = { c: { key: 'top', labels: { [ref('content')]: 'layer' } } }
  t.equal(dead({ ...image, containers }), 'config loose manifest other')
})

t.test('a back reference shares the life of what it names', async t => {
  const blobs = {
    a: {},
    b: { [bref('content')]: 'a' },
    c: { [bref('snapshot.overlayfs')]: 's' },
    d: { [bref('container')]: 'x' },
  }
  t.equal(dead({ blobs, snapshots: { s: {} } }), 'a b c d s')
  t.equal(dead({ blobs, snapshots: { s: {} }, images: { i: { target: 'a' } } }), 'c d s')
  t.equal(dead({ blobs, snapshots: { s: {} }, containers: { x: { key: 's' } } }), 'a b')
})

t.test('what somebody is at work on stays: an open commit, a parent upon which a snapshot is being made', async t => {
  t.equal(dead({ snapshots: { base: {}, work: { parent: 'base' } }, committing: 'work' }), '')
  t.equal(dead({ snapshots: { base: {}, top: { parent: 'base' }, x: {} } }, ['top']), 'x')
})

t.test('children go before what they stand on, and a collection may be cut anywhere', async t => {
  const snapshots = { a: {}, b: { parent: 'a' }, c: { parent: 'b' }, d: { parent: 'a' } }
  const { facts } = collect('ns', contents({ snapshots }), { nanos: now, held: [], max: 3 })
  t.match(facts, [{ event: { type: 'SnapshotRemoved' }, ends: true }, {}, {}])
  t.notOk(facts.some(({ event }) => 'key' in event && event.key === 'a'))
})

t.test('uploads without news for a day are given up, unless a lease holds them', async t => {
  const hours = (count: bigint) => now - count * 3_600_000_000_000n
  const ingests = [
    { ref: 'old', updatedAtNanos: hours(25n) },
    { ref: 'held', updatedAtNanos: hours(25n) },
    { ref: 'new', updatedAtNanos: hours(23n) },
  ]
  const { leases } = contents({ leases: { l: { resources: [['ingests', 'held']] } } })
  t.same(staleIngests(ingests, leases, now), ['old'])
})

t.test('in a thousand worlds made of chance, what is held stays and what nothing holds goes', async t => {
  for (let seed = 0; seed < 1000; seed++) {
    const given = randomWorld(new Chance(seed, 'garbage'))
    const expected = naive(given)
    const found = dead(given)
    if (found !== expected) t.equal(found, expected, `seed ${seed}`)
  }
  t.pass()
})

function randomWorld(chance: Chance): Given {
  const blobNames = ['m0', 'm1', 'm2', 'm3', 'm4']
  const keys = ['s0', 's1', 's2', 's3', 's4']
  const anyLabels = (): Labels => {
    const labels: Record<string, string> = {}
    if (chance.happens(0.1)) labels['containerd.io/gc.root'] = ''
    if (chance.happens(0.3)) labels[ref('content.x')] = chance.pick(blobNames)
    if (chance.happens(0.3)) labels[ref('snapshot.overlayfs/x')] = chance.pick(keys)
    if (chance.happens(0.2)) labels[bref('content.y')] = chance.pick(blobNames)
    if (chance.happens(0.2)) labels[bref('snapshot.overlayfs')] = chance.pick(keys)
    return labels
  }
  const snapshots: Snapshots = {}
  for (const [at, key] of keys.entries())
    snapshots[key] = {
      parent: at > 0 && chance.happens(0.6) ? (keys[chance.below(at)] ?? '') : '',
      labels: anyLabels(),
    }
  const leaseLabels: Record<string, string> = {}
  if (chance.happens(0.3)) Object.assign(leaseLabels, expire(past))
  if (chance.happens(0.5)) leaseLabels['containerd.io/gc.flat'] = ''
  const resources: [string, string][] = [
    ['content', chance.pick(blobNames)],
    ['snapshots/overlayfs', chance.pick(keys)],
  ]
  return {
    blobs: Object.fromEntries(blobNames.map(name => [name, anyLabels()])),
    snapshots,
    images: chance.happens(0.5) ? { i: { target: chance.pick(blobNames), labels: {} } } : {},
    leases: chance.happens(0.5) ? { l: { labels: leaseLabels, resources } } : {},
    containers: chance.happens(0.3) ? { c: { key: chance.pick(keys) } } : {},
  }
}

/** Says the same by asking again and again, of everything, whether something that is alive holds it. */
function naive({ blobs = {}, snapshots = {}, images = {}, leases = {}, containers = {} }: Given): string {
  const alive = new Set<string>()
  const flatly = new Set<string>()
  const labelsOf = (name: string): Labels => blobs[name] ?? snapshots[name]?.labels ?? {}
  const isExpired = (labels: Labels = {}) => labels['containerd.io/gc.expire'] === past
  const names = [...Object.keys(blobs), ...Object.keys(snapshots)]
  for (const name of names) if ('containerd.io/gc.root' in labelsOf(name)) alive.add(name)
  for (const { target } of Object.values(images)) alive.add(target)
  for (const { key } of Object.values(containers)) alive.add(key)
  for (const { labels = {}, resources = [] } of Object.values(leases)) {
    if (isExpired(labels)) continue
    for (const [, id] of resources) ('containerd.io/gc.flat' in labels ? flatly : alive).add(id)
  }
  for (let before = -1; before !== alive.size + flatly.size; ) {
    before = alive.size + flatly.size
    for (const name of names) {
      for (const set of [alive, flatly]) {
        const parent = snapshots[name]?.parent
        if (set.has(name) && parent) set.add(parent)
      }
      for (const [label, value] of Object.entries(labelsOf(name))) {
        if (label.startsWith(ref('')) && alive.has(name)) alive.add(value)
        if (label.startsWith(bref('')) && alive.has(value)) alive.add(name)
      }
    }
  }
  const gone = names.filter(name => !alive.has(name) && !flatly.has(name))
  const expired = Object.entries(leases).filter(([, { labels }]) => isExpired(labels))
  return [...gone, ...expired.map(([id]) => id)].sort().join(' ')
}
