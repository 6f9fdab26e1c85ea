// The content service through a real server: uploads that are resumed, refused, raced and given up, and reads.
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { Code } from '../../../plugins/kit/errors.js'
import { ContentService, WriteAction } from '../../../proto/gen/containerd/services/content/v1/content.js'
import type { CallSettings } from '../../harness/rpc.js'
import { until } from '../../harness/wait.js'
import { ContentHost, digestOf } from './host.js'

const { STAT, WRITE, COMMIT } = WriteAction
const bytes = randomBytes(3 << 20)
const digest = digestOf(bytes)
const total = BigInt(bytes.length)
const half = 1_500_000
const refused = (code: Code, details: RegExp) => ({ code, message: details })

const statusOf = (host: ContentHost, ref: string, settings: CallSettings = {}) =>
  host.rpc.call(ContentService.status, { ref }, settings)
const refsOf = async (host: ContentHost, filters: string[] = [], settings: CallSettings = {}) =>
  (await host.rpc.call(ContentService.listStatuses, { filters }, settings)).statuses.map(({ ref }) => ref).sort()

t.test('a blob is written, found, read in parts, listed and deleted', async t => {
  const host = await ContentHost.open(t)
  const upload = host.upload()
  const stat = await upload.send({ action: STAT, ref: 'up', total, expected: digest })
  t.match(stat, { action: STAT, offset: 0n, total, digest: digestOf(Buffer.alloc(0)) })
  t.ok(stat.startedAt)
  const first = await upload.send({ action: WRITE, data: bytes.subarray(0, half) })
  t.match(first, { action: WRITE, offset: BigInt(half), digest: digestOf(bytes.subarray(0, half)) })
  t.match((await statusOf(host, 'up')).status, { ref: 'up', offset: BigInt(half), total })
  const last = await upload.send({
    action: COMMIT,
    offset: BigInt(half),
    data: bytes.subarray(half),
    total,
    expected: digest,
  })
  t.match(last, { action: COMMIT, offset: total, digest })
  t.match((await host.rpc.call(ContentService.info, { digest })).info, { digest, size: total })
  await t.rejects(statusOf(host, 'up'), refused(Code.NOT_FOUND, /"up".*: not found/))

  const messages = await host.rpc.collect(ContentService.read, { digest, offset: 0n, size: 0n })
  t.ok(messages.every(({ data }) => data.length <= 1 << 20))
  t.same(Buffer.concat(messages.map(({ data }) => data)), bytes)
  t.same(await host.read(digest, 1000n, 5n), bytes.subarray(1000, 1005))
  t.same(await host.read(digest, total - 3n, 1000n), bytes.subarray(-3))
  t.same(await host.read(digest, -7n), bytes, 'below 0 counts as 0')
  t.same(await host.read(digest, total), Buffer.alloc(0))
  await t.rejects(host.read(digest, total + 1n), refused(Code.OUT_OF_RANGE, /read past object length 3145728 bytes/))

  const other = await host.put(Buffer.from('other'))
  const list = async (...filters: string[]) =>
    (await host.rpc.collect(ContentService.list, { filters }))
      .flatMap(({ info }) => info.map(({ digest }) => digest))
      .sort()
  t.same(await list(), [digest, other].sort())
  t.same(await list(`digest==${other}`), [other])
  t.same(await list('labels.a==b'), [])
  t.same(await list('labels.a==b', `digest!=${other}`), [digest])
  await t.rejects(list('digest~=x'), refused(Code.UNIMPLEMENTED, /~=/))
  await t.rejects(list('=='), refused(Code.INVALID_ARGUMENT, /filter/))

  await host.rpc.call(ContentService.delete, { digest })
  await t.rejects(
    host.rpc.call(ContentService.delete, { digest }),
    refused(Code.NOT_FOUND, /content sha256:\w+: not found/),
  )
  await t.rejects(host.read(digest), refused(Code.NOT_FOUND, /not found/))
  t.same(host.plugins[0]?.exports, { root: host.root })
  for (const path of ['', 'blobs', 'blobs/sha256', 'ingest'])
    t.equal(statSync(join(host.root, path)).mode & 0o777, 0o700)
})

