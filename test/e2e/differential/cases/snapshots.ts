// Snapshots: parents, kinds, labels, and what may be done to which kind. Upon overlayfs, which both hosts have.
import { Info, Kind, SnapshotsService } from '../../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import { type Case, kept, type Stage } from '../stage.js'
import { filterCases } from './filters.js'

const snapshotter = 'overlayfs'
const of = (key: string) => ({ snapshotter, key })

const prepare = (at: Stage, key: string, parent = '', labels: Record<string, string> = {}) =>
  at.do(SnapshotsService.prepare, { ...of(key), parent, labels: { ...kept, ...labels } })
const commit = (at: Stage, key: string, name: string, labels: Record<string, string> = {}) =>
  at.do(SnapshotsService.commit, { ...of(key), name, labels: { ...kept, ...labels } })

/** "base" is committed, "top" is committed upon it, "active" and "view" are upon that. */
async function family(at: Stage): Promise<void> {
  await prepare(at, 'k1')
  await commit(at, 'k1', 'base')
  await prepare(at, 'k2', 'base')
  await commit(at, 'k2', 'top')
  await prepare(at, 'active', 'top')
  await at.do(SnapshotsService.view, { ...of('view'), parent: 'top', labels: kept })
}

const infos = async (at: Stage) => {
  const messages = await at.host.rpc.collect(
    SnapshotsService.list,
    { snapshotter, filters: [] },
    { namespace: at.namespace },
  )
  const all = messages.flatMap(({ info }) => info).map(({ name, parent, kind }) => `${name} ${parent} ${kind}`)
  at.see('snapshots', all.sort())
}

/** A call for each member of the family, and for what is none. */
function each(name: string, act: (at: Stage, key: string) => Promise<unknown>): Case[] {
  return ['base', 'top', 'active', 'view', 'none', ''].map(key => ({
    name: `snapshots: ${name} of ${key || 'no key'}`,
    async steps(at) {
      await family(at)
      await act(at, key)
      await infos(at)
    },
  }))
}

const makings = { prepare: SnapshotsService.prepare, view: SnapshotsService.view } as const

function updating(name: string, updateMask: string[] | undefined, { labels = {}, ...info }: Partial<Info>): Case {
  return {
    name: `snapshots: update ${name}`,
    async steps(at) {
      await prepare(at, 'active', '', { a: '1', b: '2' })
      await at.call(SnapshotsService.update, {
        snapshotter,
        info: Info.fromPartial({ name: 'active', kind: Kind.ACTIVE, labels: { ...kept, ...labels }, ...info }),
        updateMask,
      })
      await at.call(SnapshotsService.stat, of('active'))
    },
  }
}

