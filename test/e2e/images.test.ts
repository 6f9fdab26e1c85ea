// Images, their content and their snapshots, as Debian's ctr handles them from import and pull to removal.
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { ContentService } from '../../proto/gen/containerd/services/content/v1/content.js'
import { writeBlob } from '../harness/content.js'
import { run } from '../harness/ctr.js'
import { blobsOf, busyboxImage, busyboxName, digestOf, type Entry, writeArchive } from '../harness/image.js'
import { registry } from '../harness/registry.js'
import { supervisor } from '../harness/supervisor.js'
import { table } from '../harness/table.js'

/** At once: 50 are the full proof. */
const pulls = Number(process.env.PURSER_RACE_PULLS ?? 10)

const host = await supervisor(t)
const image = await busyboxImage()
const digests = blobsOf(image).map(({ descriptor }) => descriptor.digest)

t.test('ctr version tells the server’s version and its identity, which stays', async t => {
  const text = await host.ok('version')
  t.match(text, /Server:\n\s+Version:\s+\S+\n\s+Revision:.*\n\s+UUID: [0-9a-f-]{36}/)
  t.equal(await host.ok('version'), text)
})

t.test('ctr plugins ls names what clients look for, all of it ok', async t => {
  const plugins = table(await host.ok('plugins', 'ls'))
  for (const [type, id] of [
    ['io.containerd.content.v1', 'content'],
    ['io.containerd.snapshotter.v1', 'overlayfs'],
    ['io.containerd.snapshotter.v1', 'native'],
    ['io.containerd.differ.v1', 'walking'],
    ['io.containerd.runtime.v2', 'task'],
    ['io.containerd.grpc.v1', 'containers'],
    ['io.containerd.grpc.v1', 'tasks'],
    ['io.containerd.grpc.v1', 'images'],
    ['io.containerd.grpc.v1', 'snapshots'],
    ['io.containerd.grpc.v1', 'leases'],
  ])
    t.match(
      plugins.find(row => row.TYPE === type && row.ID === id),
      { STATUS: 'ok' },
      `${type} ${id}`,
    )
})

t.test('namespaces are created, labelled, listed and removed', async t => {
  await host.ok('namespaces', 'create', 'team', 'owner=anna')
  t.match((await host.ctr('namespaces', 'create', 'team')).stderr, /namespace "team": already exists/)
  await host.ok('namespaces', 'label', 'team', 'owner=', 'tier=1')
  t.match(table(await host.ok('namespaces', 'ls')), [{ NAME: 'team', LABELS: 'tier=1' }])
  await host.ok('namespaces', 'rm', 'team')
  t.notOk(table(await host.ok('namespaces', 'ls')).some(row => row.NAME === 'team'))
})

t.test('an imported image is there, complete and unpacked', async t => {
  await host.load(image)
  t.match(table(await host.ok('images', 'ls')), [
    { REF: busyboxName, TYPE: image.manifest.descriptor.mediaType, DIGEST: image.manifest.descriptor.digest },
  ])
  t.match(await host.ok('images', 'ls', '-q'), busyboxName)
  const [row] = table(await host.ok('images', 'check'))
  t.match(row, { REF: busyboxName, STATUS: 'complete (3/3)', UNPACKED: 'true' })
})

t.test('an import again changes nothing', async t => {
  const state = async () => [await host.ok('images', 'ls'), await host.ok('snapshots', 'ls')]
  const before = await state()
  await host.load(image)
  t.same(await state(), before)
})

t.test('tags are further names of the same target', async t => {
  await host.ok('images', 'tag', busyboxName, 'example.com/copy:1')
  t.match((await host.ctr('images', 'tag', busyboxName, 'example.com/copy:1')).stderr, /already exists/)
  await host.ok('images', 'label', 'example.com/copy:1', 'stage=dev')
  const copy = table(await host.ok('images', 'ls')).find(row => row.REF === 'example.com/copy:1')
  t.match(copy, { DIGEST: image.manifest.descriptor.digest, LABELS: /stage=dev/ })
  await host.ok('images', 'rm', 'example.com/copy:1')
  t.equal(await host.ok('images', 'ls', '-q'), busyboxName)
})

