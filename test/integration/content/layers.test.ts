// Layers as they should be: whatever a tree holds goes into a layer and comes out of it, plain or upon an overlay.
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  closeSync,
  fsyncSync,
  ftruncateSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import type { LayerTarget } from '../../../plugins/content/layer/whiteouts.js'
import { FileType, getXattr, makeDevice, mkfifo, mknod, mount, setTimes, setXattr } from '../../../plugins/kit/linux.js'
import { type RawHeader, rawTar } from '../../unit/content/rawTar.js'
import { applyBytes, makeDirectory, packBytes, scratch, treeOf } from './trees.js'

const capability = Buffer.from('0100000280200000000000000000000000000000', 'hex') // cap_setuid, cap_net_raw

/** One of everything that a layer can hold. */
function makeEverything(root: string): void {
  const inRoot = (name: string) => join(root, name)
  writeFileSync(inRoot('empty'), '')
  writeFileSync(inRoot('file'), 'file\n', { mode: 0o640 })
  chownSync(inRoot('file'), 1000, 3_000_000)
  linkSync(inRoot('file'), inRoot('hard-link'))
  symlinkSync('../dangling', inRoot('symlink'))
  lutimesSync(inRoot('symlink'), 1, 86_400)
  writeFileSync(inRoot('setuid'), 'x')
  chownSync(inRoot('setuid'), 5, 6)
  chmodSync(inRoot('setuid'), 0o6755)
  writeFileSync(inRoot('capable'), 'x')
  setXattr(inRoot('capable'), 'security.capability', capability)
  setXattr(inRoot('capable'), 'user.bytes', Buffer.from([0, 1, 0xff, 0x0a]))
  mkfifo(inRoot('fifo'), 0o622)
  mknod(inRoot('null'), FileType.character | 0o666, makeDevice(1, 3))
  mknod(inRoot('disk'), FileType.block | 0o660, makeDevice(259, 300_000))
  mkdirSync(inRoot('sticky'))
  chmodSync(inRoot('sticky'), 0o1777)
  const long = makeDirectory(root, 'd'.repeat(120), 'e'.repeat(200))
  writeFileSync(join(long, 'f'.repeat(250)), 'long\n')
  writeFileSync(Buffer.from(`${root}/latin-\xe9`, 'latin1'), 'no UTF-8\n')
  writeFileSync(inRoot('größe 💾'), 'UTF-8\n')
  const sparse = openSync(inRoot('sparse'), 'w')
  writeSync(sparse, 'a', 1 << 20)
  ftruncateSync(sparse, 4 << 20)
  fsyncSync(sparse)
  closeSync(sparse)
  utimesSync(inRoot('file'), 1_000_000_000, 1_000_000_000)
  utimesSync(inRoot('sticky'), 900_000_000, 900_000_000)
}

t.test('everything goes into a layer and comes out of it, in every compression', async t => {
  const directory = scratch(t)
  const tree = makeDirectory(directory, 'tree')
  makeEverything(tree)
  const server = createServer().listen(join(tree, 'socket')) // a socket means nothing in a layer
  t.teardown(() => void server.close())
  const expected = treeOf(tree, { seconds: true }).filter(line => !line.startsWith('socket'))
  const source = { kind: 'trees', left: undefined, right: tree } as const
  for (const compression of ['none', 'gzip', 'zstd'] as const) {
    const root = makeDirectory(directory, compression)
    const packed = await packBytes(t, { source, compression })
    const applied = await applyBytes(packed.bytes, { target: { root }, digest: packed.digest, size: packed.size })
    t.equal(applied.diffId, packed.diffId)
    t.same(treeOf(root, { seconds: true }), expected, compression)
  }
  const [first, second] = await Promise.all([packBytes(t, { source }), packBytes(t, { source })])
  t.equal(first.digest, second.digest, 'the same tree makes the same layer')
})

