// What nothing holds any more goes by itself, and what something holds stays: images, leases, labels, containers.
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { ContentService, WriteAction } from '../../proto/gen/containerd/services/content/v1/content.js'
import { CreateRequest, LeasesService } from '../../proto/gen/containerd/services/leases/v1/leases.js'
import { NamespacesService } from '../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import { PrepareSnapshotRequest, SnapshotsService } from '../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import { Upload, writeBlob } from '../harness/content.js'
import { busyboxImage, busyboxName, digestOf, type Entry } from '../harness/image.js'
import { registry } from '../harness/registry.js'
import { purserOnly, supervisor } from '../harness/supervisor.js'
import { table } from '../harness/table.js'
import { until } from '../harness/wait.js'

const host = await supervisor(t)
const file = (path: string, text: string): Entry => ({ kind: 'file', path, text })
const image = await busyboxImage()
const bigger = await busyboxImage({ name: 'docker.io/library/bigger:1', layers: [[file('etc/more', 'yes\n')]] })

const [blobFiles, snapshotFiles] =
  host.kind === 'containerd'
    ? ['io.containerd.content.v1.content/blobs/sha256', 'io.containerd.snapshotter.v1.overlayfs/snapshots']
    : ['content/blobs/sha256', 'snapshots/overlayfs/snapshots']
const filesIn = (path: string) => {
  try {
    return readdirSync(join(host.root, path)).length
  } catch {
    return 0
  }
}
const blobs = async () => table(await host.ok('content', 'ls')).map(({ DIGEST = '' }) => DIGEST)
const snapshots = async () => table(await host.ok('snapshots', 'ls')).map(({ KEY = '' }) => KEY)
const collect = async () => {
  await host.ok('leases', 'create', '--id', 'collect')
  await host.ok('leases', 'rm', '--sync', 'collect')
}
const nothing = async () => [await blobs(), await snapshots(), filesIn(blobFiles), filesIn(snapshotFiles)]

t.test('images rm --sync answers when blobs, snapshots and their files are gone', async t => {
  await host.load(image)
  t.equal(filesIn(snapshotFiles), 2)
  await host.ok('images', 'rm', '--sync', busyboxName)
  t.same(await nothing(), [[], [], 0, 0])
})

t.test('images rm frees the same soon after', async () => {
  await host.load(image)
  await host.ok('images', 'rm', busyboxName)
  await until('everything to be gone', async () => (await nothing()).flat().every(left => left === 0))
})

t.test('what another image shares stays for it, and still runs', async t => {
  await host.load(image)
  await host.load(bigger)
  t.equal((await snapshots()).length, 3)
  await host.ok('images', 'rm', '--sync', bigger.name)
  t.equal((await snapshots()).length, 2)
  t.match(table(await host.ok('images', 'check')), [{ REF: busyboxName, STATUS: 'complete (3/3)', UNPACKED: 'true' }])
  t.equal(await host.ok('run', '--rm', busyboxName, host.id('shares'), 'echo', 'runs'), 'runs')
})

t.test('what a container stands on stays without its image, until the container goes', async t => {
  const id = host.id('stands')
  await host.ok('run', '--detach', busyboxName, id, 'sleep', '1000')
  await host.ok('images', 'rm', '--sync', busyboxName)
  t.same(await blobs(), [])
  t.equal((await snapshots()).length, 3, 'its own, and the two below')
  await host.ok('tasks', 'exec', '--exec-id', 'look', id, 'cat', '/etc/motd')
  await host.ok('tasks', 'kill', '--signal', 'KILL', id)
  await until('the task to have ended', async () => (await host.ctr('tasks', 'rm', id)).code === 0)
  await host.ok('containers', 'rm', id)
  await collect()
  t.same(await nothing(), [[], [], 0, 0])
})

t.test('a lease holds what was made under it, and what it was given; its end frees both', async t => {
  await host.call(LeasesService.create, CreateRequest.fromPartial({ id: 'mine' }))
  const under = { metadata: { 'containerd-lease': 'mine' } }
  const [bytes, key] = [Buffer.from('held'), 'held']
  const upload = new Upload(host, under)
  const expected = digestOf(bytes)
  await upload.send({ action: WriteAction.COMMIT, ref: 'held', total: 4n, expected, data: bytes })
  upload.end()
  await host.call(
    SnapshotsService.prepare,
    PrepareSnapshotRequest.fromPartial({ snapshotter: 'overlayfs', key }),
    under,
  )
  await collect()
  t.same([await blobs(), await snapshots()], [[expected], [key]])
  await host.ok('leases', 'rm', '--sync', 'mine')
  t.same(await nothing(), [[], [], 0, 0])
})

