// The tar reader: every dialect that GNU tar writes, and whatever else somebody may send.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { LayerError } from '../../../plugins/content/layer/errors.js'
import { defaultLimits, type LayerLimits } from '../../../plugins/content/layer/limits.js'
import type { TarEntry } from '../../../plugins/content/layer/tarHeader.js'
import { TarReader } from '../../../plugins/content/layer/tarReader.js'
import { encodeEntry } from '../../../plugins/content/layer/tarWriter.js'
import { filling, paxData, rawEntry, rawHeader, rawTar, sealed } from './rawTar.js'

interface Seen extends TarEntry {
  /** With zeros for the holes. */
  content: Buffer
  /** Bytes that came from the tar. */
  stored: number
}

function read(tar: Buffer, { step = tar.length, limits = {} }: { step?: number; limits?: Partial<LayerLimits> } = {}) {
  const seen: Seen[] = []
  const reader = new TarReader(
    {
      entry: entry => void seen.push({ ...entry, content: Buffer.alloc(Math.min(entry.size, 1 << 22)), stored: 0 }),
      data: (bytes, offset) => {
        const last = seen.at(-1)
        bytes.copy(last?.content ?? Buffer.alloc(0), offset)
        if (last) last.stored += bytes.length
      },
      end: () => {},
    },
    { ...defaultLimits, ...limits },
  )
  for (let at = 0; at < tar.length; at += step) reader.push(tar.subarray(at, at + step))
  reader.end()
  return seen
}

const refused = (reason: string, message: RegExp) => ({ name: 'LayerError', reason, message })

t.test('what GNU tar writes is read the same in every format and in pieces of any size', async t => {
  const directory = mkdtempSync('/tmp/purser-tar-')
  t.teardown(() => rmSync(directory, { recursive: true }))
  const long = `${'d'.repeat(90)}/${'f'.repeat(120)}`
  execFileSync('mkdir', ['-p', join(directory, 'd'.repeat(90))])
  writeFileSync(join(directory, long), 'long name\n', { mode: 0o4751 })
  writeFileSync(join(directory, 'größe'), 'x'.repeat(100_000))
  symlinkSync('t'.repeat(150), join(directory, 'link'))
  for (const format of ['gnu', 'pax', 'posix', 'oldgnu'])
    for (const step of [1 << 20, 1000, 7]) {
      const tar = execFileSync('tar', ['-C', directory, `--format=${format}`, '--sort=name', '-cf', '-', '.'], {
        maxBuffer: 1 << 24,
      })
      const seen = read(tar, { step })
      const byName = new Map(seen.map(entry => [Buffer.from(entry.name, 'latin1').toString(), entry]))
      t.match(byName.get(`./${long}`), { mode: 0o4751, type: 'file' }, `${format} in pieces of ${step}`)
      t.equal(byName.get(`./${long}`)?.content.toString(), 'long name\n')
      t.equal(byName.get('./größe')?.content.toString(), 'x'.repeat(100_000))
      t.equal(byName.get('./link')?.linkName, 't'.repeat(150))
      t.equal(byName.get('./')?.type, 'directory')
    }
})

t.test('sparse files keep their holes, in all four formats of GNU tar', async t => {
  const directory = mkdtempSync('/tmp/purser-tar-')
  t.teardown(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'sparse')
  writeFileSync(file, '')
  truncateSync(file, 3 << 20)
  // 31 islands: more than the 4 ranges that a header holds, and than the 21 of an extension block.
  for (let island = 0; island < 31; island++)
    execFileSync('dd', [`of=${file}`, 'bs=4096', `seek=${island * 20}`, 'conv=notrunc', 'status=none'], {
      input: Buffer.alloc(4096, 65 + island),
    })
  const hash = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')
  const expected = execFileSync('sha256sum', [file], { encoding: 'utf8' }).slice(0, 64)
  for (const format of [['gnu'], ['posix', '0.0'], ['posix', '0.1'], ['posix', '1.0']]) {
    const [name, version] = format
    const args = ['-C', directory, `--format=${name}`, '--sparse', ...(version ? [`--sparse-version=${version}`] : [])]
    const tar = execFileSync('tar', [...args, '-cf', '-', 'sparse'], { maxBuffer: 1 << 24 })
    const [entry] = read(tar, { step: 777 })
    t.match(entry, { name: 'sparse', size: 3 << 20 }, format.join(' '))
    t.equal(entry && hash(entry.content), expected)
    t.ok(entry && entry.stored <= 31 * 8192, `${entry?.stored} bytes are stored`)
  }
})