t.test('a layer made by GNU tar comes out as GNU tar unpacks it', async t => {
  const directory = scratch(t)
  const tree = makeDirectory(directory, 'tree')
  makeEverything(tree)
  for (const flags of [
    ['--format=posix', '--xattrs', '--xattrs-include=*'],
    ['--format=gnu'],
    ['--format=posix', '--sparse'],
  ]) {
    const tar = execFileSync('tar', ['-C', tree, '-cf', '-', ...flags, '.'], { maxBuffer: 1 << 26 })
    const [theirs, ours] = [makeDirectory(directory, 'theirs'), makeDirectory(directory, 'ours')]
    execFileSync('tar', ['-C', theirs, '-xpf', '-', '--numeric-owner', '--xattrs', '--xattrs-include=*'], {
      input: tar,
    })
    await applyBytes(tar, { target: { root: ours } })
    t.same(treeOf(ours), treeOf(theirs), flags.join(' '))
    if (flags.includes('--xattrs')) t.same(getXattr(join(ours, 'capable'), 'security.capability'), capability)
    if (flags.includes('--sparse')) t.ok(statSync(join(ours, 'sparse')).blocks < 100, 'holes stay holes')
    for (const used of [theirs, ours]) rmSync(used, { recursive: true })
  }
})

t.test('GNU tar unpacks our layers', async t => {
  const directory = scratch(t)
  const [tree, theirs] = [makeDirectory(directory, 'tree'), makeDirectory(directory, 'theirs')]
  makeEverything(tree)
  const { bytes } = await packBytes(t, { source: { kind: 'trees', left: undefined, right: tree }, compression: 'gzip' })
  const args = ['-C', theirs, '-xzpf', '-', '--numeric-owner', '--xattrs', '--xattrs-include=*']
  execFileSync('tar', args, { input: bytes })
  t.same(treeOf(theirs, { seconds: true }), treeOf(tree, { seconds: true }))
})

