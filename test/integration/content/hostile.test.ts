// Layers made to get out of their tree, or to take more than their share: none may touch anything outside.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import t, { type Test as TapTest } from 'tap'
import type { LayerFailure } from '../../../plugins/content/layer/errors.js'
import { MountFlag, mkfifo, mount, setXattr } from '../../../plugins/kit/linux.js'
import type { Scope } from '../../harness/wait.js'
import { type RawHeader, rawEntry, rawHeader, rawTar } from '../../unit/content/rawTar.js'
import { type ApplyOptions, applyBytes, makeDirectory, scratch, treeOf } from './trees.js'

interface Places {
  outside: string
  root: string
}

/** A root to unpack into, and beside it things that have to stay as they are. */
function victim(scope: Scope): Places & { before: string[] } {
  const directory = scratch(scope)
  const outside = makeDirectory(directory, 'outside')
  const root = makeDirectory(directory, 'root')
  writeFileSync(join(outside, 'secret'), 'secret\n', { mode: 0o600 })
  symlinkSync('secret', join(outside, 'symlink'))
  mkdirSync(join(outside, 'folder'), { mode: 0o700 })
  writeFileSync(join(outside, 'folder', 'inner'), 'inner\n')
  for (const name of ['secret', 'folder/inner', 'folder']) utimesSync(join(outside, name), 1000, 1000)
  return { outside, root, before: treeOf(outside) }
}

interface Attack {
  what: string
  /** What stands in the tree already. */
  prepare?(places: Places): void
  layer(places: Places): RawHeader[]
  /** How it ends: an error, or this much of it confined in the tree. */
  refused?: [LayerFailure, RegExp]
  confined?(t: TapTest, places: Places): void
}

const file = (name: string, data = 'evil\n'): RawHeader => ({ name, data })
const link = (name: string, linkName: string): RawHeader => ({ name, type: '1', linkName, mode: 0o777, uid: 7 })
const symlink = (name: string, linkName: string): RawHeader => ({ name, type: '2', linkName })
const folder = (name: string, mode = 0o777): RawHeader => ({ name, type: '5', mode, uid: 7, mtime: 7 })
const holds = (path: (places: Places) => string) => (t: TapTest, places: Places) =>
  t.equal(readFileSync(path(places), 'utf8'), 'evil\n')
const within = ({ root }: Places, path: string) => join(root, path)

