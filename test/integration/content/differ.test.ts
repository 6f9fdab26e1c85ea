// The diff service through a real server: layers from the store upon mounts, and back into the store.
import { execFileSync } from 'node:child_process'
import { chmodSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync, gzipSync } from 'node:zlib'
import { credentials, type ServiceError } from '@grpc/grpc-js'
import t from 'tap'
import { LayerWorkers, poolDefaults } from '../../../plugins/content/differ/pool.js'
import { defaultLimits } from '../../../plugins/content/layer/limits.js'
import { Code } from '../../../plugins/kit/errors.js'
import { mount } from '../../../plugins/kit/linux.js'
import { ContentService } from '../../../proto/gen/containerd/services/content/v1/content.js'
import {
  ApplyRequest,
  DiffClient,
  DiffRequest,
  DiffService,
} from '../../../proto/gen/containerd/services/diff/v1/diff.js'
import { MediaType } from '../../harness/image.js'
import { mountsBelow } from '../../harness/machine.js'
import { Arrivals, until } from '../../harness/wait.js'
import { type RawHeader, rawTar } from '../../unit/content/rawTar.js'
import { ContentHost, digestOf } from './host.js'
import { makeDirectory, scratch, treeOf } from './trees.js'

const refused = (code: Code, details: RegExp) => ({ code, message: details })
const file = (name: string, data = 'new\n'): RawHeader => ({ name, data, mtime: 77 })

interface Mount {
  type: string
  source: string
  options: string[]
}

const bind = (source: string, access = 'rw'): Mount => ({ type: 'bind', source, options: [access, 'rbind'] })
const overlay = (lowers: string[], upper?: string, work?: string): Mount => ({
  type: 'overlay',
  source: 'overlay',
  options: ['index=off', ...(upper ? [`workdir=${work}`, `upperdir=${upper}`] : []), `lowerdir=${lowers.join(':')}`],
})

const diffOf = (digest: string, mediaType: string = MediaType.layerGzip) => ({
  mediaType,
  digest,
  size: 0n,
  annotations: {},
})

async function apply(host: ContentHost, tar: Buffer, mounts: Mount[], mediaType: string = MediaType.layer) {
  const request = ApplyRequest.fromPartial({ diff: diffOf(await host.put(tar), mediaType), mounts, syncFs: true })
  return (await host.rpc.call(DiffService.apply, request, { timeoutMs: 60_000 })).applied
}

async function diff(host: ContentHost, request: Parameters<typeof DiffRequest.fromPartial>[0]) {
  return (await host.rpc.call(DiffService.diff, DiffRequest.fromPartial(request), { timeoutMs: 60_000 })).diff
}

t.test('a layer is unpacked upon a bind, an overlay and a stack of mounts', async t => {
  const host = await ContentHost.open(t)
  const at = (name: string) => makeDirectory(host.directory, name)
  const tar = rawTar({ name: 'dir', type: '5', mode: 0o755, mtime: 5 }, file('dir/file'), { name: 'dir/.wh.old' })
  const expected = { mediaType: MediaType.layer, digest: digestOf(tar), size: BigInt(tar.length) }

  t.match(await apply(host, tar, [bind(at('bind'))]), expected)
  t.same(readdirSync(at('bind/dir')), ['file'])

  t.match(
    await apply(host, gzipSync(tar), [overlay([at('lower')], at('upper'), at('work'))], MediaType.layerGzip),
    expected,
  )
  t.same(readdirSync(at('upper/dir')).sort(), ['file', 'old'], 'a whiteout is a device there')
  t.equal(readdirSync(at('lower')).length, 0)

  const zstd = execFileSync('zstd', ['-q', '-c'], { input: tar })
  t.match(await apply(host, zstd, [bind(at('below')), bind(at('above'))], MediaType.layerZstd), expected)
  t.same([readdirSync(at('below')), readdirSync(at('above'))], [[], ['dir']])
  const foreign = 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip'
  t.match(await apply(host, gzipSync(tar), [bind(at('docker'))], foreign), expected)
  t.same(treeOf(at('docker')), treeOf(at('bind')))
  t.same(readdirSync(host.state), [], 'no mount point is left')
})