/** A lower tree that the layers below change. */
function makeLower(root: string): void {
  for (const path of [
    'keep/a',
    'gone/deep/b',
    'opaque/old',
    'opaque/both',
    'mixed/old',
    'parent/strict/inner/c',
    'kind/d',
  ])
    for (const [, parent = ''] of [/(.*)\//.exec(path) ?? []]) {
      mkdirSync(join(root, parent), { recursive: true })
      writeFileSync(join(root, path), `lower ${path}\n`)
    }
  writeFileSync(join(root, 'file'), 'lower\n')
  symlinkSync('keep', join(root, 'to-keep'))
  chmodSync(join(root, 'parent/strict'), 0o710)
  chownSync(join(root, 'parent/strict'), 42, 43)
  setXattr(join(root, 'parent/strict'), 'user.lent', Buffer.from('yes'))
  utimesSync(join(root, 'parent/strict'), 500, 500)
}

/** A lower tree, a plain copy of it, and room for an overlay upon it. */
function overlay(directory: string) {
  const at = (name: string) => makeDirectory(directory, name)
  const [lower, plain, upper, work, merged] = [at('lower'), at('plain'), at('upper'), at('work'), at('merged')]
  makeLower(lower)
  execFileSync('cp', ['-a', `${lower}/.`, plain])
  const mountMerged = (more = '') => {
    mount('overlay', merged, 'overlay', 0, `lowerdir=${lower},upperdir=${upper},workdir=${work}${more}`)
    return merged
  }
  return { lower, plain, upper, mountMerged }
}

const file = (name: string, data = 'new\n'): RawHeader => ({ name, data, mtime: 77 })
const folder = (name: string): RawHeader => ({ name, type: '5', mode: 0o755, mtime: 66 })
const whiteout = (name: string): RawHeader => ({ name, data: '' })

const layers: Record<string, RawHeader[]> = {
  'files and directories are removed': [whiteout('.wh.file'), whiteout('gone/.wh.deep'), whiteout('keep/.wh.a')],
  'what never was can be removed': [whiteout('.wh.never'), whiteout('keep/.wh.never')],
  'an opaque directory shows new content only': [
    folder('opaque'),
    whiteout('opaque/.wh..wh..opq'),
    file('opaque/both'),
  ],
  'also when the marker comes last': [
    folder('opaque'),
    file('opaque/both'),
    file('opaque/sub/x'),
    whiteout('opaque/.wh..wh..opq'),
  ],
  'a whiteout before the entry of that name': [
    whiteout('.wh.file'),
    file('file'),
    whiteout('.wh.mixed'),
    folder('mixed'),
    file('mixed/new'),
  ],
  'a whiteout after the entry of that name': [
    file('file'),
    whiteout('.wh.file'),
    folder('mixed'),
    file('mixed/new'),
    whiteout('.wh.mixed'),
  ],
  'a file becomes a directory and a directory a file': [folder('file'), file('file/x'), file('kind')],
  'a directory becomes a symlink': [{ name: 'gone', type: '2', linkName: 'keep', mtime: 5 }],
  'entries without their directories': [
    file('parent/strict/inner/new'),
    file('parent/strict/other'),
    file('fresh/a/b'),
  ],
  'bookkeeping of AUFS is skipped': [whiteout('.wh..wh.plnk'), whiteout('keep/.wh..wh.aufs')],
  'devices, links and fifos': [
    { name: 'null', type: '3', major: 1, minor: 3, mode: 0o666 },
    file('one'),
    { name: 'two', type: '1', linkName: 'one', mtime: 77 },
    { name: 'pipe', type: '6', mode: 0o600 },
  ],
}

t.test('a layer upon the upper directory of an overlay shows what it shows in a plain tree', async t => {
  for (const [what, headers] of Object.entries(layers)) {
    const { lower, upper, mountMerged, plain } = overlay(scratch(t))
    await applyBytes(rawTar(...headers), { target: { root: plain } })
    await applyBytes(rawTar(...headers), { target: overlayTarget(upper, lower) })
    const merged = mountMerged()
    t.same(treeOf(merged, { directoryTimes: false }), treeOf(plain, { directoryTimes: false }), what)
    t.match(statSync(join(merged, 'parent/strict')), { mode: 0o40710, uid: 42, gid: 43, mtimeMs: 500_000 }, what)
    t.ok(getXattr(join(merged, 'parent/strict'), 'user.lent'))
  }
})

const overlayTarget = (upper: string, ...lowers: string[]): LayerTarget => ({
  root: upper,
  overlay: { lowers, opaqueXattr: 'trusted.overlay.opaque' },
})

/** What a container may do to its files. */
function change(root: string): void {
  const at = (name: string) => join(root, name)
  writeFileSync(at('file'), 'changed\n')
  rmSync(at('gone/deep'), { recursive: true })
  rmSync(at('opaque'), { recursive: true })
  mkdirSync(at('opaque'))
  writeFileSync(at('opaque/new'), 'new\n')
  rmSync(at('kind'), { recursive: true })
  writeFileSync(at('kind'), 'a file now\n')
  rmSync(at('to-keep'))
  symlinkSync('mixed', at('to-keep'))
  chmodSync(at('mixed'), 0o700)
  chownSync(at('parent/strict/inner/c'), 9, 9)
  linkSync(at('keep/a'), at('keep/linked'))
  writeFileSync(at('keep/linked-new'), 'x')
  linkSync(at('keep/linked-new'), at('mixed/linked-new'))
  setXattr(at('mixed/old'), 'user.new', Buffer.from('x'))
  mkfifo(at('fifo'), 0o644)
}

t.test('what a container changed becomes a layer, from its upper directory or by comparing trees', async t => {
  const { lower, upper, mountMerged } = overlay(scratch(t))
  const merged = mountMerged()
  change(merged)
  const expected = treeOf(merged, { seconds: true, directoryTimes: false })
  const sources = {
    upper: { kind: 'upper', upper },
    trees: { kind: 'trees', left: lower, right: merged },
  } as const
  for (const [what, source] of Object.entries(sources)) {
    const { bytes } = await packBytes(t, { source })
    const other = overlay(scratch(t))
    await applyBytes(bytes, { target: { root: other.plain } })
    t.same(treeOf(other.plain, { seconds: true, directoryTimes: false }), expected, `${what}, upon a plain tree`)
    await applyBytes(bytes, { target: overlayTarget(other.upper, other.lower) })
    t.same(treeOf(other.mountMerged(), { seconds: true, directoryTimes: false }), expected, `${what}, upon an overlay`)
  }
  const { bytes } = await packBytes(t, { source: sources.trees })
  const names = execFileSync('tar', ['-tf', '-'], { input: bytes, encoding: 'utf8' }).split('\n')
  t.notOk(names.includes('gone/deep/b'), 'what lies below a removed directory is not listed')
  t.ok(names.includes('gone/.wh.deep'))
  t.notOk(names.includes('parent/strict/c'))
})

t.test('two trees that are the same make an empty layer, and a time bound makes late files older', async t => {
  const directory = scratch(t)
  const [left, right] = [makeDirectory(directory, 'left'), makeDirectory(directory, 'right')]
  makeEverything(left)
  execFileSync('cp', ['-a', '--no-preserve=links', `${left}/.`, right])
  const same = await packBytes(t, { source: { kind: 'trees', left, right: left } })
  t.equal(same.size, 1024)
  writeFileSync(join(right, 'late'), 'late\n')
  const epoch = { epochNs: 1_500_000_000n * 1_000_000_000n }
  const { bytes } = await packBytes(t, { source: { kind: 'trees', left: undefined, right }, ...epoch })
  await applyBytes(bytes, { target: { root: makeDirectory(directory, 'bounded') } })
  t.equal(statSync(join(directory, 'bounded/late')).mtimeMs, 1_500_000_000_000)
  t.equal(statSync(join(directory, 'bounded/sticky')).mtimeMs, 900_000_000_000)
})

t.test('files with equal whole seconds are compared by content, those with nanoseconds are not', async t => {
  const directory = scratch(t)
  const [left, right] = [makeDirectory(directory, 'left'), makeDirectory(directory, 'right')]
  for (const [root, content] of [
    [left, 'aaaa'],
    [right, 'bbbb'],
  ] as const)
    for (const [name, ns] of [
      ['cut', 5_000_000_000n],
      ['exact', 5_000_000_001n],
    ] as const) {
      writeFileSync(join(root, name), content)
      setTimes(join(root, name), ns, ns)
    }
  const { bytes } = await packBytes(t, { source: { kind: 'trees', left, right } })
  t.equal(execFileSync('tar', ['-tf', '-'], { input: bytes, encoding: 'utf8' }), 'cut\n')
})

t.test('a file that looks like a whiteout is left out, and said to be', async t => {
  const tree = makeDirectory(scratch(t), 'tree')
  mkdirSync(join(tree, '.wh.etc'))
  writeFileSync(join(tree, '.wh.etc/passwd'), 'x')
  const packed = await packBytes(t, { source: { kind: 'trees', left: undefined, right: tree } })
  t.equal(packed.size, 1024)
  t.match(packed.warnings, [/\.wh\.etc/])
})

t.test('a damaged or mislabelled blob is refused with the reason', async t => {
  const directory = scratch(t)
  const target = () => ({ root: makeDirectory(directory, `root-${readdirSync(directory).length}`) })
  const tar = rawTar(file('a', 'a'.repeat(100_000)))
  const zipped = gzipSync(tar)
  const mismatch = { reason: 'mismatch', message: /unexpected digest/ }
  const digest = `sha256:${'0'.repeat(64)}`
  await t.rejects(applyBytes(tar, { target: target(), digest }), mismatch)
  await t.rejects(applyBytes(zipped, { target: target(), digest }), mismatch)
  const damaged = Buffer.from(zipped)
  damaged[60] = (damaged[60] ?? 0) ^ 0xff
  await t.rejects(applyBytes(damaged, { target: target(), digest }), mismatch, 'and not only that gzip failed')
  await t.rejects(applyBytes(tar, { target: target(), size: 5 }), { reason: 'mismatch', message: /5/ })
  await t.rejects(applyBytes(zipped.subarray(0, 90), { target: target() }), { reason: 'invalid', message: /gzip/ })
  for (const behind of [Buffer.from('more'), Buffer.alloc(3 << 20)])
    await t.rejects(applyBytes(Buffer.concat([zipped, behind]), { target: target() }), {
      reason: 'invalid',
      message: /gzip/,
    })
  const zstd = execFileSync('zstd', ['-q', '-c'], { input: tar })
  await t.rejects(applyBytes(zstd.subarray(0, -20), { target: target() }), { reason: 'invalid', message: /zstd/ })
  await t.rejects(applyBytes(zstd, { target: target(), zstd: '/nowhere/zstd' }), {
    reason: 'unsupported',
    message: /install/,
  })
  const half = tar.length / 2
  const members = Buffer.concat([gzipSync(tar.subarray(0, half)), gzipSync(tar.subarray(half))])
  await t.resolves(applyBytes(members, { target: target() }), 'gzip may come in members')
  const twice = Buffer.concat([tar, Buffer.from('behind the end marker')])
  const { size } = await applyBytes(twice, { target: target() })
  t.equal(size, twice.length, 'bytes behind the end marker belong to the digest')
})

t.test('a directory that was moved by overlayfs needs a mount to be seen right', async t => {
  const { lower, upper, plain, mountMerged } = overlay(scratch(t))
  const merged = mountMerged(',redirect_dir=on')
  renameSync(join(merged, 'keep'), join(merged, 'moved'))
  await t.rejects(packBytes(t, { source: { kind: 'upper', upper } }), { reason: 'unsupported', message: /moved/ })
  const { bytes } = await packBytes(t, { source: { kind: 'trees', left: lower, right: merged } })
  await applyBytes(bytes, { target: { root: plain } })
  t.same(readdirSync(plain).sort(), readdirSync(merged).sort())
})