t.test('times have nanoseconds, attributes stay bytes, and numbers may be large', async t => {
  const capability = Buffer.from('0100000280200000000000000000000000000000', 'hex')
  const [entry] = read(
    rawTar({
      name: 'file',
      uid: 1,
      mtime: 5,
      pax: {
        mtime: '1700000000.123456789',
        atime: '-1.5',
        uid: '3000000',
        'SCHILY.xattr.security.capability': capability,
        'LIBARCHIVE.xattr.user.a%3Db': 'gP8=',
      },
    }),
  )
  t.equal(entry?.mtimeNs, 1_700_000_000_123_456_789n)
  t.equal(entry?.atimeNs, -1_500_000_000n)
  t.equal(entry?.uid, 3_000_000)
  t.same(entry?.xattrs.get('security.capability'), capability)
  t.same(entry?.xattrs.get('user.a=b'), Buffer.from([0x80, 0xff]))
  const [large] = read(rawTar({ name: 'large', gid: 0x7fff_ffff, mtime: 2 ** 34 }))
  t.equal(large?.gid, 0x7fff_ffff)
  t.equal(large?.mtimeNs, 2n ** 34n * 1_000_000_000n)
})

t.test('a global pax header changes nothing, and types without data have none', async t => {
  const seen = read(
    rawTar(
      { name: 'global', type: 'g', data: paxData({ path: '/etc/shadow', size: '1' }) },
      { name: 'directory', type: '5', size: 4096 },
      { name: 'symlink', type: '2', linkName: 'x', size: 4096, pax: { size: '512' } },
      { name: 'file', data: 'data' },
    ),
  )
  t.same(
    seen.map(({ name }) => name),
    ['directory', 'symlink', 'file'],
  )
})

t.test('a tar without its end marker is read, one that is cut off inside an entry is not', async t => {
  const tar = rawTar({ name: 'a', data: 'x'.repeat(600) })
  t.equal(read(tar.subarray(0, 512 + 1024)).length, 1)
  t.equal(read(tar.subarray(0, 512 + 600)).length, 1, 'not even its padding is needed')
  t.equal(read(Buffer.alloc(0)).length, 0)
  for (const length of [100, 512, 512 + 599])
    t.throws(() => read(tar.subarray(0, length)), refused('invalid', /cut off/), `${length} bytes`)
  t.throws(() => read(rawEntry({ name: 'x', type: 'x', data: paxData({ path: 'a' }) })), refused('invalid', /cut off/))
  t.throws(() => read(Buffer.concat([Buffer.alloc(512), rawTar({ name: 'a' })])), refused('invalid', /end marker/))
})