const attacks: Attack[] = [
  { what: 'dots', layer: () => [file('../../outside/new')], confined: holds(p => within(p, 'outside/new')) },
  { what: 'dots in the middle', layer: () => [file('a/../../../b')], confined: holds(p => within(p, 'b')) },
  {
    what: 'an absolute name',
    layer: p => [file(`${p.outside}/new`)],
    confined: holds(p => within(p, `${p.outside}/new`)),
  },
  {
    what: 'an absolute symlink in the layer',
    layer: p => [symlink('out', p.outside), file('out/secret'), file('out/new')],
    confined: holds(p => within(p, `${p.outside}/new`)),
  },
  {
    what: 'a relative symlink in the layer',
    layer: () => [symlink('out', '../../../../outside'), file('out/secret')],
    confined: holds(p => within(p, 'outside/secret')),
  },
  {
    what: 'a symlink that was there before',
    prepare: p => symlinkSync(p.outside, within(p, 'out')),
    layer: () => [file('out/secret'), folder('out/folder'), file('out/folder/inner')],
    confined: holds(p => within(p, `${p.outside}/folder/inner`)),
  },
  {
    what: 'a chain of symlinks',
    layer: p => [symlink('a', 'b/c'), folder('b'), symlink('b/c', `${p.outside}/folder`), file('a/inner')],
    confined: holds(p => within(p, `${p.outside}/folder/inner`)),
  },
  {
    what: 'symlinks in a circle',
    layer: () => [symlink('a', 'b'), symlink('b', 'a'), file('a/x')],
    refused: ['invalid', /ELOOP/],
  },
  {
    what: 'symlinks that grow while they are followed',
    layer: () => [symlink('a', 'a/a'), file('a/x')],
    refused: ['invalid', /ELOOP|too many symlinks/],
  },
  {
    what: 'a directory exchanged for a symlink after it was used',
    layer: p => [folder('a'), file('a/first'), symlink('a', p.outside), file('a/secret')],
    confined: holds(p => within(p, `${p.outside}/secret`)),
  },
  {
    what: 'a directory above it exchanged',
    layer: p => [folder('a/folder'), file('a/folder/first'), symlink('a', p.outside), file('a/folder/inner')],
    confined: holds(p => within(p, `${p.outside}/folder/inner`)),
  },
  {
    what: 'a file over a symlink',
    prepare: p => symlinkSync(`${p.outside}/secret`, within(p, 'a')),
    layer: () => [file('a')],
    confined: (t, p) => t.ok(lstatSync(within(p, 'a')).isFile()),
  },
  {
    what: 'a directory over a symlink, with mode, owner, time and attributes',
    prepare: p => symlinkSync(`${p.outside}/folder`, within(p, 'a')),
    layer: () => [{ ...folder('a'), pax: { 'SCHILY.xattr.user.a': 'b' } }, file('a/inner')],
    confined: (t, p) => t.ok(lstatSync(within(p, 'a')).isDirectory()),
  },
  {
    what: 'a directory whose time is due when it is a symlink',
    layer: p => [folder('a'), symlink('a', `${p.outside}/folder`)],
    confined: (t, p) => t.ok(lstatSync(within(p, 'a')).isSymbolicLink()),
  },
  {
    what: 'owner, mode, time and attributes of a symlink',
    layer: p => [
      { ...symlink('a', `${p.outside}/secret`), mode: 0o777, uid: 7, mtime: 7, pax: { 'SCHILY.xattr.user.a': 'b' } },
    ],
    confined: (t, p) => t.match(lstatSync(within(p, 'a')), { uid: 7, mtimeMs: 7000 }),
  },
  {
    what: 'a hard link to dots',
    layer: () => [link('a', '../../outside/secret')],
    refused: ['invalid', /hard link target/],
  },
  {
    what: 'an absolute hard link',
    layer: p => [link('a', `${p.outside}/secret`)],
    refused: ['invalid', /hard link target/],
  },
  {
    what: 'a hard link through a symlink',
    layer: p => [symlink('out', p.outside), link('a', 'out/secret')],
    refused: ['invalid', /hard link target/],
  },
  {
    what: 'a hard link to a symlink, then a change of what it leads to',
    layer: p => [symlink('s', `${p.outside}/secret`), link('a', 's'), file('a')],
    confined: (t, p) => {
      t.equal(readlinkSync(within(p, 's')), `${p.outside}/secret`)
      t.ok(lstatSync(within(p, 'a')).isFile())
    },
  },
  { what: 'a hard link to a directory', layer: () => [folder('d'), link('a', 'd')], refused: ['invalid', /directory/] },
  { what: 'a hard link to the root', layer: () => [link('a', '/')], refused: ['invalid', /hard link target/] },
  { what: 'a hard link to its parent', layer: () => [link('d/a', 'd/..')], refused: ['invalid', /hard link target/] },
  {
    what: 'a name that shares its inode with the outside',
    prepare: p => linkSync(`${p.outside}/secret`, within(p, 'shared')),
    layer: () => [file('shared')],
    confined: (t, p) => t.not(lstatSync(within(p, 'shared')).ino, lstatSync(`${p.outside}/secret`).ino),
  },
  {
    what: 'a whiteout through a symlink',
    prepare: p => symlinkSync(p.outside, within(p, 'out')),
    layer: () => [file('out/.wh.secret', ''), file('out/.wh.folder', '')],
  },
  {
    what: 'an opaque whiteout through a symlink',
    prepare: p => symlinkSync(p.outside, within(p, 'out')),
    layer: () => [file('out/.wh..wh..opq', '')],
  },
  { what: 'a whiteout of the parent', layer: () => [file('a/.wh...', '')], refused: ['invalid', /whiteout/] },
  { what: 'a whiteout of the directory', layer: () => [file('.wh..', '')], refused: ['invalid', /whiteout/] },
  { what: 'a whiteout of nothing', layer: () => [file('.wh.', '')], refused: ['invalid', /whiteout/] },
  {
    what: 'a whiteout of a symlink',
    prepare: p => symlinkSync(`${p.outside}/folder`, within(p, 'out')),
    layer: () => [file('.wh.out', '')],
    confined: (t, p) => t.notOk(existsSync(within(p, 'out'))),
  },
  {
    what: 'a directory with a symlink in it replaced by a file',
    prepare: p => {
      mkdirSync(within(p, 'd/e'), { recursive: true })
      symlinkSync(p.outside, within(p, 'd/e/out'))
    },
    layer: () => [file('d')],
    confined: holds(p => within(p, 'd')),
  },
  {
    what: 'a file over a fifo that nobody reads',
    prepare: p => mkfifo(within(p, 'a'), 0o644),
    layer: () => [file('a')],
    confined: holds(p => within(p, 'a')),
  },
  {
    what: 'a file below a fifo',
    prepare: p => mkfifo(within(p, 'a'), 0o644),
    layer: () => [file('a/b')],
    refused: ['invalid', /entry "a\/b".*ENOTDIR/],
  },
  {
    what: 'a device that stands for another',
    layer: () => [{ name: 'a', type: '4', pax: {}, major: 4096, minor: 0 }],
    refused: ['invalid', /device 4096:0/],
  },
  { what: 'a symlink to nothing', layer: () => [symlink('a', '')], refused: ['invalid', /without a target/] },
  {
    what: 'a name too long for a file system',
    layer: () => [{ name: 'a', pax: { path: 'a'.repeat(256) } }],
    refused: ['invalid', /ENAMETOOLONG/],
  },
  {
    what: 'directories deeper than any path',
    layer: () =>
      Array.from({ length: 8 }).flatMap((_, i): RawHeader[] => [
        { name: 'd', type: '5', pax: { path: `${i === 0 ? '' : `s${i}/`}${'d/'.repeat(400)}` } },
        { name: 's', type: '2', pax: { path: `s${i + 1}`, linkpath: `${i === 0 ? '' : `s${i}/`}${'d/'.repeat(400)}` } },
      ]),
    refused: ['invalid', /nested deeper than 512/],
  },
]

