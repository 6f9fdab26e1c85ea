// The records of sandboxes, as a client of containerd meets them.
import t from 'tap'
import { Code } from '../../../plugins/kit/errors.js'
import { NamespacesService as Namespaces } from '../../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import { StoreService as Sandboxes } from '../../../proto/gen/containerd/services/sandbox/v1/sandbox.js'
import { Sandbox } from '../../../proto/gen/containerd/types/sandbox.js'
import { served } from './served.js'

const spec = { typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/Spec', value: Buffer.from('{"a":1}') }
const other = { ...spec, value: Buffer.from('{"a":2}') }

const pod = (change: Partial<Sandbox> = {}): Sandbox => ({
  ...Sandbox.create({ sandboxId: 'pod', sandboxer: 'shim', spec }),
  labels: { app: 'web', empty: '' },
  runtime: { name: 'io.containerd.runc.v2', options: { typeUrl: 'o', value: Buffer.from([8, 1]) } },
  extensions: { meta: { typeUrl: 'meta', value: Buffer.from('heavy') } },
  ...change,
})

t.test('a sandbox comes back as it was stored, with times of the server, in its namespace alone', async t => {
  const { rpc, reads } = await served(t)
  const { sandbox } = await rpc.call(Sandboxes.create, { sandbox: pod() })
  t.ok(sandbox)
  t.match(sandbox, { ...pod(), labels: { app: 'web' }, createdAt: { seconds: BigInt }, updatedAt: sandbox?.createdAt })
  t.same((await rpc.call(Sandboxes.get, { sandboxId: 'pod' })).sandbox, sandbox)
  t.same(reads, [], 'what was just written is not read from the disk again')
  await t.rejects(rpc.call(Sandboxes.create, { sandbox: pod() }), {
    code: Code.ALREADY_EXISTS,
    details: 'sandbox "pod": already exists',
  })
  await t.rejects(rpc.call(Sandboxes.get, { sandboxId: 'pod' }, { namespace: 'other' }), {
    code: Code.NOT_FOUND,
    details: 'sandbox "pod" in namespace "other": not found',
  })
  await t.rejects(rpc.call(Sandboxes.create, { sandbox: pod({ sandboxId: '../x' }) }), {
    code: Code.INVALID_ARGUMENT,
    details: /^failed to validate sandbox: invalid sandbox ID: /,
  })
  await t.rejects(rpc.call(Sandboxes.create, { sandbox: undefined }), { code: Code.INVALID_ARGUMENT })
})

t.test('an update changes what its paths name, and what cannot change says so', async t => {
  const { rpc, store, journal } = await served(t)
  await rpc.call(Sandboxes.create, { sandbox: pod() })
  const update = (change: Partial<Sandbox>, ...fields: string[]) =>
    rpc.call(Sandboxes.update, { sandbox: pod(change), fields })
  const record = () => store.world.namespace('default').sandboxes.get('pod')?.record

  const { sandbox } = await update({ labels: { tier: '1', app: '' }, spec: other }, 'labels.tier', 'labels.app')
  t.match(sandbox, { labels: { tier: '1' }, spec })
  t.notOk(sandbox && 'app' in sandbox.labels, 'an empty value removes a label')
  const before = record()
  await update({ extensions: { one: other } }, 'extensions.one')
  t.same(record()?.spec, before?.spec, 'the spec keeps its place')
  t.same(Object.keys(record()?.extensions ?? {}), ['meta', 'one'])
  const last = journal.last()
  await update({ extensions: { one: other }, sandboxer: 'ignored' })
  for await (const written of journal.read(last + 1n)) t.same(written.attachments, [], 'nothing heavy that is there')
  t.match(await rpc.call(Sandboxes.get, { sandboxId: 'pod' }), {
    sandbox: { spec, extensions: { one: other }, labels: { app: 'web' }, sandboxer: 'shim' },
  })
  await update({ runtime: { name: 'io.containerd.kata.v2', options: undefined } }, 'runtime')
  t.match(record(), { runtime: { name: 'io.containerd.kata.v2', options: null } })

  const refused: [Partial<Sandbox>, string[], Code, string][] = [
    [{}, [], Code.INVALID_ARGUMENT, 'sandbox.Runtime.Name field is immutable: invalid argument'],
    [{}, ['sandboxer'], Code.INVALID_ARGUMENT, 'cannot update "sandboxer" field on sandbox "pod": invalid argument'],
    [
      {},
      ['constructor'],
      Code.INVALID_ARGUMENT,
      'cannot update "constructor" field on sandbox "pod": invalid argument',
    ],
    [{ sandboxId: 'nope' }, ['spec'], Code.NOT_FOUND, 'sandbox "nope": not found'],
  ]
  for (const [change, fields, code, details] of refused) await t.rejects(update(change, ...fields), { code, details })
})

t.test('a list is sorted and filtered, and a deleted sandbox is gone', async t => {
  const { rpc } = await served(t)
  for (const sandboxId of ['b', 'a', 'c'])
    await rpc.call(Sandboxes.create, { sandbox: pod({ sandboxId, labels: { is: sandboxId } }) })
  const list = async (...filters: string[]) =>
    (await rpc.call(Sandboxes.list, { filters })).list.map(({ sandboxId }) => sandboxId).join(' ')
  t.equal(await list(), 'a b c')
  t.equal(await list('id==b', 'labels.is==c'), 'b c')
  t.equal(await list('runtime.name~=kata'), '')
  await t.rejects(list('id=='), { code: Code.INVALID_ARGUMENT })

  await rpc.call(Sandboxes.delete, { sandboxId: 'b' })
  t.equal(await list(), 'a c')
  await t.rejects(rpc.call(Sandboxes.delete, { sandboxId: 'b' }), {
    code: Code.NOT_FOUND,
    details: 'sandbox "b": not found',
  })
  await t.rejects(rpc.call(Namespaces.delete, { name: 'default' }), {
    code: Code.FAILED_PRECONDITION,
    details: 'namespace "default" must be empty, but it still has sandboxes: failed precondition',
  })
  for (const sandboxId of ['a', 'c']) await rpc.call(Sandboxes.delete, { sandboxId })
  await rpc.call(Namespaces.delete, { name: 'default' })
})
