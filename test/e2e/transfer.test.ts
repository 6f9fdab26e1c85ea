// Transfer and Streaming, as containerd's newer clients use them: the server itself imports, exports, tags, pulls and pushes.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import t from 'tap'
import tar from 'tar-stream'
import { Code } from '../../plugins/kit/errors.js'
import { ContentService } from '../../proto/gen/containerd/services/content/v1/content.js'
import { ImagesService } from '../../proto/gen/containerd/services/images/v1/images.js'
import { LeasesService } from '../../proto/gen/containerd/services/leases/v1/leases.js'
import { blobsOf, busyboxImage, busyboxName, writeArchive, writeDockerArchive } from '../harness/image.js'
import { hostKind, supervisor } from '../harness/supervisor.js'
import { exportStream, imageStore, importArchive, importStream, NamedStream, transfer } from '../harness/transfer.js'

if (hostKind === 'containerd') t.bailout('Debian’s containerd has neither service')

const host = await supervisor(t)
const image = await busyboxImage()
const archivePath = join(host.directory, 'image.tar')
await writeArchive(archivePath, image)
const archive = readFileSync(archivePath)
const prefix = { name: 'docker.io/library/busybox', isPrefix: true }
const images = async () => (await host.rpc.call(ImagesService.list, { filters: [] })).images
const leases = async () => (await host.rpc.call(LeasesService.list, { filters: [] })).leases

t.test('a stream has its name until either side ends it', async t => {
  const stream = await NamedStream.open(host, 'one')
  const second = NamedStream.open(host, 'one')
  await t.rejects(second, { code: Code.ALREADY_EXISTS })
  const elsewhere = await NamedStream.open(host, 'one', { namespace: 'other' })
  elsewhere.cancel()
  stream.cancel()
  const missing = exportStream({ stream: 'nobody' })
  await t.rejects(transfer(host, imageStore({ name: 'x' }), missing), {
    code: Code.NOT_FOUND,
    details: /stream "nobody"/,
  })
  await t.rejects(transfer(host, missing, imageStore({ name: 'x' })), { code: Code.UNIMPLEMENTED })
})

t.test('an archive is imported, unpacked, and runs; its names come from the archive', async t => {
  const progress = await NamedStream.open(host, 'progress-1')
  const heard = progress.progress()
  const to = imageStore({
    extraReferences: [prefix],
    labels: { stage: 'test' },
    unpacks: [{ snapshotter: 'overlayfs' }],
  })
  await importArchive(host, archive, to, { id: 'import-1', progress: 'progress-1' })
  t.match(await images(), [
    { name: busyboxName, labels: { stage: 'test' }, target: { digest: image.manifest.descriptor.digest } },
  ])
  const told = (await heard).map(({ event }) => event)
  t.ok(told.includes('Completed import'))
  const { info } = await host.rpc.call(ContentService.info, { digest: image.manifest.descriptor.digest })
  t.match(info?.labels, {
    'containerd.io/gc.ref.content.config': image.config.descriptor.digest,
    'containerd.io/gc.ref.content.l.0': image.layers[0]?.descriptor.digest,
  })
  t.same(await leases(), [])
  t.equal(
    await host.ok('run', '--rm', busyboxName, host.id('imported'), 'cat', '/etc/motd'),
    'hello from the second layer',
  )
})

t.test('another name is one call; a name that means something else is moved', async t => {
  await transfer(host, imageStore({ name: busyboxName }), imageStore({ name: 'example.com/copy:1' }))
  await transfer(
    host,
    imageStore({ name: busyboxName }),
    imageStore({ name: 'example.com/copy:1', labels: { a: 'b' } }),
  )
  t.match(
    (await images()).map(({ name }) => name),
    [busyboxName, 'example.com/copy:1'],
  )
  const unknown = transfer(host, imageStore({ name: 'nobody' }), imageStore({ name: 'x' }))
  await t.rejects(unknown, { code: Code.NOT_FOUND, details: /image "nobody"/ })
})

