// Containers: records, which fields of them may change, and who may delete them when.
import { Container, ContainersService } from '../../../../proto/gen/containerd/services/containers/v1/containers.js'
import { Any } from '../../../../proto/gen/google/protobuf/any.js'
import type { Case, Stage } from '../stage.js'
import { filterCases } from './filters.js'

const any = (text: string) => Any.fromPartial({ typeUrl: 'test', value: Buffer.from(text) })

function record(fields: Parameters<typeof Container.fromPartial>[0] = {}): Container {
  return Container.fromPartial({
    ...{ id: 'one', image: 'img', runtime: { name: 'io.containerd.runc.v2' }, spec: any('spec') },
    ...{ snapshotter: 'overlayfs', snapshotKey: 'snap', labels: { a: '1', b: '2' }, extensions: { x: any('ext') } },
    ...fields,
  })
}

const create = (at: Stage, fields?: Parameters<typeof Container.fromPartial>[0]) =>
  at.do(ContainersService.create, { container: record(fields) })

const get = (at: Stage, id = 'one') => at.call(ContainersService.get, { id })

function creating(name: string, container: Container | undefined): Case {
  return { name: `containers: create ${name}`, steps: at => at.call(ContainersService.create, { container }) }
}

function updating(
  name: string,
  updateMask: string[] | undefined,
  fields: Parameters<typeof Container.fromPartial>[0],
): Case {
  return {
    name: `containers: update ${name}`,
    async steps(at) {
      await create(at)
      await at.call(ContainersService.update, { container: record(fields), updateMask })
      await get(at)
    },
  }
}