t.test('nothing outside the tree changes, whatever the layer says', async t => {
  for (const { what, prepare, layer, refused, confined } of attacks)
    await t.test(what, async t => {
      const { before, ...places } = victim(t)
      prepare?.(places)
      const applied = applyBytes(rawTar(...layer(places)), { target: { root: places.root } })
      if (refused) await t.rejects(applied, { name: 'LayerError', reason: refused[0], message: refused[1] })
      else await applied
      t.same(treeOf(places.outside), before)
      confined?.(t, places)
    })
})

t.test('the same attacks upon the upper directory of an overlay', async t => {
  for (const { what, prepare, layer, refused } of attacks) {
    const { before, ...places } = victim(t)
    prepare?.(places)
    const lower = makeDirectory(places.root, '..', 'lower')
    symlinkSync(places.outside, join(lower, 'out'))
    const target: ApplyOptions['target'] = {
      root: places.root,
      overlay: { lowers: [lower], opaqueXattr: 'trusted.overlay.opaque' },
    }
    const applied = applyBytes(rawTar(...layer(places)), { target })
    if (refused) await t.rejects(applied, { name: 'LayerError', reason: refused[0] }, what)
    else await applied
    t.same(treeOf(places.outside), before, what)
  }
})

t.test('somebody who exchanges directories for symlinks meanwhile gains nothing', async t => {
  const { outside, root, before } = victim(t)
  const script = `while :; do mkdir -p d/e; mv d/e x; ln -s "$1" d/e; rm d/e; mv x d/e; rm -rf d; ln -s "$1" d; rm d; done`
  const racer = spawn('sh', ['-c', `${script} 2>/dev/null`, 'sh', outside], { cwd: root, stdio: 'ignore' })
  t.teardown(async () => {
    racer.kill('SIGKILL')
    if (racer.exitCode === null && racer.signalCode === null) await once(racer, 'exit')
  })
  await once(racer, 'spawn')
  const entries = Array.from({ length: 300 }, (_, i): RawHeader[] => [
    folder('d/e', 0o777),
    file(`d/e/secret${i % 3}`),
    link('d/e/link', 'd/e/secret1'),
    file('d/e/.wh.secret', ''),
    file('d/e/inner'),
    file('d/.wh.e', ''),
  ]).flat()
  const tar = rawTar(...entries)
  const outcomes = new Set<string>()
  for (const deadline = Date.now() + 2500; Date.now() < deadline; ) {
    const outcome = await applyBytes(tar, { target: { root } }).then(
      () => 'unpacked',
      (error: { reason?: string }) => error.reason ?? String(error),
    )
    outcomes.add(outcome)
  }
  t.same(treeOf(outside), before)
  t.notOk(
    [...outcomes].some(outcome => !['unpacked', 'failed', 'invalid'].includes(outcome)),
    [...outcomes].join(),
  )
})