t.test('more blobs than fit in a message are all listed', async t => {
  const host = await ContentHost.open(t)
  const written = await Promise.all(Array.from({ length: 120 }, (_, i) => host.put(Buffer.from(`blob ${i}`))))
  const messages = await host.rpc.collect(ContentService.list, { filters: [] })
  t.same(
    messages.map(({ info }) => info.length),
    [100, 20],
  )
  t.same(messages.flatMap(({ info }) => info.map(({ digest }) => digest)).sort(), written.sort())
})

t.test('an upload whose client hangs up is resumed where it was', async t => {
  const host = await ContentHost.open(t)
  const upload = host.upload()
  await upload.send({ action: WRITE, ref: 'resumed', total, data: bytes.subarray(0, half) })
  upload.hangUp()
  const resumed = await until('the lock to be released', async () => {
    const again = host.upload()
    return await again.send({ action: STAT, ref: 'resumed', total }).then(
      status => ({ again, status }),
      () => undefined,
    )
  })
  t.match(resumed.status, { offset: BigInt(half), total, digest: digestOf(bytes.subarray(0, half)) })
  const { again } = resumed
  const end = await again.send({ action: COMMIT, offset: BigInt(half), data: bytes.subarray(half), expected: digest })
  t.equal(end.digest, digest)
  t.same(readdirSync(join(host.root, 'ingest')), [])
})

t.test('an upload survives a restart, and a crash leaves nothing unusable', async t => {
  const host = await ContentHost.open(t)
  const upload = host.upload()
  await upload.send({ action: WRITE, ref: 'kept', total, data: bytes.subarray(0, half) })
  await host.close()
  const ingests = join(host.root, 'ingest')
  for (const [index, header] of ['', '{"namespace":"default","ref"', '{"ref":"no more"}'].entries()) {
    const torn = join(ingests, `${index}`.repeat(64))
    mkdirSync(torn)
    writeFileSync(join(torn, 'data'), 'x')
    if (header) writeFileSync(join(torn, 'header'), header)
  }
  mkdirSync(join(ingests, 'removed-1'))
  const next = await ContentHost.open(t, { directory: host.directory })
  t.equal(readdirSync(ingests).length, 1)
  const resumed = next.upload()
  t.match(await resumed.send({ action: STAT, ref: 'kept' }), { offset: BigInt(half), total })
  const rest = { action: COMMIT, offset: BigInt(half), data: bytes.subarray(half), expected: digest }
  t.equal((await resumed.send(rest)).digest, digest)
})

t.test('offsets tell where a write belongs: the end, or 0 to start over', async t => {
  const host = await ContentHost.open(t)
  for (const [offset, what] of [
    [1n, 'before the end'],
    [100n, 'behind it'],
  ] as const) {
    const upload = host.upload()
    await upload.send({ action: WRITE, ref: 'offsets', data: Buffer.from('abcd') })
    await t.rejects(
      upload.send({ action: WRITE, offset, data: Buffer.from('x') }),
      refused(Code.OUT_OF_RANGE, /write @\d+ must occur at current offset 4/),
      what,
    )
  }
  const upload = host.upload()
  t.match(await upload.send({ action: STAT, ref: 'offsets' }), { offset: 4n })
  t.match(await upload.send({ action: WRITE, offset: 0n, data: Buffer.from('xy') }), {
    offset: 2n,
    digest: digestOf(Buffer.from('xy')),
  })
  t.match(await upload.send({ action: COMMIT, offset: 2n }), { digest: digestOf(Buffer.from('xy')) })
})

t.test('one writer at a time for a ref, in one namespace', async t => {
  const host = await ContentHost.open(t)
  const [first, second, elsewhere] = [host.upload(), host.upload(), host.upload({ namespace: 'other' })]
  await first.send({ action: STAT, ref: 'shared' })
  await t.rejects(second.send({ action: STAT, ref: 'shared' }), refused(Code.UNAVAILABLE, /ref shared locked/))
  t.match(await elsewhere.send({ action: WRITE, ref: 'shared', data: Buffer.from('other') }), { offset: 5n })
  t.match(await first.send({ action: WRITE, data: Buffer.from('mine') }), { offset: 4n })
  t.match((await statusOf(host, 'shared', { namespace: 'other' })).status, { offset: 5n })
  await host.upload().send({ action: STAT, ref: 'second' })
  t.same(await refsOf(host), ['second', 'shared'])
  t.same(await refsOf(host, ['ref==second']), ['second'])
  t.same(await refsOf(host, ['']), ['second', 'shared'])
  t.same(await refsOf(host, [], { namespace: 'other' }), ['shared'])
  t.same(await refsOf(host, [], { namespace: 'third' }), [])
  await t.rejects(refsOf(host, [], { namespace: '' }), refused(Code.FAILED_PRECONDITION, /namespace is required/))
})