t.test('what cannot be unpacked is refused with its reason', async t => {
  const host = await ContentHost.open(t, { entriesMax: 5 })
  const root = makeDirectory(host.directory, 'root')
  const call = (request: Parameters<typeof ApplyRequest.fromPartial>[0]) =>
    host.rpc.call(DiffService.apply, ApplyRequest.fromPartial(request))
  const missing = `sha256:${'0'.repeat(64)}`
  await t.rejects(call({ mounts: [bind(root)] }), refused(Code.INVALID_ARGUMENT, /descriptor/))
  await t.rejects(call({ diff: diffOf(missing) }), refused(Code.INVALID_ARGUMENT, /mounts/))
  await t.rejects(
    call({ diff: diffOf(missing), mounts: [bind(root)] }),
    refused(Code.NOT_FOUND, /content sha256:0+: not found/),
  )
  await t.rejects(
    call({ diff: diffOf('sha256:x'), mounts: [bind(root)] }),
    refused(Code.INVALID_ARGUMENT, /validation/),
  )
  await t.rejects(
    call({ diff: diffOf(missing, 'text/plain'), mounts: [bind(root)] }),
    refused(Code.UNIMPLEMENTED, /text\/plain/),
  )
  const good = rawTar(file('a'))
  await t.rejects(apply(host, good, [bind(root, 'ro')]), refused(Code.FAILED_PRECONDITION, /read-only/))
  await t.rejects(apply(host, good, [overlay([root, root])]), refused(Code.FAILED_PRECONDITION, /read-only/))
  await t.rejects(apply(host, good, [bind('relative')]), refused(Code.INVALID_ARGUMENT, /absolute/))
  await t.rejects(apply(host, good, [bind('/nowhere/at/all')]), refused(Code.UNKNOWN, /ENOENT/))
  await t.rejects(
    apply(host, Buffer.from('no tar'.repeat(200)), [bind(root)]),
    refused(Code.INVALID_ARGUMENT, /no tar header/),
  )
  await t.rejects(
    apply(host, rawTar(...Array.from({ length: 6 }, (_, i) => file(`f${i}`))), [bind(root)]),
    refused(Code.RESOURCE_EXHAUSTED, /more than 5 entries/),
  )
  const digest = await host.put(rawTar(file('damaged')))
  const path = join(host.root, 'blobs', digest.replace(':', '/'))
  chmodSync(path, 0o600)
  writeFileSync(path, rawTar(file('changed')))
  await t.rejects(
    call({ diff: diffOf(digest, MediaType.layer), mounts: [bind(root)] }),
    refused(Code.FAILED_PRECONDITION, /unexpected digest/),
  )
  await t.rejects(
    call({ diff: { ...diffOf(digest), size: 5n }, mounts: [bind(root)] }),
    refused(Code.FAILED_PRECONDITION, /its descriptor says 5/),
  )
  t.same(readdirSync(host.state), [])
})

t.test('a diff becomes a blob, with the digest of its tar beside it', async t => {
  const host = await ContentHost.open(t)
  const at = (name: string) => makeDirectory(host.directory, name)
  const [lower, upper, work, merged, base] = [at('lower'), at('upper'), at('work'), at('merged'), at('base')]
  writeFileSync(join(lower, 'kept'), 'kept\n')
  writeFileSync(join(lower, 'gone'), 'gone\n')
  mount('overlay', merged, 'overlay', 0, `lowerdir=${lower}:${base},upperdir=${upper},workdir=${work}`)
  writeFileSync(join(merged, 'new'), 'new\n')
  symlinkSync('new', join(merged, 'link'))
  rmSync(join(merged, 'gone'))
  const [left, right] = [[overlay([lower, base])], [overlay([lower, base], upper, work)]]
  const found = (layer: Buffer) => execFileSync('tar', ['-tf', '-'], { input: layer, encoding: 'utf8' }).split('\n')

  for (const [what, from] of Object.entries({ upper: left, trees: [bind(lower)] })) {
    const gzip = await diff(host, { left: from, right, ref: 'mine' })
    const blob = await host.read(gzip?.digest ?? '')
    t.match(gzip, { mediaType: MediaType.layerGzip, digest: digestOf(blob), size: BigInt(blob.length) }, what)
    t.same(gzip?.annotations, { 'containerd.io/uncompressed': digestOf(gunzipSync(blob)) })
    t.same(found(gunzipSync(blob)), ['.wh.gone', 'link', 'new', ''])
  }
  const again = await diff(host, { left, right })
  t.ok(again?.digest, 'the same difference is the same blob')
  const zstd = await diff(host, { left, right, mediaType: MediaType.layerZstd })
  t.equal(zstd?.annotations['containerd.io/uncompressed'], again?.annotations['containerd.io/uncompressed'])
  const plain = await diff(host, { left: [], right, mediaType: 'application/vnd.docker.image.rootfs.diff.tar' })
  t.same(found(await host.read(plain?.digest ?? '')), ['kept', 'link', 'new', ''], 'without an older state all is new')
  t.equal(plain?.digest, plain?.annotations['containerd.io/uncompressed'])

  const stacked = await diff(host, { left: [bind(base)], right: [bind(base), bind(lower)], mediaType: MediaType.layer })
  t.same(found(await host.read(stacked?.digest ?? '')), ['gone', 'kept', ''], 'of a stack of mounts the top is seen')
  const many = Array.from({ length: 100 }, (_, i) => at(`${'l'.repeat(60)}${i}`))
  await t.rejects(diff(host, { left: [], right: [overlay(many)] }), refused(Code.FAILED_PRECONDITION, /100 layers/))

  await t.rejects(
    diff(host, { left, right, mediaType: 'text/plain' }),
    refused(Code.UNIMPLEMENTED, /unsupported diff media type/),
  )
  await t.rejects(diff(host, { left, right: [bind('/nowhere/at/all')] }), refused(Code.UNKNOWN, /ENOENT/))
  const { statuses } = await host.rpc.call(ContentService.listStatuses, { filters: [] })
  t.same(statuses, [], 'nothing is left to resume')
  t.same(readdirSync(host.state), [])
})