t.test('a layer takes no more than it may', async t => {
  const target = () => ({ root: makeDirectory(scratch(t), 'root') })
  const many = (count: number, make: (i: number) => RawHeader) =>
    rawTar(...Array.from({ length: count }, (_, i) => make(i)))
  const exhausted = (message: RegExp) => ({ reason: 'exhausted', message })
  await t.rejects(
    applyBytes(
      many(11, i => file(`f${i}`)),
      { target: target(), limits: { entriesMax: 10 } },
    ),
    exhausted(/more than 10 entries/),
  )
  await t.rejects(
    applyBytes(
      many(1, () => file('a/b/c/d/e')),
      { target: target(), limits: { entriesMax: 3 } },
    ),
    exhausted(/more than 3 directories/),
    'directories made on the way count, too',
  )
  await t.rejects(
    applyBytes(
      many(4, i => ({ name: `d${i}`, type: '3', major: 1, minor: 3 })),
      { target: target(), limits: { devicesMax: 3 } },
    ),
    exhausted(/entry "d3".*more than 3 devices/),
  )
  await t.rejects(
    applyBytes(
      many(2, i => file(`f${i}`, 'x'.repeat(1000))),
      { target: target(), limits: { bytesMax: 1500 } },
    ),
    exhausted(/1500 bytes/),
  )
  const bomb = gzipSync(Buffer.concat([rawHeader({ name: 'zeros', size: 2 ** 32 }), Buffer.alloc(1 << 26)]))
  await t.rejects(applyBytes(bomb, { target: target(), limits: { bytesMax: 1 << 25 } }), exhausted(/33554432 bytes/))
  const sparse = {
    'GNU.sparse.major': '0',
    'GNU.sparse.minor': '1',
    'GNU.sparse.map': '0,0',
    'GNU.sparse.size': `${2 ** 45}`,
  }
  await t.rejects(applyBytes(rawTar({ name: 's', pax: sparse }), { target: target() }), exhausted(/bytes/))
})

t.test('a claim of 4 GiB in a short tar is refused, and costs neither memory nor disk', async t => {
  const root = makeDirectory(scratch(t), 'root')
  const tar = Buffer.concat([rawHeader({ name: 'claim', size: 2 ** 32 }), Buffer.alloc(1000)])
  await t.rejects(applyBytes(tar, { target: { root } }), { reason: 'invalid', message: /cut off.*"claim"/ })
  t.ok(lstatSync(join(root, 'claim')).blocks <= 8)
})

t.test('a full disk is named with the entry that met it', async t => {
  const root = makeDirectory(scratch(t), 'root')
  mount('tmpfs', root, 'tmpfs', MountFlag.noDev, 'size=1m')
  const tar = rawTar(file('small'), file('large', 'x'.repeat(2 << 20)))
  await t.rejects(applyBytes(tar, { target: { root } }), {
    reason: 'exhausted',
    message: /entry "large".*ENOSPC.*make room/,
  })
})

t.test("a layer cannot speak overlayfs' language", async t => {
  const root = makeDirectory(scratch(t), 'root')
  const pax = {
    'SCHILY.xattr.trusted.overlay.redirect': '/etc',
    'SCHILY.xattr.user.overlay.opaque': 'y',
    'SCHILY.xattr.trusted.mine': 'x',
    'SCHILY.xattr.user.mine': 'kept',
  }
  const { warnings } = await applyBytes(rawTar({ ...folder('d'), pax }), { target: { root } })
  t.equal(warnings.length, 3)
  t.match(treeOf(root).join(), /user\.mine=/)
  t.notMatch(treeOf(root).join(), /trusted/)
  setXattr(join(root, 'd'), 'user.later', Buffer.from('x'))
})

t.test('an upload that is cancelled stops at its next entry', async t => {
  const root = makeDirectory(scratch(t), 'root')
  let asked = 0
  const tar = rawTar(...Array.from({ length: 10 }, (_, i) => file(`f${i}`)))
  await t.rejects(applyBytes(tar, { target: { root }, isCancelled: () => ++asked > 5 }), {
    name: 'LayerError',
    reason: 'cancelled',
  })
  t.equal(readdirSync(root).length, 5)
  t.equal(rawEntry(file('f')).length, 1024)
})
