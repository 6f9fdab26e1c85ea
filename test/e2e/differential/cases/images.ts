// Images: names for what lies in the content store.
import { Image, ImagesService } from '../../../../proto/gen/containerd/services/images/v1/images.js'
import { digestOf } from '../../../harness/image.js'
import type { Case, Stage } from '../stage.js'
import { filterCases } from './filters.js'

const digest = digestOf(Buffer.from('manifest'))
const other = digestOf(Buffer.from('other'))
const target = { mediaType: 'application/vnd.oci.image.manifest.v1+json', digest, size: 10n, annotations: { x: '1' } }

type Fields = Parameters<typeof Image.fromPartial>[0]
const image = (fields: Fields = {}) => Image.fromPartial({ name: 'img', labels: { a: '1', b: '2' }, target, ...fields })

const create = (at: Stage, fields: Fields = {}) => at.do(ImagesService.create, { image: image(fields) })
const get = (at: Stage, name = 'img') => at.call(ImagesService.get, { name })

const creating = (name: string, fields: Fields): Case => ({
  name: `images: create ${name}`,
  steps: at => at.call(ImagesService.create, { image: image(fields) }),
})

const updating = (name: string, updateMask: string[] | undefined, fields: Fields): Case => ({
  name: `images: update ${name}`,
  async steps(at) {
    await create(at)
    await at.call(ImagesService.update, { image: image(fields), updateMask })
    await get(at)
  },
})

export const images: Case[] = [
  creating('answers the record', {}),
  creating('without a name', { name: '' }),
  creating('with a name that is a sentence', { name: 'a name, with / anything: in it' }),
  creating('without a target', { target: undefined }),
  creating('without a digest', { target: { ...target, digest: '' } }),
  creating('with a digest that is none', { target: { ...target, digest: 'word' } }),
  creating('with a short digest', { target: { ...target, digest: 'sha256:abc' } }),
  creating('with an unknown algorithm', { target: { ...target, digest: `md5:${'a'.repeat(32)}` } }),
  creating('with a size of 0', { target: { ...target, size: 0n } }),
  creating('with a negative size', { target: { ...target, size: -1n } }),
  creating('without a media type', { target: { ...target, mediaType: '' } }),
  creating('with a label that is too long', { labels: { k: 'v'.repeat(4096) } }),
  creating('with an empty label value', { labels: { k: '' } }),
  creating('with an expiry', { labels: { 'containerd.io/gc.expire': '2999-01-01T00:00:00Z' } }),
  { name: 'images: create without a record', steps: at => at.call(ImagesService.create, {}) },
  {
    name: 'images: create one that exists',
    async steps(at) {
      await create(at)
      await at.call(ImagesService.create, { image: image({ target: { ...target, digest: other } }) })
      await get(at)
    },
  },
  {
    name: 'images: what is not there',
    async steps(at) {
      await get(at, 'none')
      await at.call(ImagesService.delete, { name: 'none' })
      await at.call(ImagesService.update, { image: image() })
    },
  },
  {
    name: 'images: without a name',
    async steps(at) {
      await get(at, '')
      await at.call(ImagesService.delete, { name: '' })
      await at.call(ImagesService.update, { image: image({ name: '' }) })
      await at.call(ImagesService.update, {})
    },
  },
  {
    name: 'images: without a namespace',
    async steps(at) {
      const none = { namespace: '' }
      await at.call(ImagesService.get, { name: 'img' }, none)
      await at.call(ImagesService.list, {}, none)
      await at.call(ImagesService.create, { image: image() }, none)
      await at.call(ImagesService.update, { image: image() }, none)
      await at.call(ImagesService.delete, { name: 'img' }, none)
    },
  },
  {
    name: 'images: in another namespace it is not there',
    async steps(at) {
      await create(at)
      await at.call(ImagesService.get, { name: 'img' }, { namespace: 'elsewhere' })
    },
  },
  updating('without a mask', undefined, { labels: { c: '3' }, target: { ...target, digest: other } }),
  updating('without a mask, without a target', undefined, { target: undefined }),
  updating('labels', ['labels'], { labels: { c: '3' }, target: { ...target, digest: other } }),
  updating('one label', ['labels.a'], { labels: { a: '9', b: '9' } }),
  updating('one label away', ['labels.a'], { labels: {} }),
  updating('target', ['target'], { target: { ...target, digest: other, size: 20n }, labels: {} }),
  updating('target.digest', ['target.digest'], { target: { ...target, digest: other, size: 20n } }),
  updating('target with a digest that is none', ['target'], { target: { ...target, digest: 'word' } }),
  updating('annotations', ['annotations'], { target: { ...target, annotations: { y: '2' } } }),
  updating('one annotation', ['annotations.x'], { target: { ...target, annotations: { x: '9', y: '2' } } }),
  updating('name', ['name'], {}),
  updating('a field that is none', ['nonsense'], {}),
  updating('an empty path', [''], {}),
  updating('created_at', ['created_at'], {}),
  updating('a label that is too long', ['labels.a'], { labels: { a: 'v'.repeat(4097) } }),
  {
    name: 'images: delete, then it is gone',
    async steps(at) {
      await create(at)
      await at.call(ImagesService.delete, { name: 'img' })
      await get(at)
      await at.call(ImagesService.delete, { name: 'img' })
    },
  },
  {
    name: 'images: delete and wait for the garbage collection',
    async steps(at) {
      await create(at)
      await at.call(ImagesService.delete, { name: 'img', sync: true })
      await get(at)
    },
  },
  {
    name: 'images: list is sorted by name',
    async steps(at) {
      for (const name of ['b:1', 'a', 'b:2', 'B']) await create(at, { name })
      await at.call(ImagesService.list, {})
    },
  },
  {
    name: 'images: 50 create one name at once',
    async steps(at) {
      await at.race(
        'creates',
        Array.from({ length: 50 }, () => create(at)),
      )
    },
  },
  {
    name: 'images: 20 delete one name at once',
    async steps(at) {
      await create(at)
      await at.race(
        'deletes',
        Array.from({ length: 20 }, () => at.do(ImagesService.delete, { name: 'img' })),
      )
    },
  },
  filterCases(
    'images',
    (at, name, labels) => create(at, { name, labels }),
    async (at, filters) => (await at.do(ImagesService.list, { filters })).images.map(({ name }) => name),
    [
      ['name', ['name==thing-1']],
      ['target digest', [`target.digest==${digest}`]],
      ['target media type', [`target.mediatype==${target.mediaType}`]],
      ['target alone', ['target']],
      ['annotations', ['annotations.x==1']],
    ],
  ),
]