t.test('content is listed with what refers to what, and comes back byte for byte', async t => {
  const rows = table(await host.ok('content', 'ls'))
  const [first, second] = digests
  for (const { descriptor } of blobsOf(image))
    t.ok(
      rows.some(row => row.DIGEST === descriptor.digest),
      descriptor.digest,
    )
  const manifest = rows.find(row => row.DIGEST === image.manifest.descriptor.digest)
  t.match(manifest?.LABELS, `containerd.io/gc.ref.content.config=${image.config.descriptor.digest}`)
  t.match(manifest?.LABELS, `containerd.io/gc.ref.content.l.0=${first}`)
  t.match(manifest?.LABELS, `containerd.io/gc.ref.content.l.1=${second}`)
  const layer = rows.find(row => row.DIGEST === first)
  t.match(layer?.LABELS, `containerd.io/uncompressed=${image.diffIds[0]}`)
  const config = rows.find(row => row.DIGEST === image.config.descriptor.digest)
  t.match(config?.LABELS, /containerd\.io\/gc\.ref\.snapshot\.overlayfs=sha256:[0-9a-f]{64}/)
  t.equal(await host.ok('content', 'get', image.manifest.descriptor.digest), image.manifest.bytes.toString())
  const unknown = digestOf(Buffer.from('no such blob'))
  t.match((await host.ctr('content', 'get', unknown)).stderr, /not found/)
})

t.test('content is written, labelled and removed', async t => {
  const bytes = 'some bytes of our own'
  const digest = digestOf(Buffer.from(bytes))
  const ingest = (reference: string, ...flags: string[]) => {
    const running = host.ctrSpawn('content', 'ingest', ...flags, reference)
    running.write(bytes)
    running.closeInput()
    return running.end()
  }
  const wrong = await ingest('wrong', '--expected-digest', digestOf(Buffer.from('other')))
  t.not(wrong.code, 0)
  t.match(wrong.stderr, /unexpected commit digest/)
  t.match(table(await host.ok('content', 'active')), [{ REF: 'wrong', SIZE: '21B' }], 'it can be resumed')
  t.match(await ingest('right', '--expected-digest', digest, '--expected-size', String(bytes.length)), { code: 0 })
  // Nothing refers to what ctr has written, so that the garbage collection may take it at once. A root stays.
  const kept = await writeBlob(host, Buffer.from('bytes with a root label'))
  t.equal(await host.ok('content', 'get', kept), 'bytes with a root label')
  await host.ok('content', 'label', kept, 'kept=yes')
  t.match(table(await host.ok('content', 'ls')).find(row => row.DIGEST === kept)?.LABELS, 'kept=yes')
  await host.ok('content', 'rm', kept)
  t.match((await host.ctr('content', 'get', kept)).stderr, /not found/)
  await host.call(ContentService.abort, { ref: 'wrong' })
  t.same(table(await host.ok('content', 'active')), [])
})

t.test('an image is exported as the archive that it came from', async t => {
  const path = join(host.directory, 'export.tar')
  await host.ok('images', 'export', path, busyboxName)
  const members = (await run('tar', ['tf', path]).end()).stdout
  for (const digest of digests) t.match(members, `blobs/${digest.replace(':', '/')}`)
})

t.test('snapshots form the tree of the layers and have a size', async t => {
  const rows = table(await host.ok('snapshots', 'ls'))
  t.equal(rows.length, 2)
  t.same(new Set(rows.map(row => row.KIND)), new Set(['Committed']))
  const base = rows.find(row => row.PARENT === '')
  const top = rows.find(row => row.PARENT !== '')
  t.equal(base?.KEY, image.diffIds[0])
  t.equal(top?.PARENT, base?.KEY)
  t.match(await host.ok('snapshots', 'tree'), new RegExp(`${base?.KEY}\n\\s+\\S*\\s*${top?.KEY}`))
  const usage = table(await host.ok('snapshots', 'usage', '-b'))
  t.match(usage.find(row => row.KEY === base?.KEY)?.SIZE, /^\d{7}$/, 'busybox takes about 2 MB')
  t.match(JSON.parse(await host.ok('snapshots', 'info', base?.KEY ?? '')), { Kind: 'Committed', Name: base?.KEY })
})

