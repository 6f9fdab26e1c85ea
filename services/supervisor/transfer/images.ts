// Images as transfers find and store them.
import { invalidArgument, notFound } from '../../../plugins/kit/errors.js'
import type { ImageStore } from '../../../proto/gen/containerd/types/transfer/imagestore.js'
import { createImage, updateImage } from '../domain/image/decide.js'
import type { ImageRecord } from '../domain/image/events.js'
import { objectionTo } from '../domain/image/validate.js'
import { withLease } from '../domain/lease/decide.js'
import { imageStream } from '../domain/streams.js'
import type { Runner } from '../runner.js'
import { withoutEmpty } from '../state/convert.js'
import type { Store } from '../state/store.js'
import type { Contents } from './contents.js'
import {
  childrenOf,
  type Descriptor,
  hostPlatform,
  isConfig,
  isIndex,
  isManifest,
  type Platform,
  parseJson,
  platformOf,
  referenceLabels,
  suits,
} from './oci.js'
import type { Work } from './work.js'

export class Images {
  constructor(
    private readonly deps: { runner: Runner; store: Store },
    private readonly contents: Contents,
  ) {}

  /** Throws NOT_FOUND. */
  target({ namespace }: Pick<Work, 'namespace'>, name: string): Descriptor {
    const image = this.deps.store.world.namespace(namespace).images.get(name)
    if (!image) throw notFound(`image ${JSON.stringify(name)}`)
    const { mediaType, digest, size, annotations } = image.record.target
    return { mediaType, digest, size: Number(size), annotations: { ...annotations } }
  }

  /** Makes the image, or has its name mean the target from now on. */
  async store(work: Work, name: string, target: Descriptor, labels: Record<string, string>): Promise<void> {
    const { namespace, cause, lease } = work
    const { mediaType, digest, size, annotations } = target
    const image: ImageRecord = {
      name,
      labels: withoutEmpty(labels),
      target: { mediaType, digest, size: String(size), annotations: withoutEmpty(annotations) },
    }
    const objection = objectionTo(image)
    if (objection) throw invalidArgument(objection)
    await this.deps.runner.complete(cause, imageStream(namespace, name), world => {
      const here = world.namespace(namespace)
      const current = here.images.get(name)?.record
      const decision = current
        ? updateImage(namespace, current, image, null)
        : createImage(namespace, undefined, image, null)
      const expires = Object.hasOwn(image.labels, 'containerd.io/gc.expire')
      return expires ? withLease(decision, namespace, { id: lease, view: here.lease(lease) }, resource(name)) : decision
    })
  }

  /**
   * From `root` down: labels what refers to others, and answers all that is wanted of it, those that refer before what
   * they refer to. `fetch` brings what is not here.
   */
  async walk(
    work: Work,
    root: Descriptor,
    wanted: (child: Descriptor, parent: Descriptor) => boolean,
    fetch: (descriptor: Descriptor) => Promise<void> = async () => {},
    limit: (manifests: Descriptor[]) => Descriptor[] = all => all,
  ): Promise<Descriptor[]> {
    const found = new Map<string, Descriptor>()
    const visit = async (descriptor: Descriptor, depth: number): Promise<void> => {
      if (found.has(descriptor.digest)) return
      if (depth > depthMax || found.size > foundMax) throw invalidArgument(`image ${root.digest} has too many parts`)
      found.set(descriptor.digest, descriptor)
      if (!isIndex(descriptor) && !isManifest(descriptor)) return
      await fetch(descriptor)
      const children = childrenOf(descriptor, await this.contents.document(work, descriptor))
      await this.contents.label(work, descriptor.digest, referenceLabels(children))
      const kept = children.filter(child => wanted(child, descriptor))
      for (const child of isIndex(descriptor) ? limit(kept) : kept) await visit(child, depth + 1)
    }
    await visit(root, 0)
    return [...found.values()]
  }

  /** Of a manifest: as the index says, or else its own config. */
  async platform(work: Work, manifest: Descriptor): Promise<Platform> {
    if (manifest.platform) return manifest.platform
    const config = childrenOf(manifest, await this.contents.document(work, manifest)).find(isConfig)
    if (!config || !this.contents.has(work, config.digest)) return hostPlatform
    return platformOf(parseJson(await this.contents.document(work, config), `config ${config.digest}`))
  }
}

const depthMax = 8
const foundMax = 100_000
const resource = (id: string) => ({ type: 'images', id })

/** Which parts of an image a request wants. Without platforms: all. */
export function wantedBy({ platforms, allMetadata }: Pick<ImageStore, 'platforms' | 'allMetadata'>) {
  const isWanted = ({ platform }: Descriptor) =>
    platforms.length === 0 || !platform || platforms.some(wished => suits(wished, platform))
  return (child: Descriptor, parent: Descriptor): boolean => {
    if (!allMetadata) return isWanted(child)
    // Of other platforms manifest and config, but no layers.
    return isManifest(child) || isIndex(child) || isConfig(child) || isWanted(parent)
  }
}