t.test('claims are bounded before anything is set aside for them', async t => {
  const claims: [string, Buffer, string, RegExp][] = [
    ['4 GiB that never come', rawHeader({ name: 'a', size: 2 ** 32 }), 'invalid', /cut off/],
    ['more than all files may have', rawHeader({ name: 'a', size: 2n ** 50n }), 'exhausted', /bytes/],
    ['more than a number can say', rawHeader({ name: 'a', size: 2n ** 60n }), 'invalid', /size/],
    ['a huge pax header', rawHeader({ name: 'x', type: 'x', size: 2 ** 32 }), 'invalid', /extended header/],
    ['a huge name', rawHeader({ name: 'x', type: 'L', size: 2 ** 31 }), 'invalid', /extended header/],
    ['a negative size', rawTar({ name: 'a', pax: { size: '-1' } }), 'invalid', /size/],
    ['a size that is none', rawHeader({ name: 'a', size: '12x' }), 'invalid', /size/],
    ['an owner out of range', rawTar({ name: 'a', pax: { uid: '4294967295' } }), 'invalid', /user or group/],
    ['a long name', rawTar({ name: 'a', pax: { path: 'a/'.repeat(3000) } }), 'invalid', /4095/],
    ['a NUL in a name', rawTar({ name: 'a', pax: { path: 'a\0b' } }), 'invalid', /NUL/],
    [
      'a large attribute',
      rawTar({ name: 'a', pax: { 'SCHILY.xattr.user.a': 'x'.repeat(65_537) } }),
      'invalid',
      /65536/,
    ],
    [
      'an attribute with a long name',
      rawTar({ name: 'a', pax: { [`SCHILY.xattr.${'u'.repeat(256)}`]: '' } }),
      'invalid',
      /255/,
    ],
    ['an unknown type', rawTar({ name: 'a', type: 'Z' }), 'invalid', /unknown type/],
    [
      'an unknown sparse format',
      rawTar({ name: 'a', pax: { 'GNU.sparse.major': '9', 'GNU.sparse.realsize': '1' } }),
      'invalid',
      /sparse/,
    ],
    ['no tar at all', Buffer.from('hello '.repeat(200)), 'invalid', /no tar header/],
    ['a wrong checksum', rawTar({ name: 'a', checksum: 1 }), 'invalid', /no tar header/],
  ]
  for (const [what, tar, reason, message] of claims) t.throws(() => read(tar), refused(reason, message), what)
  t.throws(
    () => read(rawTar({ name: 'a' }, { name: 'b' }), { limits: { entriesMax: 1 } }),
    refused('exhausted', /entries/),
  )
  t.throws(
    () => read(rawTar({ name: 'a', data: 'xx' }, { name: 'b', data: 'xx' }), { limits: { bytesMax: 3 } }),
    refused('exhausted', /bytes/),
  )
})

t.test('malformed pax records and sparse maps are refused', async t => {
  const pax = (data: string) => Buffer.concat([rawEntry({ name: 'x', type: 'x', data }), rawTar({ name: 'a' })])
  for (const data of [
    '5 a=b',
    '99 a=b\n',
    '0 a=b\n',
    '-6 a=b\n',
    '6 ab\n\n',
    'x a=b\n',
    '6 a=b\n1',
    `${'1'.repeat(20)} a=b\n`,
  ])
    t.throws(() => read(pax(data)), refused('invalid', /pax/), JSON.stringify(data))

  const sparse = (records: Record<string, string>, data = '') =>
    rawTar({ name: 'a', data, pax: { 'GNU.sparse.major': '0', 'GNU.sparse.minor': '1', ...records } })
  const maps: Record<string, string>[] = [
    { 'GNU.sparse.size': '10', 'GNU.sparse.map': '5,1,0,1' },
    { 'GNU.sparse.size': '10', 'GNU.sparse.map': '0,4,2,4' },
    { 'GNU.sparse.size': '10', 'GNU.sparse.map': '8,4' },
    { 'GNU.sparse.size': '10', 'GNU.sparse.map': '0' },
    { 'GNU.sparse.size': '10', 'GNU.sparse.map': '0,-1' },
    { 'GNU.sparse.size': '10', 'GNU.sparse.map': '0,1' },
  ]
  for (const records of maps)
    t.throws(() => read(sparse(records, 'xx')), refused('invalid', /sparse/), records['GNU.sparse.map'] ?? '')
  const stored = (data: string) =>
    rawTar({ name: 'a', data, pax: { 'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.realsize': '10' } })
  t.throws(() => read(stored('99999999\n'.padEnd(512, '\0'))), refused('invalid', /ranges/))
  t.throws(() => read(stored('5\n'.padEnd(512, '\0'))), LayerError, 'a map that runs into the next entry')
  const old = rawHeader({ name: 'a', type: 'S' })
  old.write('77777777777\0', 386)
  old.write('00000000001\0', 398)
  old.write('00000000001\0', 483)
  t.throws(() => read(Buffer.concat([sealed(old), filling(0)])), refused('invalid', /sparse/))
})