t.test('what is exported is imported again, byte for byte, also by ctr', async t => {
  const stream = await NamedStream.open(host, 'export-1')
  const receiving = stream.receiveBytes()
  await transfer(host, imageStore({ name: busyboxName }), exportStream({ stream: 'export-1' }))
  const bytes = await receiving
  const files = new Map<string, Buffer>()
  const extract = tar.extract()
  extract.end(bytes)
  for await (const entry of extract) {
    const pieces: Buffer[] = []
    for await (const piece of entry) if (Buffer.isBuffer(piece)) pieces.push(piece)
    files.set(entry.header.name, Buffer.concat(pieces))
  }
  for (const { descriptor, bytes } of blobsOf(image))
    t.ok(files.get(`blobs/${descriptor.digest.replace(':', '/')}`)?.equals(bytes))
  t.match(JSON.parse(String(files.get('manifest.json'))), [{ RepoTags: [busyboxName], Layers: { length: 2 } }])
  await importArchive(host, bytes, imageStore({ extraReferences: [prefix] }), { id: 'again', namespace: 'second' })
  const { images } = await host.rpc.call(ImagesService.list, { filters: [] }, { namespace: 'second' })
  t.match(images, [{ name: busyboxName, target: { digest: image.manifest.descriptor.digest } }])
})

t.test('two imports of one image at once bring it once', async t => {
  const to = imageStore({ extraReferences: [prefix], unpacks: [{ snapshotter: 'overlayfs' }] })
  const ids = ['both-1', 'both-2', 'both-3']
  await Promise.all(ids.map(id => importArchive(host, archive, to, { id, namespace: 'both' })))
  const { images } = await host.rpc.call(ImagesService.list, { filters: [] }, { namespace: 'both' })
  t.match(images, [{ name: busyboxName }])
})

t.test('what docker saves is imported', async t => {
  const path = join(host.directory, 'docker.tar')
  await writeDockerArchive(path, 'busybox:saved', await busyboxImage({ compression: 'none' }))
  await importArchive(
    host,
    readFileSync(path),
    imageStore({ extraReferences: [prefix], unpacks: [{ snapshotter: 'native' }] }),
    { id: 'docker' },
  )
  t.ok((await images()).some(({ name }) => name === 'docker.io/library/busybox:saved'))
})

t.test('what is no archive, lies about a digest or breaks off leaves nothing', async t => {
  const before = await images()
  const refused = (bytes: Buffer, id: string) => importArchive(host, bytes, imageStore({ name: 'x' }), { id })
  await t.rejects(refused(Buffer.alloc(2048, 'x'), 'no-tar'), { code: Code.INVALID_ARGUMENT })
  await t.rejects(refused(archive.subarray(0, archive.length >> 1), 'cut'), { code: Code.INVALID_ARGUMENT })
  const pack = tar.pack()
  pack.entry({ name: 'oci-layout' }, '{"imageLayoutVersion":"1.0.0"}')
  pack.entry({ name: `blobs/sha256/${'0'.repeat(64)}` }, 'not what it says')
  pack.finalize()
  await t.rejects(refused(await buffer(pack), 'lies'), { code: Code.FAILED_PRECONDITION })
  // A client that goes away in the middle.
  const stream = await NamedStream.open(host, 'gone')
  const broken = transfer(host, importStream({ stream: 'gone' }), imageStore({ name: 'x' }))
  await stream.receive()
  stream.cancel()
  await t.rejects(broken)
  t.same(await images(), before)
  t.same(await leases(), [])
  t.same((await host.rpc.call(ContentService.listStatuses, { filters: [] })).statuses, [])
})

t.test('a supervisor that is killed in the middle of an import leaves nothing of it', async t => {
  const before = await images()
  const stream = await NamedStream.open(host, 'killed')
  const cut = transfer(host, importStream({ stream: 'killed' }), imageStore({ name: 'x' }))
  cut.catch(() => {})
  await stream.receive()
  t.match(await leases(), [{ id: /^transfer-/ }])
  await host.kill()
  await t.rejects(cut, { code: Code.UNAVAILABLE })
  await host.start()
  t.same(await leases(), [])
  t.same(await images(), before)
})

t.test('nothing is left', async t => {
  await host.stop()
  t.same(await host.nothingLeft(), [])
})
