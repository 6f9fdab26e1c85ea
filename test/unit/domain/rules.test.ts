// The rules without a lifecycle: names, filters, times, and what is decided about images, blobs, leases and the like.
import t from 'tap'
import { linearRegExp } from '../../../services/supervisor/api/linearRegExp.js'
import { commitContent, deleteContent, updateContent } from '../../../services/supervisor/domain/content/decide.js'
import { type Decision, isRefusal } from '../../../services/supervisor/domain/decision.js'
import { type Fields, labelField, parseFilters, present } from '../../../services/supervisor/domain/filter.js'
import { createImage, deleteImage, updateImage } from '../../../services/supervisor/domain/image/decide.js'
import {
  addLeaseResource,
  createLease,
  deleteLease,
  type LeaseView,
  removeLeaseResource,
  withLease,
} from '../../../services/supervisor/domain/lease/decide.js'
import {
  createNamespace,
  deleteNamespace,
  updateNamespace,
} from '../../../services/supervisor/domain/namespace/decide.js'
import {
  commitFailed,
  committed,
  mayPrepare,
  prepared,
  removeSnapshot,
  requestCommit,
  updateSnapshot,
} from '../../../services/supervisor/domain/snapshot/decide.js'
import type { OpenCommit, SnapshotRecord } from '../../../services/supervisor/domain/snapshot/events.js'
import { formatInstant, formatNanos, parseTimestamp } from '../../../services/supervisor/domain/time.js'
import {
  checkDigest,
  checkIdentifier,
  checkLabels,
  checkName,
  checkTopic,
} from '../../../services/supervisor/domain/validate.js'

/** The facts' types, or the refusal's reason and message. */
const said = (decision: Decision) =>
  isRefusal(decision)
    ? `${decision.refused}: ${decision.message}`
    : decision.facts.map(({ event }) => event.type).join()

t.test('identifiers are as containerd has them, safe as names of files', async t => {
  const good = ['a', 'redis', 'redis-7.2_x', 'A0', 'k8s.io', 'a'.repeat(76)]
  const bad = ['', '.', '..', '-a', 'a-', 'a..b', 'a/b', '../a', 'a b', 'a\n', 'ä', 'a\0', 'a'.repeat(77), ' a']
  for (const id of good) t.equal(checkIdentifier(id), undefined, JSON.stringify(id))
  for (const id of bad) t.type(checkIdentifier(id), 'string', JSON.stringify(id))
  const start = performance.now()
  t.type(checkIdentifier(`${'a-'.repeat(500_000)}!`), 'string')
  t.type(checkIdentifier(`${'a'.repeat(75)}!`), 'string')
  t.ok(performance.now() - start < 1000, 'a hostile one costs no time')
})

t.test('topics, digests, labels and names have their limits', async t => {
  for (const topic of ['/a', '/tasks/exit', '/a/b/c']) t.equal(checkTopic(topic), undefined, topic)
  for (const topic of ['', '/', 'a', '//a', '/a/', '/a//b', '/a b', '/..'])
    t.type(checkTopic(topic), 'string', JSON.stringify(topic))
  const hex = 'a'.repeat(64)
  t.equal(checkDigest(`sha256:${hex}`), undefined)
  t.equal(checkDigest(`sha512:${hex}${hex}`), undefined)
  for (const digest of ['', hex, `sha256:${hex}a`, `sha256:${hex.toUpperCase()}`, `md5:${hex}`, `sha256:../${hex}`])
    t.type(checkDigest(digest), 'string', digest)
  t.equal(checkLabels({ k: 'v'.repeat(4095) }), undefined)
  t.match(checkLabels({ k: 'v'.repeat(4096) }), /greater than maximum size \(4096 bytes\), key: k$/)
  t.type(checkLabels({ k: 'ä'.repeat(2048) }), 'string', 'bytes are counted, not characters')
  t.equal(checkName('image name', 'docker.io/library/redis:7@sha256:x'), undefined)
  for (const name of ['', 'a\nb', 'a\0', 'x'.repeat(4097)]) t.type(checkName('image name', name), 'string')
})