t.test('damaged tars end in an error, never in a hang or another failure', async t => {
  const honest = Buffer.concat([
    rawEntry({
      name: 'long',
      pax: { path: 'p'.repeat(200), 'SCHILY.xattr.user.a': 'b', mtime: '1.5' },
      data: 'y'.repeat(700),
    }),
    rawEntry({ name: 'L', type: 'L', data: `${'n'.repeat(120)}\0` }),
    rawTar(
      { name: 'n', type: '5' },
      {
        name: 's',
        data: `${'1\n0\n3\n'.padEnd(512, '\0')}abc`,
        pax: { 'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.realsize': '9' },
      },
      { name: 'l', type: '1', linkName: 'n' },
    ),
  ])
  let seed = 42
  const random = (below: number) => {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648
    return seed % below
  }
  let errors = 0
  for (let round = 0; round < 3000; round++) {
    const damaged = Buffer.from(honest)
    for (let count = 1 + random(3); count > 0; count--) {
      const header = random(honest.length / 512) * 512
      const at = random(2) === 0 ? random(honest.length) : header + random(512)
      damaged[at] = random(3) === 0 ? random(256) : 48 + random(10)
      // Half of the rounds get past the checksum.
      if (random(2) === 0 && damaged.subarray(header + 257, header + 262).toString() === 'ustar')
        sealed(damaged.subarray(header, header + 512))
    }
    try {
      read(damaged.subarray(0, random(8) === 0 ? random(damaged.length) : damaged.length), { step: 1 + random(2000) })
    } catch (error) {
      if (!(error instanceof LayerError)) throw error
      errors++
    }
  }
  t.ok(errors > 500, `${errors} of 3000 were refused`)
})

t.test('what our writer says, our reader and GNU tar understand', async t => {
  const entry: TarEntry = {
    name: `${'p'.repeat(150)}/${'n'.repeat(130)}`,
    type: 'file',
    linkName: '',
    mode: 0o4755,
    uid: 3_000_000,
    gid: 12,
    size: 9 * 2 ** 30,
    mtimeNs: 1_700_000_000_999_999_999n,
    atimeNs: 0n,
    major: 0,
    minor: 0,
    xattrs: new Map([['user.bytes', Buffer.from([0, 0xff, 0x0a])]]),
  }
  const names = ['short', 'ü', `${'p'.repeat(140)}/${'n'.repeat(90)}`, 'x'.repeat(255), entry.name]
  for (const name of names) {
    const bytes = Buffer.from(name).toString('latin1')
    const tar = Buffer.concat([encodeEntry({ ...entry, name: bytes, size: 0 }), Buffer.alloc(1024)])
    t.match(read(tar)[0], { name: bytes, mode: 0o4755, uid: 3_000_000, mtimeNs: 1_700_000_000_000_000_000n })
    t.same(read(tar)[0]?.xattrs.get('user.bytes'), Buffer.from([0, 0xff, 0x0a]))
    const listed = execFileSync('tar', ['--numeric-owner', '--quoting-style=literal', '-tvf', '-'], {
      input: tar,
      encoding: 'utf8',
    })
    t.match(listed, `-rwsr-xr-x 3000000/12`)
    t.ok(listed.trimEnd().endsWith(` ${name}`), listed)
  }
  const large = encodeEntry({ ...entry, size: 9 * 2 ** 30 })
  t.throws(() => read(large), refused('invalid', /cut off/))
})