export const snapshots: Case[] = [
  ...Object.entries(makings).flatMap(([name, method]): Case[] => [
    ...each(`${name} upon`, (at, parent) => at.call(method, { ...of('new'), parent, labels: kept })),
    ...each(`${name} with the key`, (at, key) => at.call(method, { ...of(key), parent: 'top', labels: kept })),
    {
      name: `snapshots: ${name} with a label that is too long`,
      steps: at => at.call(method, { ...of('k'), labels: { k: 'v'.repeat(4096) } }),
    },
    {
      name: `snapshots: ${name} with a snapshotter that nobody has`,
      async steps(at) {
        await at.call(method, { snapshotter: 'nobody', key: 'k' })
        await at.call(method, { snapshotter: '', key: 'k' })
      },
    },
    {
      name: `snapshots: ${name} with a key that is a sentence`,
      steps: at => at.call(method, { ...of('a key, with / anything: in it'), labels: kept }),
    },
    {
      name: `snapshots: 20 ${name} one key at once`,
      async steps(at) {
        const calls = Array.from({ length: 20 }, () => at.do(method, { ...of('k'), labels: kept }))
        await at.race('outcomes', calls)
      },
    },
  ]),
  ...each('mounts', (at, key) => at.call(SnapshotsService.mounts, of(key))),
  ...each('stat', (at, key) => at.call(SnapshotsService.stat, of(key))),
  ...each('remove', (at, key) => at.call(SnapshotsService.remove, of(key))),
  ...each('commit', (at, key) => at.call(SnapshotsService.commit, { ...of(key), name: 'committed', labels: kept })),
  ...each('commit to the name', (at, name) =>
    at.call(SnapshotsService.commit, { ...of('active'), name, labels: kept }),
  ),
  ...each('usage', async (at, key) => {
    const usage = await at.do(SnapshotsService.usage, of(key)).catch((error: unknown) => error)
    await at.watch('usage', usage instanceof Error ? Promise.reject(usage) : Promise.resolve({}))
  }),
  {
    name: 'snapshots: mounts of one without a parent',
    async steps(at) {
      await at.call(SnapshotsService.prepare, { ...of('k'), labels: kept })
      await at.call(SnapshotsService.view, { ...of('v'), labels: kept })
    },
  },
  {
    name: 'snapshots: labels of the active one are not those of the committed',
    async steps(at) {
      await prepare(at, 'k', '', { a: '1' })
      await commit(at, 'k', 'base', { b: '2' })
      await at.call(SnapshotsService.stat, of('base'))
    },
  },
  {
    name: 'snapshots: commit with a label that is too long',
    async steps(at) {
      await prepare(at, 'k')
      await at.call(SnapshotsService.commit, { ...of('k'), name: 'base', labels: { k: 'v'.repeat(4096) } })
      await infos(at)
    },
  },
  {
    name: 'snapshots: remove in any order',
    async steps(at) {
      await family(at)
      for (const key of ['base', 'top', 'view', 'active', 'top', 'base'])
        await at.call(SnapshotsService.remove, of(key))
    },
  },
  {
    name: 'snapshots: keys are the namespace’s own',
    async steps(at) {
      await prepare(at, 'k')
      const other = { namespace: `${at.namespace}-other` }
      await at.call(SnapshotsService.stat, of('k'), other)
      await at.call(SnapshotsService.prepare, { ...of('k'), parent: 'none' }, other)
      // Held, so that no collection is faster than its removal.
      await at.call(SnapshotsService.prepare, { ...of('k'), labels: kept }, other)
      await at.do(SnapshotsService.remove, of('k'), other)
      await at.call(SnapshotsService.stat, of('k'))
    },
  },
  {
    name: 'snapshots: without a namespace',
    async steps(at) {
      const none = { namespace: '' }
      await at.call(SnapshotsService.prepare, of('k'), none)
      await at.call(SnapshotsService.view, of('k'), none)
      await at.call(SnapshotsService.mounts, of('k'), none)
      await at.call(SnapshotsService.commit, { ...of('k'), name: 'n' }, none)
      await at.call(SnapshotsService.remove, of('k'), none)
      await at.call(SnapshotsService.stat, of('k'), none)
      await at.call(SnapshotsService.usage, of('k'), none)
      await at.call(SnapshotsService.update, { snapshotter, info: Info.fromPartial({ name: 'k' }) }, none)
      await at.collect(SnapshotsService.list, { snapshotter }, none)
    },
  },
  {
    name: 'snapshots: with a snapshotter that nobody has',
    async steps(at) {
      const nobody = { snapshotter: 'nobody', key: 'k' }
      await at.call(SnapshotsService.mounts, nobody)
      await at.call(SnapshotsService.commit, { ...nobody, name: 'n' })
      await at.call(SnapshotsService.remove, nobody)
      await at.call(SnapshotsService.stat, nobody)
      await at.call(SnapshotsService.usage, nobody)
      await at.call(SnapshotsService.update, { snapshotter: 'nobody', info: Info.fromPartial({ name: 'k' }) })
      await at.collect(SnapshotsService.list, { snapshotter: 'nobody' })
      await at.call(SnapshotsService.cleanup, { snapshotter: 'nobody' })
    },
  },
  { name: 'snapshots: cleanup', steps: at => at.call(SnapshotsService.cleanup, { snapshotter }) },
  updating('without a mask', undefined, { labels: { c: '3' } }),
  updating('labels', ['labels'], { labels: { c: '3' } }),
  updating('one label', ['labels.a'], { labels: { a: '9', b: '9' } }),
  updating('one label away', ['labels.a'], {}),
  updating('a label with an empty value', ['labels.a'], { labels: { a: '' } }),
  updating('a label that is too long', ['labels.a'], { labels: { a: 'v'.repeat(4097) } }),
  updating('name', ['name'], { name: 'active' }),
  updating('parent', ['parent'], { parent: 'x' }),
  updating('kind', ['kind'], { kind: Kind.VIEW }),
  updating('a field that is none', ['nonsense'], {}),
  updating('what is not there', ['labels'], { name: 'none' }),
  updating('without a name', ['labels'], { name: '' }),
  { name: 'snapshots: update without info', steps: at => at.call(SnapshotsService.update, { snapshotter }) },
  {
    name: 'snapshots: 10 commit one key at once',
    async steps(at) {
      await prepare(at, 'k')
      at.order = 'chance'
      const commits = Array.from({ length: 10 }, (_, n) => commit(at, 'k', `base-${n}`))
      await at.race('commits', commits)
    },
  },
  {
    name: 'snapshots: 10 commit to one name at once',
    async steps(at) {
      const keys = Array.from({ length: 10 }, (_, n) => `k${n}`)
      at.order = 'chance'
      for (const key of keys) await prepare(at, key)
      await at.race(
        'commits',
        keys.map(key => commit(at, key, 'base')),
      )
    },
  },
  {
    name: 'snapshots: 10 remove one key at once',
    async steps(at) {
      await prepare(at, 'k')
      await at.race(
        'removes',
        Array.from({ length: 10 }, () => at.do(SnapshotsService.remove, of('k'))),
      )
    },
  },
  {
    name: 'snapshots: a parent is removed while children are prepared upon it',
    async steps(at) {
      await prepare(at, 'k')
      await commit(at, 'k', 'base')
      const children = Array.from({ length: 5 }, (_, n) => prepare(at, `c${n}`, 'base').catch(() => undefined))
      const removal = at.do(SnapshotsService.remove, of('base')).then(
        () => true,
        () => false,
      )
      const made = (await Promise.all(children)).filter(Boolean).length
      at.see('either the parent or its children are there', (await removal) ? made === 0 : made > 0)
    },
  },
  filterCases(
    'snapshots',
    (at, key, labels) => prepare(at, key, '', labels),
    async (at, filters) => {
      const request = { snapshotter, filters }
      const messages = await at.host.rpc.collect(SnapshotsService.list, request, { namespace: at.namespace })
      return messages.flatMap(({ info }) => info.map(({ name }) => name)).sort()
    },
    [
      ['name', ['name==thing-1']],
      ['kind', ['kind==active']],
      ['kind in another writing', ['kind==Active']],
      ['parent', ['parent==""']],
      ['labels alone', ['labels']],
    ],
  ),
]