t.test('two writers of the same content: one commits, the other learns that it exists', async t => {
  const host = await ContentHost.open(t)
  const uploads = [host.upload(), host.upload()]
  await Promise.all(uploads.map((upload, i) => upload.send({ action: WRITE, ref: `twin-${i}`, data: bytes })))
  const outcomes = await Promise.all(
    uploads.map(upload =>
      upload.send({ action: COMMIT, offset: total }).then(
        () => 'committed',
        (error: { code: Code }) => error.code,
      ),
    ),
  )
  t.same(outcomes.sort(), [Code.ALREADY_EXISTS, 'committed'].sort())
  t.same(await host.read(digest), bytes)
  t.same(await refsOf(host), [])
  const late = host.upload()
  await t.rejects(
    late.send({ action: STAT, ref: 'late', expected: digest }),
    refused(Code.ALREADY_EXISTS, /already exists/),
  )
  const later = host.upload()
  await later.send({ action: WRITE, ref: 'later', data: Buffer.from('x') })
  await t.rejects(later.send({ action: STAT, expected: digest }), refused(Code.ALREADY_EXISTS, /already exists/))
  t.same(await refsOf(host), [], 'nothing is left to resume')
})

t.test('a commit is refused when size or digest are not as announced', async t => {
  const host = await ContentHost.open(t)
  const data = Buffer.from('content')
  const short = host.upload()
  await short.send({ action: WRITE, ref: 'short', total: 10n, data })
  await t.rejects(
    short.send({ action: COMMIT, offset: 7n }),
    refused(Code.FAILED_PRECONDITION, /unexpected commit size 7, expected 10/),
  )
  t.match((await statusOf(host, 'short')).status, { offset: 7n }, 'the rest may still come')
  const long = host.upload()
  await t.rejects(
    long.send({ action: WRITE, ref: 'long', total: 3n, data }),
    refused(Code.FAILED_PRECONDITION, /unexpected commit size 7, expected 3/),
  )
  const wrong = host.upload()
  await t.rejects(
    wrong.send({ action: COMMIT, ref: 'wrong', data, expected: digest }),
    refused(Code.FAILED_PRECONDITION, /unexpected commit digest sha256:\w+, expected sha256:\w+/),
  )
  t.equal((await statusOf(host, 'wrong')).status?.offset, BigInt(data.length), 'they stay until somebody aborts them')
  t.notOk(existsSync(join(host.root, 'blobs', digest.replace(':', '/'))))
  const changed = host.upload()
  await changed.send({ action: STAT, ref: 'changed', total: 7n, expected: digest })
  await t.rejects(changed.send({ action: STAT, total: 8n }), refused(Code.FAILED_PRECONDITION, /total 8 differs/))
  const other = host.upload()
  await other.send({ action: STAT, ref: 'other', expected: digest })
  await t.rejects(other.send({ action: STAT, expected: digestOf(data) }), refused(Code.FAILED_PRECONDITION, /differs/))
})

t.test('another total means another upload: it starts over', async t => {
  const host = await ContentHost.open(t)
  const upload = host.upload()
  await upload.send({ action: WRITE, ref: 'total', total: 10n, data: Buffer.from('12345') })
  upload.end()
  const again = await until('the lock to be released', async () => {
    const next = host.upload()
    return await next.send({ action: STAT, ref: 'total', total: 20n }).catch(() => undefined)
  })
  t.match(again, { offset: 0n, total: 20n })
})

