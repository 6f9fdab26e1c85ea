// Content: uploads that go wrong in every way, what is read of blobs, their labels, and who sees them.
import { ContentService, WriteAction } from '../../../../proto/gen/containerd/services/content/v1/content.js'
import { LeasesService } from '../../../../proto/gen/containerd/services/leases/v1/leases.js'
import { digestOf } from '../../../harness/image.js'
import { type Case, kept, type Stage } from '../stage.js'
import { filterCases } from './filters.js'

const { STAT, WRITE, COMMIT } = WriteAction
const nowhere = digestOf(Buffer.from('nowhere'))

/** One upload: what it says, message by message, while each is answered. */
function saying(
  name: string,
  messages: (at: Stage, data: Buffer, expected: string) => Parameters<ReturnType<Stage['upload']>['say']>[0][],
): Case {
  return {
    name: `content: write: ${name}`,
    async steps(at) {
      const data = at.bytes()
      const { say, end } = at.upload()
      for (const message of messages(at, data, digestOf(data))) if (!(await say({ ref: 'up', ...message }))) break
      end()
      await at.call(ContentService.status, { ref: 'up' })
      const listed = (await at.collect(ContentService.list, {})) ?? []
      at.see(
        'blobs',
        listed.flatMap(({ info }) => info.map(({ labels }) => labels)),
      )
    },
  }
}

const labels = kept

function reading(name: string, offset: bigint, size: bigint): Case {
  return {
    name: `content: read ${name}`,
    async steps(at) {
      const digest = await at.blob()
      const parts = await at.collect(ContentService.read, { digest, offset, size })
      at.see('bytes', parts?.map(({ data }) => data.length).reduce((sum, length) => sum + length, 0) ?? 'none')
    },
  }
}

function updating(name: string, updateMask: string[] | undefined, changed: Record<string, string>): Case {
  return {
    name: `content: update ${name}`,
    async steps(at) {
      const digest = await at.blob('', { a: '1', b: '2' })
      const info = { digest, size: 7n, createdAt: undefined, updatedAt: undefined, labels: { ...kept, ...changed } }
      await at.call(ContentService.update, { info, updateMask })
      await at.call(ContentService.info, { digest })
    },
  }
}

const badDigests = {
  'an empty digest': '',
  'a word': 'word',
  'a short digest': 'sha256:abc',
  'an unknown algorithm': `md5:${'a'.repeat(32)}`,
  'what is not there': nowhere,
}