t.test('a blob that is there already is held by the lease under which it is written again', async t => {
  const bytes = Buffer.from('there already')
  const expected = await writeBlob(host, bytes)
  await host.call(LeasesService.create, CreateRequest.fromPartial({ id: 'again' }))
  const upload = new Upload(host, { metadata: { 'containerd-lease': 'again' } })
  const total = BigInt(bytes.length)
  await t.rejects(upload.send({ action: WriteAction.STAT, ref: 'again', total, expected }), { code: 6 })
  await host.ok('content', 'label', expected, 'containerd.io/gc.root=')
  await collect()
  t.same(await blobs(), [expected])
  await host.ok('leases', 'rm', '--sync', 'again')
  t.same(await blobs(), [])
})

t.test('a lease that has expired holds nothing, and is gone itself', async t => {
  const labels = { 'containerd.io/gc.expire': new Date(Date.now() + 2_000).toISOString() }
  await host.call(LeasesService.create, CreateRequest.fromPartial({ id: 'short', labels }))
  const request = PrepareSnapshotRequest.fromPartial({ snapshotter: 'overlayfs', key: 'short' })
  await host.call(SnapshotsService.prepare, request, { metadata: { 'containerd-lease': 'short' } })
  await collect()
  t.same(await snapshots(), ['short'])
  await until('the lease to expire', async () => {
    // Nobody has to ask Purser for it.
    if (host.kind === 'containerd') await collect()
    return (await snapshots()).length === 0
  })
  t.same(table(await host.ok('leases', 'ls')), [])
})

t.test('a root label holds a snapshot with what is below it, and a blob with what it refers to', async t => {
  const prepare = (key: string, labels: Record<string, string>) =>
    host.call(SnapshotsService.prepare, PrepareSnapshotRequest.fromPartial({ snapshotter: 'overlayfs', key, labels }))
  await prepare('root', { 'containerd.io/gc.root': 'yes' })
  await prepare('referred', { 'containerd.io/gc.root': 'yes' })
  const root = await writeBlob(host, Buffer.from('root'), { 'containerd.io/gc.ref.snapshot.overlayfs': 'referred' })
  await host.ok('snapshots', 'label', 'referred', 'containerd.io/gc.root=')
  await collect()
  t.same((await snapshots()).sort(), ['referred', 'root'])
  await host.ok('content', 'rm', root)
  await host.ok('snapshots', 'rm', 'root')
  await until('the other to follow', async () => (await snapshots()).length === 0)
})

t.test('blobs that namespaces share go with the last of them', async t => {
  const elsewhere = { namespace: 'elsewhere' }
  const expected = await writeBlob(host, Buffer.from('shared'))
  const upload = new Upload(host, elsewhere)
  const labels = { 'containerd.io/gc.root': 'yes' }
  const { offset } = await upload.send({ action: WriteAction.STAT, ref: 'shared', total: 6n, expected })
  await upload.send({ action: WriteAction.COMMIT, ref: 'shared', total: 6n, offset, expected, labels })
  upload.end()
  await host.ok('content', 'rm', expected)
  await collect()
  t.same([await blobs(), filesIn(blobFiles)], [[], 1])
  await host.call(ContentService.delete, { digest: expected }, elsewhere)
  await collect()
  t.equal(filesIn(blobFiles), 0)
  await host.call(NamespacesService.delete, { name: 'elsewhere' })
})

t.test('pulls beside removals never lose a layer', async t => {
  const source = await registry(t)
  const images = await Promise.all(
    ['a', 'b', 'c'].map(async name => source.push(await busyboxImage({ layers: [[file('etc/name', name)]] }), name)),
  )
  const pull = async (reference: string) => {
    for (let round = 0; round < 2; round++) {
      await host.ok('images', 'pull', '--plain-http', reference)
      t.match(table(await host.ok('images', 'check', `name==${reference}`)), [
        { STATUS: 'complete (4/4)', UNPACKED: 'true' },
      ])
      await host.ok('images', 'rm', ...(round % 2 ? ['--sync'] : []), reference)
    }
  }
  await Promise.all(images.map(pull))
  await collect()
  t.same(await nothing(), [[], [], 0, 0])
})

t.test('what is collected is told as containerd tells it, and counted', { skip: purserOnly }, async t => {
  await host.load(image)
  const events = await host.events()
  await host.ok('images', 'rm', '--sync', busyboxName)
  await events.first('/snapshot/remove')
  t.same(
    events.topics(({ topic }) => topic.startsWith('/content/')),
    [],
  )
  const metrics = await (await fetch(host.launch.metricsUrl ?? '')).text()
  t.match(metrics, /purser_gc_removed_total\{type="blobs"\} [1-9]/)
  t.match(metrics, /purser_gc_removed_total\{type="snapshots"\} [1-9]/)
  t.match(metrics, /purser_gc_duration_seconds_count [1-9]/)
  t.ok(host.log.items.some(({ msg }) => msg === 'garbage was collected'))
})

t.test('garbage that was there when the supervisor ended goes after its next start', { skip: purserOnly }, async () => {
  await host.load(image)
  await host.ok('images', 'rm', busyboxName)
  await host.kill()
  await host.start()
  await until('everything to be gone', async () => (await nothing()).flat().every(left => left === 0))
})