export const containers: Case[] = [
  creating('answers the record', record()),
  creating('without a record', undefined),
  creating('without an id', record({ id: '' })),
  creating('with a slash in the id', record({ id: 'a/b' })),
  creating('with a dot at the start of the id', record({ id: '.a' })),
  creating('with a dash at the end of the id', record({ id: 'a-' })),
  creating('with two dots in the id', record({ id: 'a..b' })),
  creating('with a space in the id', record({ id: 'a b' })),
  creating('with an id of 76', record({ id: 'a'.repeat(76) })),
  creating('with an id of 77', record({ id: 'a'.repeat(77) })),
  creating('without a runtime', record({ runtime: undefined })),
  creating('with a nameless runtime', record({ runtime: { name: '' } })),
  creating('with runtime options', record({ runtime: { name: 'r', options: any('o') } })),
  creating('without a spec', record({ spec: undefined })),
  creating('with a snapshot key but no snapshotter', record({ snapshotter: '' })),
  creating('with a snapshotter that nobody has', record({ snapshotter: 'nobody' })),
  creating('with a nameless extension', record({ extensions: { '': any('x') } })),
  creating('with a label of 4096', record({ labels: { k: 'v'.repeat(4095) } })),
  creating('with a label of 4097', record({ labels: { k: 'v'.repeat(4096) } })),
  creating('with an empty label value', record({ labels: { k: '' } })),
  creating('with an empty label key', record({ labels: { '': 'v' } })),
  creating('without an image', record({ image: '' })),
  {
    name: 'containers: create one that exists',
    async steps(at) {
      await create(at)
      await at.call(ContainersService.create, { container: record({ image: 'other' }) })
      await get(at)
    },
  },
  {
    name: 'containers: the same id in another namespace is another container',
    async steps(at) {
      await create(at)
      const other = { namespace: `${at.namespace}-other` }
      await at.call(ContainersService.get, { id: 'one' }, other)
      await at.call(ContainersService.create, { container: record() }, other)
      await at.do(ContainersService.delete, { id: 'one' }, other)
      await get(at)
    },
  },
  ...(['get', 'delete'] as const).flatMap((method): Case[] => [
    {
      name: `containers: ${method} what is not there`,
      steps: at => at.call<{ id: string }, unknown>(ContainersService[method], { id: 'none' }),
    },
    {
      name: `containers: ${method} without an id`,
      steps: at => at.call<{ id: string }, unknown>(ContainersService[method], { id: '' }),
    },
    {
      name: `containers: ${method} with an id that cannot be`,
      steps: at => at.call<{ id: string }, unknown>(ContainersService[method], { id: 'a/b' }),
    },
    {
      name: `containers: ${method} without a namespace`,
      steps: at => at.call<{ id: string }, unknown>(ContainersService[method], { id: 'one' }, { namespace: '' }),
    },
    {
      name: `containers: ${method} in a namespace that cannot be`,
      steps: at => at.call<{ id: string }, unknown>(ContainersService[method], { id: 'one' }, { namespace: 'a/b' }),
    },
  ]),
  {
    name: 'containers: list without a namespace',
    steps: at => at.call(ContainersService.list, {}, { namespace: '' }),
  },
  {
    name: 'containers: list stream without a namespace',
    steps: at => at.collect(ContainersService.listStream, {}, { namespace: '' }),
  },
  {
    name: 'containers: create without a namespace',
    steps: at => at.call(ContainersService.create, { container: record() }, { namespace: '' }),
  },
  {
    name: 'containers: update without a namespace',
    steps: at => at.call(ContainersService.update, { container: record() }, { namespace: '' }),
  },
  {
    name: 'containers: list and stream are sorted by id',
    async steps(at) {
      for (const id of ['b', 'a', 'c', 'B']) await create(at, { id })
      await at.call(ContainersService.list, {})
      await at.collect(ContainersService.listStream, {})
      await at.collect(ContainersService.listStream, { filters: ['id==b', 'id==c'] })
    },
  },
  {
    name: 'containers: list stream with a filter that is none',
    steps: at => at.collect(ContainersService.listStream, { filters: ['id=='] }),
  },
  {
    name: 'containers: delete, then it is gone',
    async steps(at) {
      await create(at)
      await at.call(ContainersService.delete, { id: 'one' })
      await get(at)
      await at.call(ContainersService.delete, { id: 'one' })
    },
  },
  updating('without a mask replaces what may change', undefined, {
    ...{
      labels: { c: '3' },
      image: 'other',
      spec: any('other'),
      snapshotKey: 'other',
      extensions: { y: any('other') },
    },
  }),
  updating('without a mask refuses another snapshotter', undefined, { snapshotter: 'native' }),
  updating('without a mask refuses another runtime', undefined, { runtime: { name: 'other' } }),
  updating('without a mask, other runtime options', undefined, {
    runtime: { name: 'io.containerd.runc.v2', options: any('o') },
  }),
  updating('without a mask, no runtime', undefined, { runtime: undefined }),
  updating('without a mask, no spec', undefined, { spec: undefined }),
  updating('labels', ['labels'], { labels: { c: '3' }, image: 'other' }),
  updating('one label', ['labels.a'], { labels: { a: '9', b: '9' } }),
  updating('one label away', ['labels.a'], { labels: {} }),
  updating('one label with dots', ['labels.a.b.c'], { labels: { 'a.b.c': 'yes' } }),
  updating('a label with an empty value', ['labels.a'], { labels: { a: '' } }),
  updating('a label that is too long', ['labels.a'], { labels: { a: 'v'.repeat(4097) } }),
  updating('image', ['image'], { image: 'other', labels: {} }),
  updating('spec', ['spec'], { spec: any('other') }),
  updating('spec away', ['spec'], { spec: undefined }),
  updating('extensions', ['extensions'], { extensions: { y: any('y') } }),
  updating('one extension', ['extensions.x'], { extensions: { x: any('new') } }),
  updating('one extension away', ['extensions.x'], { extensions: {} }),
  updating('snapshot key', ['snapshotkey'], { snapshotKey: 'other' }),
  updating('snapshot_key', ['snapshot_key'], { snapshotKey: 'other' }),
  updating('snapshotter', ['snapshotter'], { snapshotter: 'native' }),
  updating('runtime', ['runtime'], { runtime: { name: 'other' } }),
  updating('runtime.name', ['runtime.name'], { runtime: { name: 'other' } }),
  updating('id', ['id'], {}),
  updating('created_at', ['created_at'], {}),
  updating('a field that is none', ['nonsense'], {}),
  updating('an empty path', [''], {}),
  updating('two paths, one of them wrong', ['labels', 'runtime'], { labels: { c: '3' } }),
  {
    name: 'containers: update what is not there',
    steps: at => at.call(ContainersService.update, { container: record() }),
  },
  {
    name: 'containers: update without an id',
    steps: at => at.call(ContainersService.update, { container: record({ id: '' }) }),
  },
  {
    name: 'containers: update without a record',
    steps: at => at.call(ContainersService.update, { container: undefined }),
  },
  {
    name: 'containers: 50 create one id at once',
    async steps(at) {
      await at.race(
        'creates',
        Array.from({ length: 50 }, () => create(at)),
      )
      await get(at)
    },
  },
  {
    name: 'containers: 20 delete one id at once',
    async steps(at) {
      await create(at)
      const deletes = Array.from({ length: 20 }, () => at.do(ContainersService.delete, { id: 'one' }))
      await at.race('deletes', deletes)
    },
  },
  {
    name: 'containers: 20 update one label each at once, and none is lost',
    async steps(at) {
      await create(at, { labels: {} })
      const one = (n: number) => record({ labels: { [`l${n}`]: 'x' } })
      const updates = Array.from({ length: 20 }, (_, n) =>
        at.do(ContainersService.update, { container: one(n), updateMask: [`labels.l${n}`] }),
      )
      await at.race('updates', updates)
      at.order = 'chance'
      const { container } = await at.do(ContainersService.get, { id: 'one' })
      at.see('labels', Object.keys(container?.labels ?? {}).sort())
    },
  },
  filterCases(
    'containers',
    (at, id, labels) => create(at, { id, labels }),
    async (at, filters) => (await at.do(ContainersService.list, { filters })).containers.map(({ id }) => id),
    [
      ['id', ['id==thing-1']],
      ['id by pattern', ['id~=thing-[12]']],
      ['image', ['image==img']],
      ['runtime name', ['runtime.name==io.containerd.runc.v2']],
      ['runtime alone', ['runtime==io.containerd.runc.v2']],
      ['labels alone', ['labels']],
    ],
  ),
]