export const content: Case[] = [
  saying('all in one commit', (_, data, expected) => [
    { action: COMMIT, data, total: BigInt(data.length), expected, labels },
  ]),
  saying('two writes and a commit', (_, data, expected) => [
    { action: WRITE, data: data.subarray(0, 5), total: BigInt(data.length), expected },
    { action: WRITE, data: data.subarray(5), offset: 5n },
    { action: COMMIT, total: BigInt(data.length), expected, offset: BigInt(data.length), labels },
  ]),
  saying('without a ref', () => [{ action: STAT, ref: '' }]),
  saying('stat only', () => [{ action: STAT }]),
  saying('stat with a total and an expected digest', (_, data, expected) => [
    { action: STAT, total: BigInt(data.length), expected },
  ]),
  saying('commit of nothing at all', () => [{ action: COMMIT, labels }]),
  saying('commit of nothing, expecting the empty digest', () => [
    { action: STAT },
    { action: COMMIT, expected: digestOf(Buffer.alloc(0)), labels },
  ]),
  saying('without expectations', (_, data) => [
    { action: WRITE, data },
    { action: COMMIT, offset: BigInt(data.length), labels },
  ]),
  saying('a commit at offset 0 forgets what was written', (_, data, expected) => [
    { action: WRITE, data },
    { action: COMMIT, expected, labels },
  ]),
  saying('a digest that is not of these bytes', (_, data) => [
    { action: WRITE, data, expected: nowhere },
    { action: COMMIT, expected: nowhere, offset: BigInt(data.length) },
  ]),
  saying('a digest that is told only with the commit, and wrong', (_, data) => [
    { action: WRITE, data },
    { action: COMMIT, expected: nowhere, offset: BigInt(data.length) },
  ]),
  saying('fewer bytes than the total', (_, data, expected) => [
    { action: WRITE, data, total: BigInt(data.length + 1), expected },
    { action: COMMIT, total: BigInt(data.length + 1), expected, offset: BigInt(data.length) },
  ]),
  saying('more bytes than the total', (_, data, expected) => [
    { action: WRITE, data, total: BigInt(data.length - 1), expected },
    { action: COMMIT, total: BigInt(data.length - 1), expected, offset: BigInt(data.length) },
  ]),
  saying('a total that is told only with the commit, and wrong', (_, data, expected) => [
    { action: WRITE, data, expected },
    { action: COMMIT, total: 3n, expected, offset: BigInt(data.length) },
  ]),
  saying('a total that changes on the way', (_, data, expected) => [
    { action: STAT, total: BigInt(data.length), expected },
    { action: WRITE, data, total: 3n },
  ]),
  saying('an expected digest that changes on the way', (_, data, expected) => [
    { action: STAT, total: BigInt(data.length), expected },
    { action: WRITE, data, expected: nowhere },
  ]),
  saying('a negative total', (_, data) => [{ action: WRITE, data, total: -1n }]),
  saying('an expected digest that is none', (_, data) => [{ action: WRITE, data, expected: 'word' }]),
  saying('an expected digest that is none, with the commit', (_, data) => [
    { action: WRITE, data },
    { action: COMMIT, expected: 'word', offset: BigInt(data.length) },
  ]),
  saying('a gap', (_, data) => [
    { action: WRITE, data: data.subarray(0, 5) },
    { action: WRITE, data: data.subarray(8), offset: 8n },
  ]),
  saying('bytes that were sent already', (_, data) => [
    { action: WRITE, data: data.subarray(0, 5) },
    { action: WRITE, data: data.subarray(2), offset: 2n },
  ]),
  saying('offset 0 starts anew', (_, data, expected) => [
    { action: WRITE, data: Buffer.from('rubbish') },
    { action: WRITE, data, offset: 0n },
    { action: COMMIT, expected, offset: BigInt(data.length), labels },
  ]),
  saying('the ref changes on the way', (_, data) => [
    { action: WRITE, data },
    { action: WRITE, data: Buffer.from('more'), ref: 'other', offset: BigInt(data.length) },
  ]),
  saying('an unknown action', (_, data) => [{ action: WriteAction.UNRECOGNIZED, data }]),
  saying('a label that is too long', (_, data) => [
    { action: WRITE, data },
    { action: COMMIT, offset: BigInt(data.length), labels: { k: 'v'.repeat(4096) } },
  ]),
  saying('labels with a write are not the blob’s', (_, data) => [
    { action: WRITE, data, labels: { early: 'yes' } },
    { action: COMMIT, offset: BigInt(data.length), labels },
  ]),
  saying('commit with the last bytes and an offset', (_, data, expected) => [
    { action: WRITE, data: data.subarray(0, 5), expected },
    { action: COMMIT, data: data.subarray(5), offset: 5n, labels },
  ]),
  saying('commit at an offset that is not the end', (_, data, expected) => [
    { action: WRITE, data, expected },
    { action: COMMIT, offset: 3n, labels },
  ]),
  saying('empty writes', () => [{ action: WRITE }, { action: WRITE, offset: 0n }]),
  {
    name: 'content: write: resumed by another stream',
    async steps(at) {
      const data = at.bytes()
      const first = at.upload()
      await first.say({ action: WRITE, ref: 'up', data: data.subarray(0, 6), total: BigInt(data.length) })
      first.end()
      await settledRef(at, 'up')
      await at.call(ContentService.status, { ref: 'up' })
      const second = at.upload()
      await second.say({ action: STAT, ref: 'up' })
      await second.say({ action: WRITE, ref: 'up', data: data.subarray(6), offset: 6n })
      await second.say({ action: COMMIT, ref: 'up', expected: digestOf(data), offset: BigInt(data.length), labels })
      second.end()
    },
  },
  {
    name: 'content: write: two writers on one ref',
    async steps(at) {
      const first = at.upload()
      await first.say({ action: WRITE, ref: 'up', data: Buffer.from('abc') })
      const second = at.upload()
      await second.say({ action: WRITE, ref: 'up', data: Buffer.from('abc') })
      await first.say({ action: WRITE, ref: 'up', data: Buffer.from('def'), offset: 3n })
    },
  },
  {
    name: 'content: write: the same ref in two namespaces',
    async steps(at) {
      const first = at.upload()
      await first.say({ action: WRITE, ref: 'up', data: Buffer.from('abc') })
      const other = { namespace: `${at.namespace}-other` }
      const second = at.upload(other)
      await second.say({ action: WRITE, ref: 'up', data: Buffer.from('abc') })
      await at.call(ContentService.listStatuses, {}, other)
      second.end()
      first.end()
      await settledRef(at, 'up', other)
      await at.do(ContentService.abort, { ref: 'up' }, other)
    },
  },
  {
    name: 'content: write: what this namespace has already',
    async steps(at) {
      const expected = await at.blob()
      const data = at.bytes()
      await at.upload().say({ action: STAT, ref: 'again', expected, total: BigInt(data.length) })
      await at.upload().say({ action: COMMIT, ref: 'again2', expected, data })
      const late = at.upload()
      await late.say({ action: WRITE, ref: 'again3', data })
      await late.say({ action: COMMIT, ref: 'again3', expected, offset: BigInt(data.length) })
      await at.call(ContentService.listStatuses, {})
    },
  },
  {
    name: 'content: write: what another namespace has already needs no bytes',
    async steps(at) {
      const expected = await at.blob()
      const size = BigInt(at.bytes().length)
      const other = { namespace: `${at.namespace}-other` }
      await at.call(ContentService.info, { digest: expected }, other)
      const { say, end } = at.upload(other)
      await say({ action: STAT, ref: 'share', expected, total: size })
      await say({ action: COMMIT, ref: 'share', expected, total: size, offset: size, labels: { ...kept, mine: 'yes' } })
      end()
      await at.call(ContentService.info, { digest: expected }, other)
      await at.call(ContentService.info, { digest: expected })
      await at.do(ContentService.delete, { digest: expected }, other)
      await at.call(ContentService.info, { digest: expected })
    },
  },
  {
    name: 'content: write: without a namespace',
    steps: at => at.upload({ namespace: '' }).say({ action: STAT, ref: 'up' }),
  },
  {
    name: 'content: write: under a lease',
    async steps(at) {
      await at.do(LeasesService.create, { id: 'lease' })
      const data = at.bytes()
      const leased = at.upload({ metadata: { 'containerd-lease': 'lease' } })
      await leased.say({ action: WRITE, ref: 'up', data })
      await at.call(LeasesService.listResources, { id: 'lease' })
      await leased.say({ action: COMMIT, ref: 'up', offset: BigInt(data.length) })
      leased.end()
      await at.call(LeasesService.listResources, { id: 'lease' })
    },
  },
  {
    name: 'content: write: under a lease that is not there',
    async steps(at) {
      const leased = at.upload({ metadata: { 'containerd-lease': 'none' } })
      await leased.say({ action: WRITE, ref: 'up', data: at.bytes() })
    },
  },
  {
    name: 'content: write: 10 commit the same bytes at once',
    async steps(at) {
      const data = at.bytes()
      const uploads = Array.from({ length: 10 }, async (_, n) => {
        const { send, end } = at.upload()
        await send({ action: COMMIT, ref: `up-${n}`, data, expected: digestOf(data), labels })
        end()
      })
      await at.race('commits', uploads)
      await at.call(ContentService.info, { digest: digestOf(data) })
      await at.call(ContentService.listStatuses, {})
    },
  },
  {
    name: 'content: status of a ref that is not there',
    async steps(at) {
      await at.call(ContentService.status, { ref: 'none' })
      await at.call(ContentService.status, { ref: '' })
      await at.call(ContentService.status, { ref: 'none' }, { namespace: '' })
    },
  },
  {
    name: 'content: list of statuses, with filters',
    async steps(at) {
      for (const ref of ['b', 'a', 'layer-1']) await at.upload().send({ action: WRITE, ref, data: Buffer.from(ref) })
      for (const filters of [[], ['ref==a'], ['ref~=^layer'], ['ref!=a'], ['^layer'], ['ref==none'], ['a', 'b'], ['(']])
        await refs(at, filters)
      await at.call(ContentService.listStatuses, {}, { namespace: '' })
    },
  },
  {
    name: 'content: abort',
    async steps(at) {
      const { say, end } = at.upload()
      await say({ action: WRITE, ref: 'up', data: Buffer.from('abc') })
      end()
      await settledRef(at, 'up')
      await at.call(ContentService.abort, { ref: 'up' })
      await at.call(ContentService.status, { ref: 'up' })
      await at.call(ContentService.abort, { ref: 'up' })
      await at.call(ContentService.abort, { ref: '' })
      await at.call(ContentService.abort, { ref: 'up' }, { namespace: '' })
    },
  },
  {
    name: 'content: abort while it is written',
    async steps(at) {
      const { say } = at.upload()
      await say({ action: WRITE, ref: 'up', data: Buffer.from('abc') })
      await at.call(ContentService.abort, { ref: 'up' })
      await at.call(ContentService.status, { ref: 'up' })
    },
  },
  reading('all', 0n, 0n),
  reading('from an offset', 5n, 0n),
  reading('a part', 5n, 3n),
  reading('at the end', 20n, 0n),
  reading('beyond the end', 4000n, 0n),
  reading('beyond the end, a part', 4000n, 5n),
  reading('more than there is', 0n, 4000n),
  reading('from a negative offset', -1n, 0n),
  reading('a negative size', 0n, -1n),
  ...Object.entries(badDigests).flatMap(([name, digest]): Case[] => [
    { name: `content: info of ${name}`, steps: at => at.call(ContentService.info, { digest }) },
    { name: `content: delete ${name}`, steps: at => at.call(ContentService.delete, { digest }) },
    { name: `content: read ${name}`, steps: at => at.collect(ContentService.read, { digest }) },
    {
      name: `content: update ${name}`,
      steps: at =>
        at.call(ContentService.update, {
          info: { digest, size: 0n, createdAt: undefined, updatedAt: undefined, labels: { a: '1' } },
          updateMask: ['labels'],
        }),
    },
  ]),
  {
    name: 'content: everything without a namespace',
    async steps(at) {
      const none = { namespace: '' }
      await at.call(ContentService.info, { digest: nowhere }, none)
      await at.call(ContentService.delete, { digest: nowhere }, none)
      await at.collect(ContentService.read, { digest: nowhere }, none)
      await at.collect(ContentService.list, {}, none)
    },
  },
  { name: 'content: update without info', steps: at => at.call(ContentService.update, {}) },
  updating('without a mask', undefined, { c: '3' }),
  updating('labels', ['labels'], { c: '3' }),
  updating('one label', ['labels.a'], { a: '9', b: '9' }),
  updating('one label away', ['labels.a'], {}),
  updating('a label with an empty value', ['labels.a'], { a: '' }),
  updating('a label that is too long', ['labels.a'], { a: 'v'.repeat(4097) }),
  updating('digest', ['digest'], {}),
  updating('size', ['size'], {}),
  updating('an empty path', [''], {}),
  updating('a field that is none', ['nonsense'], {}),
  {
    name: 'content: delete, then it is gone',
    async steps(at) {
      const digest = await at.blob()
      await at.call(ContentService.delete, { digest })
      await at.call(ContentService.info, { digest })
      await at.collect(ContentService.read, { digest })
      await at.call(ContentService.delete, { digest })
    },
  },
  {
    name: 'content: 10 delete one blob at once',
    async steps(at) {
      const digest = await at.blob()
      await at.race(
        'deletes',
        Array.from({ length: 10 }, () => at.do(ContentService.delete, { digest })),
      )
    },
  },
  {
    name: 'content: a long list comes in several messages',
    async steps(at) {
      for (let n = 0; n < 105; n++) await at.blob(String(n))
      const messages = await at.host.rpc.collect(ContentService.list, { filters: [] }, { namespace: at.namespace })
      at.see(
        'sizes',
        messages.map(({ info }) => info.length),
      )
    },
  },
  filterCases(
    'content',
    (at, text, labels) => at.blob(text, labels),
    async (at, filters) => {
      const messages = await at.host.rpc.collect(ContentService.list, { filters }, { namespace: at.namespace })
      return messages.flatMap(({ info }) => info.map(({ digest }) => digest)).sort()
    },
    [
      ['size', ['size==1']],
      ['digest by pattern', ['digest~=^sha256:']],
      ['digest that is not there', [`digest==${nowhere}`]],
      ['labels alone', ['labels']],
    ],
  ),
]

async function refs(at: Stage, filters: string[]): Promise<void> {
  const found = at.do(ContentService.listStatuses, { filters })
  await at.watch(
    'Content/ListStatuses',
    found.then(({ statuses }) => statuses.map(({ ref }) => ref).sort()),
  )
}

/** Waits until no stream holds the ref: an upload that ended is let go of a moment later. */
async function settledRef(at: Stage, ref: string, settings = {}): Promise<void> {
  for (;;) {
    const { send, finish } = at.upload(settings)
    const free = await send({ action: STAT, ref }).then(
      () => true,
      () => false,
    )
    await finish().catch(() => undefined)
    if (free) return
  }
}