const redis: Fields = ([field, ...rest]) => {
  if (field === 'name') return present('docker.io/library/redis:7')
  if (field === 'namespace') return present('moby')
  if (field === 'topic') return present('/tasks/exit')
  if (field === 'empty') return present('')
  const labels = { foo: 'true', 'a.b': '1', 'io.x/y-z': 'slash', 'say "hi" \\': 'quoted', '7': 'seven' }
  return field === 'labels' ? labelField(labels, rest) : undefined
}
const matches = (...filters: string[]) => parseFilters(filters, linearRegExp)(redis)

t.test('a filter says what it says in containerd', async t => {
  const yes = [
    '',
    'name',
    'name,labels.foo',
    'labels.foo==true',
    'labels.a.b==1',
    'labels.7==seven',
    'labels."io.x/y-z"==slash',
    'labels."say \\"hi\\" \\\\"==quoted',
    'name!=bar',
    'none!=bar',
    'empty~=^$',
    'none~=.*',
    'namespace==moby,topic~=|^/tasks/|',
    'topic~=/^\\/tasks\\//',
    'topic==/tasks/exit',
    'name~="^docker\\\\.io/"',
    'name~=|docker\\\\.io|',
    'name~=redis',
    'type!=x , name ~= redis',
    'namespace==moby, topic==/tasks/exit',
    'name~="\\x72edis"',
    'name~="\\u0072edis"',
    'name~="\\162edis"',
    'namespace~=^[a-z]{4}$',
    'namespace~=|^[a-z]{1,10}$|',
    'namespace~=^(mo){1}by$',
  ]
  const no = [
    'none',
    'empty',
    'labels.none',
    'name==bar',
    'none==x',
    'name!=docker.io/library/redis:7',
    'topic~=|^/images/|',
    'name,none',
    'namespace==moby,topic~=|^/images/|',
    'labels',
    'labels.__proto__',
    'labels.constructor',
    'namespace~=^[a-z]{5}$',
    'empty!=""',
    'none!=""',
    'name==redis',
  ]
  for (const filter of yes) t.equal(matches(filter), true, filter)
  for (const filter of no) t.equal(matches(filter), false, filter)
  t.equal(parseFilters([], linearRegExp)(redis), true)
  t.equal(matches('none', 'name'), true, 'any of several suffices')
  t.equal(matches('none', ''), true, 'an empty one takes everything')
})

t.test('a malformed or hostile filter is refused, and none can hold up the event loop', async t => {
  const malformed = [
    'name==foo,',
    'labels.',
    ',',
    '=',
    'name=',
    'name=foo',
    'name===foo',
    'name==',
    'name~=',
    'name?',
    'name foo',
    '.name',
    'image~=,id?',
    'labels.ns/key==value',
    'labels.|foo|==x',
    '"unclosed',
    'name=="unclosed',
    'name~=|unclosed',
    'name~=(',
    'name~=[',
    'name=="a\\qb"',
    'name~=|a\\.b|',
    'name~="(?=x)"',
    'name~="(a)\\\\1"',
    `name==${'x'.repeat(9000)}`,
    `name~=${'a{9999}'.repeat(100)}`,
    'näme',
    'name=="a\nb"',
  ]
  for (const filter of malformed) {
    t.throws(() => matches(filter), { name: 'FilterError', message: /^filters: parse error/ }, filter.slice(0, 40))
  }
  const long: Fields = () => `${'a'.repeat(4000)}!`
  const start = performance.now()
  for (const pattern of ['^(a+)+$', '^(a|a)*$', '^(a|aa)+$', '(.*)*b', '^([a-z]+.?)+[A-Z]$', '(a*)*c']) {
    t.equal(parseFilters([`name~="${pattern}"`], linearRegExp)(long), false, pattern)
  }
  t.ok(performance.now() - start < 2000, 'all of them together')
})