t.test('a snapshot is prepared, changed, compared, committed, viewed and removed', async t => {
  const [top] = table(await host.ok('snapshots', 'ls')).filter(row => row.PARENT !== '')
  const target = join(host.directory, 'mnt')
  mkdirSync(target)
  await host.ok('snapshots', 'prepare', 'work', top?.KEY ?? '')
  const mounts = await host.ok('snapshots', 'mounts', target, 'work')
  t.match(mounts, /mount -t overlay overlay/)
  await run('sh', ['-c', `${mounts} && echo new > ${target}/etc/new && rm ${target}/etc/motd; umount ${target}`]).end()
  const diff = await host.ok('snapshots', 'diff', '--media-type', 'application/vnd.oci.image.layer.v1.tar', 'work')
  t.match(diff, /etc\/\.wh\.motd/)
  t.match(diff, /etc\/new/)
  await host.ok('snapshots', 'commit', 'done', 'work')
  t.match((await host.ctr('snapshots', 'mounts', target, 'work')).stderr, /not found/)
  t.match((await host.ctr('snapshots', 'rm', top?.KEY ?? '')).stderr, /cannot remove snapshot.*failed precondition/)
  t.match(await host.ok('snapshots', 'view', '--target', target, 'look', 'done'), /lowerdir=/)
  // Nothing refers to a view, so that the garbage collection may have been here before.
  await host.ctr('snapshots', 'rm', 'look')
  await host.ok('snapshots', 'rm', 'done')
  t.equal(table(await host.ok('snapshots', 'ls')).length, 2)
})

t.test('leases are created, listed and removed', async t => {
  await host.ok('leases', 'create', '--id', 'mine', '--expires', '1h', 'why=test')
  const lease = table(await host.ok('leases', 'ls')).find(row => row.ID === 'mine')
  t.match(lease?.LABELS, /containerd\.io\/gc\.expire=.*why=test|why=test.*containerd\.io\/gc\.expire=/)
  await host.ok('leases', 'rm', 'mine')
  t.same(table(await host.ok('leases', 'ls')), [])
})

t.test(`${pulls} pull one image at once: all have it, and nothing is left of their uploads`, async t => {
  const source = await registry(t)
  const reference = await source.push(await busyboxImage({ layers: [[file('etc/contended', 'yes\n')]] }), 'contended')
  const results = await Promise.all(
    Array.from({ length: pulls }, () => host.ctr('images', 'pull', '--plain-http', reference)),
  )
  t.same(
    results.filter(({ code }) => code !== 0).map(({ stderr }) => stderr),
    [],
  )
  t.equal(await host.ok('run', '--rm', reference, host.id('contended'), 'cat', '/etc/contended'), 'yes')
  t.same(table(await host.ok('content', 'active')), [])
  t.same(
    table(await host.ok('snapshots', 'ls')).filter(({ KEY }) => KEY?.startsWith('extract-')),
    [],
  )
  await host.ok('images', 'rm', '--sync', reference)
})