t.test('digests of other algorithms are honoured, also when they are told last', async t => {
  const host = await ContentHost.open(t)
  for (const algorithm of ['sha384', 'sha512']) {
    const data = Buffer.from(algorithm)
    const expected = digestOf(data, algorithm)
    const upload = host.upload()
    await upload.send({ action: WRITE, ref: algorithm, data })
    t.match(await upload.send({ action: COMMIT, offset: 6n, expected }), { digest: expected })
    t.same(await host.read(expected), data)
    const known = host.upload()
    const [more, moreExpected] = [
      Buffer.from(`${algorithm} more`),
      digestOf(Buffer.from(`${algorithm} more`), algorithm),
    ]
    t.match(await known.send({ action: COMMIT, ref: `${algorithm}-known`, data: more, expected: moreExpected }), {
      digest: moreExpected,
    })
  }
  const empty = host.upload()
  t.match(await empty.send({ action: COMMIT, ref: 'empty' }), { offset: 0n, digest: digestOf(Buffer.alloc(0)) })
})

t.test('an abort ends an upload, and the writer that goes on learns of it', async t => {
  const host = await ContentHost.open(t)
  const abort = (ref: string) => host.rpc.call(ContentService.abort, { ref })
  await t.rejects(abort('never'), refused(Code.NOT_FOUND, /ingest ref "never": not found/))
  const upload = host.upload()
  await upload.send({ action: WRITE, ref: 'aborted', data: Buffer.from('old') })
  await abort('aborted')
  await t.rejects(statusOf(host, 'aborted'), refused(Code.NOT_FOUND, /not found/))
  const next = host.upload()
  t.match(await next.send({ action: WRITE, ref: 'aborted', data: Buffer.from('new one') }), { offset: 7n })
  await t.rejects(upload.send({ action: COMMIT, offset: 3n }), refused(Code.ABORTED, /was aborted/))
  t.match(await next.send({ action: COMMIT, offset: 7n }), { digest: digestOf(Buffer.from('new one')) })
})

t.test('what makes no sense is refused before anything is kept', async t => {
  const host = await ContentHost.open(t, { blobBytesMax: 1000 })
  const requests: [Parameters<ReturnType<ContentHost['upload']>['send']>[0], Code, RegExp][] = [
    [{ action: STAT }, Code.INVALID_ARGUMENT, /first message must have a reference/],
    [{ action: STAT, ref: 'r'.repeat(20_000) }, Code.INVALID_ARGUMENT, /ref of 20000 characters/],
    [{ action: STAT, ref: 'a', total: -1n }, Code.INVALID_ARGUMENT, /negative/],
    [{ action: STAT, ref: 'a', total: 1001n }, Code.INVALID_ARGUMENT, /limit of 1000 bytes/],
    [{ action: STAT, ref: 'a', expected: 'sha256:../../../etc/passwd' }, Code.INVALID_ARGUMENT, /failed validation/],
    [{ action: WRITE, ref: 'b', data: Buffer.alloc(1001) }, Code.RESOURCE_EXHAUSTED, /1000 bytes/],
  ]
  for (const [request, code, details] of requests) await t.rejects(host.upload().send(request), refused(code, details))
  for (const bad of ['', 'sha256:', `sha256:${'A'.repeat(64)}`, `md5:${'a'.repeat(32)}`, `sha256:${'a'.repeat(63)}/`])
    await t.rejects(
      host.rpc.call(ContentService.info, { digest: bad }),
      refused(Code.INVALID_ARGUMENT, /failed validation/),
    )
  await t.rejects(
    host.rpc.call(ContentService.update, { info: undefined, updateMask: undefined }),
    refused(Code.UNIMPLEMENTED, /labels are kept by the supervisor/),
  )
  t.same(await refsOf(host), ['b'])
  t.equal((await statusOf(host, 'b')).status?.offset, 0n)
})

t.test('a reader that stops reading stops the server, and one that leaves frees the file', async t => {
  const host = await ContentHost.open(t)
  const large = Buffer.alloc(64 << 20, 'x')
  const blob = await host.put(large)
  const stream = host.rpc.stream(ContentService.read, { digest: blob, offset: 0n, size: 0n })
  stream.on('error', () => {})
  await new Promise(resolve => stream.once('readable', resolve))
  const opened = () => readdirSync('/proc/self/fd').filter(fd => linkOf(fd).endsWith(blob.slice(7))).length
  t.equal(opened(), 1, 'it waits with the file open, and the rest of 64 MiB unread')
  stream.cancel()
  await until('the file to be closed', () => opened() === 0)
  t.same(readFileSync(join(host.root, 'blobs', blob.replace(':', '/'))).length, large.length)
})

function linkOf(fd: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`)
  } catch {
    return '' // closed meanwhile
  }
}