t.test('times keep their nanoseconds, sort as text, and read back', async t => {
  const now = 1_767_323_045_000_000_006n
  t.equal(formatNanos(now), '2026-01-02T03:04:05.000000006Z')
  t.same(parseTimestamp(formatNanos(now)), { seconds: 1_767_323_045n, nanos: 6 })
  t.ok(formatNanos(now) < formatNanos(now + 1n))
  t.ok(formatNanos(now - 7n) < formatNanos(now))
  t.equal(formatNanos(-1n), '1969-12-31T23:59:59.999999999Z')
  const zero = { seconds: -62_135_596_800n, nanos: 0 }
  t.equal(formatInstant(zero), '0001-01-01T00:00:00.000000000Z')
  t.same(parseTimestamp(formatInstant(zero)), zero)
  for (const text of ['2026-01-02T03:04:05.25Z', '2026-01-02 04:04:05.250+01:00', '2026-01-02t03:04:05.250000000z'])
    t.same(parseTimestamp(text), { seconds: 1_767_323_045n, nanos: 250_000_000 }, text)
  for (const text of ['', '2026-01-02', '2026-01-02T03:04:05', '2026-13-02T03:04:05Z', 'now'])
    t.equal(parseTimestamp(text), undefined, text)
})

const target = { mediaType: 'm', digest: 'sha256:a', size: '1', annotations: {} }
const image = { name: 'redis', labels: {}, target }

t.test('a name is created once, and updated and deleted while it is there', async t => {
  t.equal(said(createImage('ns', undefined, image, null)), 'ImageCreated')
  t.equal(said(createImage('ns', image, image, null)), 'already-exists: image "redis"')
  t.equal(said(updateImage('ns', image, image, null)), 'ImageUpdated')
  t.equal(said(updateImage('ns', undefined, image, null)), 'not-found: image "redis"')
  t.equal(said(deleteImage('ns', image, 'redis', 'sha256:a')), 'ImageDeleted')
  t.equal(said(deleteImage('ns', image, 'redis', undefined)), 'ImageDeleted')
  t.match(said(deleteImage('ns', image, 'redis', 'sha256:b')), /^not-found/)
  t.equal(said(deleteImage('ns', undefined, 'redis', undefined)), 'not-found: image "redis"')

  const blob = { digest: 'sha256:a', size: 5n, labels: {} }
  t.equal(said(commitContent('ns', undefined, blob)), 'ContentCommitted')
  t.equal(said(commitContent('ns', blob, blob)), 'already-exists: content sha256:a')
  t.equal(said(updateContent('ns', undefined, 'sha256:a', {})), 'not-found: content sha256:a')
  t.equal(said(deleteContent('ns', blob, 'sha256:a')), 'ContentDeleted')
  t.equal(said(deleteContent('ns', undefined, 'sha256:a')), 'not-found: content sha256:a')

  t.equal(said(createNamespace(undefined, 'moby', {})), 'NamespaceCreated')
  t.equal(said(createNamespace({ labels: {} }, 'moby', {})), 'already-exists: namespace "moby"')
  t.equal(said(updateNamespace({ labels: {} }, 'moby', {})), 'NamespaceUpdated')
  t.equal(said(deleteNamespace({ labels: {} }, 'moby', [])), 'NamespaceDeleted')
  t.equal(
    said(deleteNamespace({ labels: {} }, 'moby', ['images', 'blobs'])),
    'failed-precondition: namespace "moby" must be empty, but it still has images, blobs',
  )
  t.equal(said(deleteNamespace(undefined, 'moby', [])), 'not-found: namespace "moby"')
})

t.test('a lease takes each resource once, and what is made under a lost lease is not made', async t => {
  const held: LeaseView = { labels: {}, has: ({ id }) => id === 'held' }
  const [other, known] = [
    { type: 'content', id: 'other' },
    { type: 'content', id: 'held' },
  ]
  t.equal(said(createLease('ns', undefined, 'l', {})), 'LeaseCreated')
  t.equal(said(createLease('ns', held, 'l', {})), 'already-exists: lease "l"')
  t.equal(said(addLeaseResource('ns', held, 'l', other)), 'LeaseResourceAdded')
  t.equal(said(addLeaseResource('ns', held, 'l', known)), '', 'granted before')
  t.equal(said(removeLeaseResource('ns', held, 'l', known)), 'LeaseResourceRemoved')
  t.equal(said(removeLeaseResource('ns', held, 'l', other)), '', 'gone before')
  t.equal(said(deleteLease('ns', held, 'l')), 'LeaseDeleted')
  for (const decision of [
    addLeaseResource('ns', undefined, 'l', other),
    removeLeaseResource('ns', undefined, 'l', other),
    deleteLease('ns', undefined, 'l'),
  ])
    t.equal(said(decision), 'not-found: lease "l"')

  const made = createImage('ns', undefined, image, null)
  t.equal(said(withLease(made, 'ns', undefined, other)), 'ImageCreated')
  t.equal(said(withLease(made, 'ns', { id: 'l', view: held }, other)), 'ImageCreated,LeaseResourceAdded')
  t.equal(said(withLease(made, 'ns', { id: 'l', view: held }, known)), 'ImageCreated')
  t.equal(said(withLease(made, 'ns', { id: 'l', view: undefined }, other)), 'not-found: lease "l"')
  const refused = createImage('ns', image, image, null)
  t.equal(withLease(refused, 'ns', { id: 'l', view: held }, other), refused)
})

