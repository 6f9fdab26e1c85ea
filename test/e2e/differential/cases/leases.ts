// Leases: what keeps things from garbage collection.
import { LeasesService } from '../../../../proto/gen/containerd/services/leases/v1/leases.js'
import { SnapshotsService } from '../../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import { digestOf } from '../../../harness/image.js'
import type { Case, Stage } from '../stage.js'
import { filterCases } from './filters.js'

const create = (at: Stage, id = 'one', labels: Record<string, string> = {}) =>
  at.do(LeasesService.create, { id, labels })

const creating = (name: string, id: string, labels: Record<string, string> = {}): Case => ({
  name: `leases: create ${name}`,
  steps: at => at.call(LeasesService.create, { id, labels }),
})

const resource = (name: string, type: string, id: string): Case => ({
  name: `leases: resource ${name}`,
  async steps(at) {
    await create(at)
    await at.call(LeasesService.addResource, { id: 'one', resource: { type, id } })
    await at.call(LeasesService.addResource, { id: 'one', resource: { type, id } })
    await at.call(LeasesService.listResources, { id: 'one' })
    await at.call(LeasesService.deleteResource, { id: 'one', resource: { type, id } })
    await at.call(LeasesService.deleteResource, { id: 'one', resource: { type, id } })
    await at.call(LeasesService.listResources, { id: 'one' })
  },
})

const digest = digestOf(Buffer.from('leased'))

export const leases: Case[] = [
  creating('answers the lease', 'one', { a: '1' }),
  creating('with a slash in the id', 'a/b'),
  creating('with a colon in the id', 'moby-image-sha256:abc'),
  creating('with a space in the id', 'a b'),
  creating('with a long id', 'a'.repeat(100)),
  creating('with an empty label value', 'one', { a: '' }),
  creating('with a label that is too long', 'one', { k: 'v'.repeat(4096) }),
  creating('with an expiry', 'one', { 'containerd.io/gc.expire': '2999-01-01T00:00:00Z' }),
  {
    name: 'leases: create without an id',
    async steps(at) {
      const id = await at.do(LeasesService.create, { id: '' }).then(
        ({ lease }) => lease?.id ?? '',
        () => 'refused',
      )
      at.see('has an id', id !== '' && id !== 'refused')
    },
  },
  {
    name: 'leases: create one that exists',
    async steps(at) {
      await create(at)
      await at.call(LeasesService.create, { id: 'one' })
    },
  },
  {
    name: 'leases: delete, then it is gone',
    async steps(at) {
      await create(at)
      await at.call(LeasesService.delete, { id: 'one' })
      await at.call(LeasesService.delete, { id: 'one' })
      await at.call(LeasesService.list, {})
    },
  },
  {
    name: 'leases: delete and wait for the garbage collection',
    async steps(at) {
      await create(at)
      await at.call(LeasesService.delete, { id: 'one', sync: true })
    },
  },
  {
    name: 'leases: what is not there',
    async steps(at) {
      await at.call(LeasesService.delete, { id: 'none' })
      await at.call(LeasesService.listResources, { id: 'none' })
      await at.call(LeasesService.addResource, { id: 'none', resource: { type: 'content', id: digest } })
      await at.call(LeasesService.deleteResource, { id: 'none', resource: { type: 'content', id: digest } })
    },
  },
  {
    name: 'leases: without an id',
    async steps(at) {
      await at.call(LeasesService.delete, { id: '' })
      await at.call(LeasesService.listResources, { id: '' })
      await at.call(LeasesService.addResource, { id: '', resource: { type: 'content', id: digest } })
    },
  },
  {
    name: 'leases: without a namespace',
    async steps(at) {
      const none = { namespace: '' }
      await at.call(LeasesService.create, { id: 'one' }, none)
      await at.call(LeasesService.delete, { id: 'one' }, none)
      await at.call(LeasesService.list, {}, none)
      await at.call(LeasesService.listResources, { id: 'one' }, none)
      await at.call(LeasesService.addResource, { id: 'one', resource: { type: 'content', id: digest } }, none)
      await at.call(LeasesService.deleteResource, { id: 'one', resource: { type: 'content', id: digest } }, none)
    },
  },
  resource('content', 'content', digest),
  resource('content with an id that is no digest', 'content', 'word'),
  resource('ingests', 'ingests', 'ref'),
  resource('snapshots', 'snapshots/overlayfs', 'key'),
  resource('snapshots without a snapshotter', 'snapshots', 'key'),
  resource('snapshots with an empty snapshotter', 'snapshots/', 'key'),
  resource('snapshots with a longer type', 'snapshots/a/b', 'key'),
  resource('of an unknown type', 'nonsense', 'x'),
  resource('without a type', '', 'x'),
  resource('without an id', 'ingests', ''),
  resource('content with a longer type', 'content/a', digest),
  {
    name: 'leases: several resources are listed in order',
    async steps(at) {
      await create(at)
      for (const [type, id] of [
        ['snapshots/overlayfs', 'b'],
        ['ingests', 'x'],
        ['snapshots/native', 'c'],
        ['content', digest],
        ['snapshots/overlayfs', 'a'],
      ] as const)
        await at.do(LeasesService.addResource, { id: 'one', resource: { type, id } })
      const listed = await at.do(LeasesService.listResources, { id: 'one' })
      at.see('resources', listed.resources.map(({ type, id }) => `${type} ${id}`).sort())
    },
  },
  {
    name: 'leases: a snapshot made under a lease belongs to it',
    async steps(at) {
      await create(at)
      const leased = { metadata: { 'containerd-lease': 'one' } }
      await at.do(SnapshotsService.prepare, { snapshotter: 'overlayfs', key: 'k' }, leased)
      await at.call(LeasesService.listResources, { id: 'one' })
      await at.do(SnapshotsService.remove, { snapshotter: 'overlayfs', key: 'k' })
      await at.call(LeasesService.listResources, { id: 'one' })
    },
  },
  {
    name: 'leases: a snapshot made under a lease that is not there',
    steps: at =>
      at.call(
        SnapshotsService.prepare,
        { snapshotter: 'overlayfs', key: 'k' },
        { metadata: { 'containerd-lease': 'none' } },
      ),
  },
  {
    name: 'leases: 50 create one id at once',
    async steps(at) {
      await at.race(
        'creates',
        Array.from({ length: 50 }, () => create(at)),
      )
    },
  },
  filterCases(
    'leases',
    (at, id, labels) => create(at, id, labels),
    async (at, filters) => (await at.do(LeasesService.list, { filters })).leases.map(({ id }) => id).sort(),
    [
      ['id', ['id==thing-1']],
      ['labels alone', ['labels']],
    ],
  ),
]