t.test('a call that is cancelled stops at its next entry, and the store answers meanwhile', async t => {
  const host = await ContentHost.open(t)
  const client = new DiffClient(`unix://${join(host.directory, 'sock')}`, credentials.createInsecure())
  t.teardown(() => client.close())
  const entries = 20_000
  const tar = rawTar(...Array.from({ length: entries }, (_, i) => file(`f${i}`, `${i}`.repeat(200))))
  const digest = await host.put(tar)
  const roots = ['a', 'b', 'c'].map(name => makeDirectory(host.directory, name))
  const calls = roots.map(root => {
    const request = ApplyRequest.fromPartial({ diff: diffOf(digest, MediaType.layer), mounts: [bind(root)] })
    const ended = new Arrivals<Code>()
    const call = client.apply(request, (error: ServiceError | null) => ended.push(error?.code ?? Code.OK))
    return { cancel: () => call.cancel(), ended: () => ended.first('the end of the call', () => true) }
  })
  const made = () => roots.map(root => readdirSync(root).length)
  await until('the first files of two', () => made().filter(count => count > 0).length === 2, { timeoutMs: 60_000 })
  t.match(await host.rpc.call(ContentService.info, { digest }), { info: { digest } })
  t.equal(made()[2], 0, 'the third waits for a worker')
  for (const { cancel } of calls) cancel()
  t.same(await Promise.all(calls.map(({ ended }) => ended())), [Code.CANCELLED, Code.CANCELLED, Code.CANCELLED])
  await host.close()
  const left = made()
  t.ok(left.every(count => count < entries) && left[2] === 0, left.join())
})

t.test('a worker that runs out of memory fails its layer, and nothing else', async t => {
  const directory = scratch(t)
  const blob = join(directory, 'blob')
  writeFileSync(blob, rawTar(file('a')))
  const job = {
    kind: 'apply',
    blob,
    digest: digestOf(readFileSync(blob)),
    size: 0,
    target: { root: makeDirectory(directory, 'root') },
    limits: defaultLimits,
    sync: true,
    zstd: '',
  } as const
  const { signal } = new AbortController()
  const small = new LayerWorkers({ ...poolDefaults, heapMaxMiB: 2 })
  t.teardown(() => small.close())
  const lost = { name: 'LayerError', reason: 'exhausted', message: /the layer worker is lost/ }
  await Promise.all([1, 2, 3].map(() => t.rejects(small.run(job, signal), lost)))
  const workers = new LayerWorkers({ ...poolDefaults, idleMs: 1 })
  t.match(await workers.run(job, signal), { kind: 'applied' })
  t.match(await workers.run(job, signal), { kind: 'applied' }, 'also after the first worker was idle for too long')
  await t.rejects(workers.run(job, AbortSignal.abort()), { name: 'LayerError', reason: 'cancelled' })
  await workers.close()
  await t.rejects(workers.run(job, signal), { name: 'LayerError', reason: 'cancelled' }, 'nor after closing')
})

t.test('what a crash left mounted is taken away at the next start', async t => {
  const host = await ContentHost.open(t)
  await host.close()
  const [left, source] = [makeDirectory(host.state, 'left'), makeDirectory(host.directory, 'source')]
  writeFileSync(join(source, 'file'), 'stays\n')
  for (let i = 0; i < 2; i++) mount(source, left, 'bind', 4096, '')
  mkdirSync(join(host.state, 'empty'))
  await ContentHost.open(t, { directory: host.directory })
  t.same(readdirSync(host.state), [])
  t.same(mountsBelow(host.state), [])
  t.equal(readFileSync(join(source, 'file'), 'utf8'), 'stays\n')
})