t.test('a pull from a registry brings the same image, and what is there already is not fetched again', async t => {
  const source = await registry(t)
  const other = await busyboxImage({ layers: [[file('etc/pulled', 'yes\n')]] })
  const reference = await source.push(other, 'busybox')
  await host.ok('images', 'pull', '--plain-http', reference)
  t.match(table(await host.ok('images', 'check', `name==${reference}`)), [
    { REF: reference, STATUS: 'complete (4/4)', UNPACKED: 'true' },
  ])
  const rows = table(await host.ok('content', 'ls'))
  const [layer] = rows.filter(row => row.DIGEST === other.layers[2]?.descriptor.digest)
  t.match(layer?.LABELS, /containerd\.io\/distribution\.source\.127\.0\.0\.1\S*=busybox/)
  t.equal(table(await host.ok('snapshots', 'ls')).length, 3, 'the two lower layers are shared')
  const found = await host.ok('run', '--rm', reference, host.id('pulled'), 'cat', '/etc/pulled')
  t.equal(found, 'yes')
  t.match((await host.ctr('images', 'pull', '--plain-http', `${source.address}/nothing:1`)).stderr, /not found/)
  await host.ok('images', 'rm', reference)
})

t.test('content fetch takes the blobs and unpacks nothing', async t => {
  const source = await registry(t)
  const other = await busyboxImage({ layers: [[file('etc/fetched', 'yes\n')]] })
  const reference = await source.push(other, 'fetched')
  const before = table(await host.ok('snapshots', 'ls')).length
  await host.ok('content', 'fetch', '--plain-http', reference)
  t.equal(await host.ok('content', 'get', other.config.descriptor.digest), other.config.bytes.toString())
  t.equal(table(await host.ok('snapshots', 'ls')).length, before)
  t.match(table(await host.ok('images', 'check', `name==${reference}`)), [{ UNPACKED: 'false' }])
  await host.ok('images', 'rm', reference)
})

t.test('an image goes up to a registry and comes down equal', async t => {
  const source = await registry(t)
  const reference = `${source.address}/pushed:1`
  await host.ok('images', 'push', '--plain-http', reference, busyboxName)
  const manifest = await fetch(`http://${source.address}/v2/pushed/manifests/1`, {
    headers: { accept: image.manifest.descriptor.mediaType },
  })
  t.equal(await manifest.text(), image.manifest.bytes.toString())
})

for (const compression of ['none', 'zstd'] as const)
  t.test(`layers with compression ${compression} unpack like gzip's`, async t => {
    const name = `docker.io/library/busybox:${compression}`
    await host.load(await busyboxImage({ name, compression }))
    const script = 'cat /etc/issue; ls /etc; stat -c %a /tmp'
    const text = await host.ok('run', '--rm', name, host.id(compression), 'sh', '-c', script)
    t.match(text, /^second layer\n(.+\n)*motd\n(.+\n)*1777$/)
    t.notMatch(text, /removed/)
    await host.ok('images', 'rm', name)
  })

t.test('the snapshotter is the one that was asked for', async t => {
  const name = 'docker.io/library/busybox:native'
  await host.load(await busyboxImage({ name }), '--snapshotter', 'native')
  t.equal(table(await host.ok('snapshots', '--snapshotter', 'native', 'ls')).length, 2)
  const id = host.id('native')
  const text = await host.ok('run', '--rm', '--snapshotter', 'native', name, id, 'cat', '/etc/motd', '/proc/mounts')
  t.match(text, /^hello from the second layer\n/)
  t.notMatch(text, /^overlay \/ /m)
  await host.ok('images', 'rm', name)
})

t.test('an archive that lies about a blob is found out when it is unpacked', async t => {
  const lying = await busyboxImage({ name: 'docker.io/library/lying:1', layers: [[file('etc/true', 'yes\n')]] })
  const [, , layer] = lying.layers
  if (layer === undefined) throw new Error('the image has three layers')
  layer.bytes = Buffer.from(layer.bytes.map((byte, at) => (at === layer.bytes.length - 9 ? byte ^ 1 : byte)))
  const path = join(host.directory, 'lying.tar')
  await writeArchive(path, lying)
  const { code, stderr } = await host.ctr('images', 'import', path)
  t.not(code, 0)
  // The blob was stored as what it is, so that what the manifest asks for is missing.
  t.match(stderr, new RegExp(`content .*${layer.descriptor.digest}: not found`))
  await host.ok('images', 'rm', lying.name)
})

const file = (path: string, text: string): Entry => ({ kind: 'file', path, text })
