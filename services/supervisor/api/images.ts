// containerd.services.images.v1.Images: names for what lies in the content store.
import { Code, notFound, StatusError } from '../../../plugins/kit/errors.js'
import { type Served, unary } from '../../../plugins/kit/serve.js'
import type { Image, ImagesServer } from '../../../proto/gen/containerd/services/images/v1/images.js'
import { Descriptor as ProtoDescriptor } from '../../../proto/gen/containerd/types/descriptor.js'
import type { Timestamp as ProtoTimestamp } from '../../../proto/gen/google/protobuf/timestamp.js'
import { type Decision, isRefusal, refuse } from '../domain/decision.js'
import { type Fields, labelField, present } from '../domain/filter.js'
import { createImage, deleteImage, updateImage } from '../domain/image/decide.js'
import type { ImageRecord } from '../domain/image/events.js'
import { objectionTo } from '../domain/image/validate.js'
import { withLease } from '../domain/lease/decide.js'
import { imageStream } from '../domain/streams.js'
import type { Timestamp } from '../domain/values.js'
import type { Runner } from '../runner.js'
import {
  descriptorFromProto,
  descriptorToProto,
  timestampFromProto,
  timestampToProto,
  withoutEmpty,
} from '../state/convert.js'
import type { StoredImage } from '../state/namespaceState.js'
import type { Store } from '../state/store.js'
import type { World } from '../state/world.js'
import { type ApiCall, filtersOf, insist, namespacedCall } from './call.js'
import { applyMask, type Updatable, withLabel } from './masks.js'
import { sortedByKey } from './order.js'

export interface ImagesDeps {
  runner: Runner
  store: Store
  /** Resolves when what nothing holds is gone. */
  collect(): Promise<void>
}

export function imagesService({ runner, store, collect }: ImagesDeps): Served<ImagesServer> {
  const stored = (namespace: string, name: string): StoredImage => {
    const image = store.world.namespace(namespace).images.get(name)
    if (!image) throw notFound(`image ${JSON.stringify(name)}`)
    return image
  }

  return {
    get: unary(({ name }, context) => {
      const { namespace } = namespacedCall(context, 'Images/Get')
      return { image: toProto(stored(namespace, name)) }
    }),

    list: unary(({ filters }, context) => {
      const { namespace } = namespacedCall(context, 'Images/List')
      const filter = filtersOf(filters)
      const images = sortedByKey(store.world.namespace(namespace).images)
      return { images: images.filter(({ record }) => filter(fieldsOf(record))).map(toProto) }
    }),

    create: unary(async ({ image, sourceDateEpoch }, context) => {
      const call = namespacedCall(context, 'Images/Create')
      const { namespace, cause } = call
      const record = fromProto(named(image))
      insist(objectionTo(record))
      await runner.complete(cause, imageStream(namespace, record.name), world => {
        const current = world.namespace(namespace).images.get(record.name)?.record
        return leased(createImage(namespace, current, record, epochOf(sourceDateEpoch)), call, record, world)
      })
      return { image: toProto(stored(namespace, record.name)) }
    }),

    update: unary(async ({ image, updateMask, sourceDateEpoch }, context) => {
      const call = namespacedCall(context, 'Images/Update')
      const { namespace, cause } = call
      const wanted = fromProto(named(image))
      await runner.complete(cause, imageStream(namespace, wanted.name), world => {
        const current = world.namespace(namespace).images.get(wanted.name)?.record
        if (!current) return refuse('not-found', `image ${JSON.stringify(wanted.name)}`)
        const what = `on image ${JSON.stringify(wanted.name)}`
        const updated = updateMask?.length ? applyMask(current, updateMask, updatable(wanted), what) : wanted
        if (isRefusal(updated)) return updated
        const objection = objectionTo(updated)
        if (objection) return refuse('invalid-argument', objection)
        return leased(updateImage(namespace, current, updated, epochOf(sourceDateEpoch)), call, updated, world)
      })
      return { image: toProto(stored(namespace, wanted.name)) }
    }),

    delete: unary(async ({ name, target, sync }, context) => {
      const { namespace, cause } = namespacedCall(context, 'Images/Delete')
      await runner.complete(cause, imageStream(namespace, name), world => {
        const current = world.namespace(namespace).images.get(name)?.record
        return deleteImage(namespace, current, name, target?.digest === '' ? undefined : target?.digest)
      })
      if (sync) await collect()
      return {}
    }),
  }
}

function named(image: Image | undefined): Image {
  if (!image?.name) throw new StatusError(Code.INVALID_ARGUMENT, 'Image.Name required')
  return image
}

const epochOf = (epoch: ProtoTimestamp | undefined): Timestamp | null => (epoch ? timestampFromProto(epoch) : null)

/** An image keeps itself from garbage collection, unless it has a time to expire: only then a lease has to. */
function leased(decision: Decision, call: ApiCall, { name, labels }: ImageRecord, world: World): Decision {
  const { namespace, lease } = call
  if (lease === undefined || !Object.hasOwn(labels, 'containerd.io/gc.expire')) return decision
  const view = world.namespace(namespace).lease(lease)
  return withLease(decision, namespace, { id: lease, view }, { type: 'images', id: name })
}

const fromProto = ({ name, labels, target }: Image): ImageRecord => ({
  name,
  labels: withoutEmpty(labels),
  target: descriptorFromProto(target ?? ProtoDescriptor.create()),
})

const toProto = ({ record, createdAt, updatedAt }: StoredImage): Image => ({
  name: record.name,
  labels: { ...record.labels },
  target: descriptorToProto(record.target),
  createdAt: timestampToProto(createdAt),
  updatedAt: timestampToProto(updatedAt),
})

/** The target is replaced as a whole: a size or a digest means nothing without the other. */
const updatable = (wanted: ImageRecord): Updatable<ImageRecord> => ({
  fields: {
    labels: image => ({ ...image, labels: wanted.labels }),
    target: image => ({ ...image, target: wanted.target }),
    annotations: image => ({ ...image, target: { ...image.target, annotations: wanted.target.annotations } }),
  },
  entries: {
    labels: (image, key) => ({ ...image, labels: withLabel(image.labels, key, wanted.labels) }),
    annotations: (image, key) => {
      const annotations = withLabel(image.target.annotations, key, wanted.target.annotations)
      return { ...image, target: { ...image.target, annotations } }
    },
  },
})

/** Source: containerd's filter adaptor for images. */
function fieldsOf({ name, labels, target }: ImageRecord): Fields {
  return ([field, ...rest]) => {
    switch (field) {
      case 'name':
        return present(name)
      case 'target':
        if (rest[0] === 'digest') return present(target.digest)
        return rest[0] === 'mediatype' ? present(target.mediaType) : undefined
      case 'labels':
        return labelField(labels, rest)
      case 'annotations':
        return labelField(target.annotations, rest)
      default:
        return undefined
    }
  }
}
