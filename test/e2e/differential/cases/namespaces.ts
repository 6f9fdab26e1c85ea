// Namespaces: names, labels, and what keeps one from being deleted.
import { Container, ContainersService } from '../../../../proto/gen/containerd/services/containers/v1/containers.js'
import { ContentService, WriteAction } from '../../../../proto/gen/containerd/services/content/v1/content.js'
import { Image, ImagesService } from '../../../../proto/gen/containerd/services/images/v1/images.js'
import { LeasesService } from '../../../../proto/gen/containerd/services/leases/v1/leases.js'
import { type Namespace, NamespacesService } from '../../../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import { SnapshotsService } from '../../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import { digestOf } from '../../../harness/image.js'
import { type Case, kept, type Stage } from '../stage.js'

/** The case's own namespace is the one that is made and changed. */
const named = (at: Stage, labels: Record<string, string> = {}, name = at.namespace): Namespace => ({ name, labels })
const create = (at: Stage, labels?: Record<string, string>) =>
  at.do(NamespacesService.create, { namespace: named(at, labels) })
const get = (at: Stage) => at.call(NamespacesService.get, { name: at.namespace })

const creating = (name: string, id: string): Case => ({
  name: `namespaces: ${name}`,
  async steps(at) {
    await at.call(NamespacesService.create, { namespace: { name: id, labels: {} } })
    await at.call(NamespacesService.get, { name: id })
    await at.call(NamespacesService.update, { namespace: { name: id, labels: {} } })
    await at.call(NamespacesService.delete, { name: id })
  },
})

const updating = (name: string, updateMask: string[] | undefined, labels: Record<string, string>): Case => ({
  name: `namespaces: update ${name}`,
  async steps(at) {
    await create(at, { a: '1', b: '2' })
    await at.call(NamespacesService.update, { namespace: named(at, labels), updateMask })
    await get(at)
  },
})

const full = (what: string, fill: (at: Stage) => Promise<unknown>): Case => ({
  name: `namespaces: delete one that has ${what}`,
  async steps(at) {
    await fill(at)
    await at.call(NamespacesService.delete, { name: at.namespace })
    await get(at)
  },
})

const container = Container.fromPartial({ id: 'c', runtime: { name: 'r' }, spec: { typeUrl: 't' } })
const image = Image.fromPartial({ name: 'i', target: { mediaType: 'm', digest: digestOf(Buffer.from('i')), size: 1n } })
const makeContainer = (at: Stage) => at.do(ContainersService.create, { container })
const makeImage = (at: Stage) => at.do(ImagesService.create, { image })
const makeSnapshot = (at: Stage) =>
  at.do(SnapshotsService.prepare, { snapshotter: 'overlayfs', key: 'k', labels: kept })

export const namespaces: Case[] = [
  {
    name: 'namespaces: created, told, deleted',
    async steps(at) {
      await at.call(NamespacesService.create, { namespace: named(at, { a: '1' }) })
      await get(at)
      await at.call(NamespacesService.delete, { name: at.namespace })
      await at.call(NamespacesService.delete, { name: at.namespace })
    },
  },
  {
    name: 'namespaces: in the list, with labels',
    async steps(at) {
      await create(at, { a: '1' })
      const { namespaces } = await at.do(NamespacesService.list, {})
      at.see(
        'listed',
        namespaces.find(({ name }) => name === at.namespace),
      )
      at.see(
        'sorted',
        namespaces.every(({ name }, n) => n === 0 || (namespaces[n - 1]?.name ?? '') < name),
      )
    },
  },
  {
    name: 'namespaces: get one that was never used',
    steps: get,
  },
  {
    name: 'namespaces: create one that exists',
    async steps(at) {
      await create(at)
      await at.call(NamespacesService.create, { namespace: named(at) })
    },
  },
  {
    name: 'namespaces: create one that was used without it',
    async steps(at) {
      await makeContainer(at)
      await at.call(NamespacesService.create, { namespace: named(at) })
      await get(at)
    },
  },
  {
    name: 'namespaces: looking does not make one',
    async steps(at) {
      await at.call(ContainersService.list, {})
      const { namespaces } = await at.do(NamespacesService.list, {})
      at.see(
        'listed',
        namespaces.some(({ name }) => name === at.namespace),
      )
    },
  },
  {
    name: 'namespaces: without the metadata they are as good',
    async steps(at) {
      const none = { namespace: '' }
      await at.call(NamespacesService.create, { namespace: named(at) }, none)
      await at.call(NamespacesService.get, { name: at.namespace }, none)
      await at.call(NamespacesService.update, { namespace: named(at, { a: '1' }) }, none)
      await at.call(NamespacesService.delete, { name: at.namespace }, none)
    },
  },
  creating('no name', ''),
  creating('a slash in the name', 'a/b'),
  creating('a dot at the start', '.a'),
  creating('two dashes', 'a--b'),
  creating('a space', 'a b'),
  creating('a name of 77', 'a'.repeat(77)),
  { name: 'namespaces: create without a record', steps: at => at.call(NamespacesService.create, {}) },
  { name: 'namespaces: update without a record', steps: at => at.call(NamespacesService.update, {}) },
  {
    name: 'namespaces: create with a label that is too long',
    steps: at => at.call(NamespacesService.create, { namespace: named(at, { k: 'v'.repeat(4096) }) }),
  },
  {
    name: 'namespaces: create with an empty label value',
    async steps(at) {
      await at.call(NamespacesService.create, { namespace: named(at, { k: '' }) })
      await get(at)
    },
  },
  {
    name: 'namespaces: update one that is not there',
    async steps(at) {
      await at.call(NamespacesService.update, { namespace: named(at, { a: '1' }) })
      await get(at)
    },
  },
  updating('without a mask', undefined, { c: '3' }),
  updating('one label', ['labels.a'], { a: '9', b: '9' }),
  updating('one label away', ['labels.a'], {}),
  updating('labels', ['labels'], { c: '3' }),
  updating('name', ['name'], {}),
  updating('a field that is none', ['nonsense'], {}),
  updating('a label that is too long', ['labels.a'], { a: 'v'.repeat(4097) }),
  full('a container', makeContainer),
  full('an image', makeImage),
  full('a snapshot', makeSnapshot),
  full('a blob', at => at.blob()),
  full('a lease', at => at.do(LeasesService.create, { id: 'l' })),
  full('an upload', at => at.upload().send({ action: WriteAction.WRITE, ref: 'up', data: at.bytes() })),
  full('several things', async at => {
    await makeContainer(at)
    await makeImage(at)
    await makeSnapshot(at)
    await at.blob()
  }),
  {
    name: 'namespaces: 20 create one at once',
    async steps(at) {
      await at.race(
        'creates',
        Array.from({ length: 20 }, () => create(at)),
      )
    },
  },
  {
    name: 'namespaces: an upload that was aborted keeps none',
    async steps(at) {
      const { send, end } = at.upload()
      await send({ action: WriteAction.WRITE, ref: 'up', data: at.bytes() })
      end()
      await at.do(ContentService.abort, { ref: 'up' }).catch(() => undefined)
    },
  },
]