t.test('a snapshot stands on a committed one, and goes only when nothing stands on it', async t => {
  const place = { namespace: 'ns', snapshotter: 'overlayfs', key: 'k' }
  const record = (kind: SnapshotRecord['kind']): SnapshotRecord => ({
    kind,
    parent: '',
    labels: {},
    backendKey: 'b',
    mounts: [],
    usage: null,
  })
  const none = { name: '', record: undefined }
  t.equal(mayPrepare(undefined, undefined, none, 'k'), undefined)
  t.equal(mayPrepare(undefined, undefined, { name: 'p', record: record('committed') }, 'k'), undefined)
  t.match(mayPrepare(record('active'), undefined, none, 'k'), { refused: 'already-exists' })
  t.match(mayPrepare(undefined, undefined, { name: 'p', record: undefined }, 'k'), { refused: 'not-found' })
  t.match(mayPrepare(undefined, undefined, { name: 'p', record: record('active') }, 'k'), {
    refused: 'invalid-argument',
  })
  const another = { name: 'p', record: record('committed'), madeOn: 'of the parent that had its name before' }
  t.match(mayPrepare(undefined, undefined, another, 'k'), { refused: 'not-found' })
  t.equal(
    said(prepared(place, { kind: 'view', parent: 'p', labels: {}, backendKey: 'b', mounts: [] })),
    'SnapshotPrepared',
  )
  t.equal(said(updateSnapshot(place, undefined, {})), 'not-found: snapshot "k"')
  t.equal(said(removeSnapshot(place, record('committed'), 0)), 'SnapshotRemoved')
  t.match(said(removeSnapshot(place, record('committed'), 2)), /^failed-precondition: cannot remove snapshot "k": 2/)
  t.equal(said(removeSnapshot(place, undefined, 0)), 'not-found: snapshot "k"')

  const wish = { name: 'n', labels: { a: '2' }, lease: null }
  const open: OpenCommit = { snapshotter: 'overlayfs', key: 'k', ...wish }
  const commit = (current?: SnapshotRecord, existing?: SnapshotRecord, open?: OpenCommit) =>
    said(requestCommit(place, { current, existing, open }, wish))
  t.equal(commit(record('active')), 'SnapshotCommitRequested')
  t.match(commit(record('view')), /^failed-precondition: snapshot "k" is view/)
  t.equal(commit(), 'not-found: snapshot "k"')
  t.equal(commit(record('active'), record('committed')), 'already-exists: snapshot "n"')
  const underWay = 'failed-precondition: snapshot "k" is being committed as "n"'
  t.equal(commit(record('active'), undefined, open), underWay, 'neither the key nor the name is free meanwhile')
  t.match(mayPrepare(undefined, open, none, 'n'), { refused: 'failed-precondition' })
  const layer = { backendKey: 'l', usage: { size: '1', inodes: '1' } }
  t.match(committed(place, { ...record('active'), labels: { a: '1', b: '1' } }, open, layer), {
    facts: [
      { event: { type: 'SnapshotCommitted', name: 'n', labels: { a: '2', b: undefined }, ...layer }, ends: true },
    ],
  })
  t.equal(said(committed(place, undefined, undefined, layer)), 'not-found: snapshot "k"', 'it was removed meanwhile')
  t.equal(said(commitFailed(place, open, 'why')), 'SnapshotCommitFailed')
  t.match(said(commitFailed(place, undefined, 'why')), /^not-found/)
})
