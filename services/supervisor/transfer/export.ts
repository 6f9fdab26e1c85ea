// Images into an archive, on a stream: an OCI image layout that `docker load` reads as well.
import { notFound } from '../../../plugins/kit/errors.js'
import type { ImageExportStream } from '../../../proto/gen/containerd/types/transfer/importexport.js'
import { type ExportFile, jsonFile, writeArchive } from './archive.js'
import type { Contents } from './contents.js'
import type { Images } from './images.js'
import { annotationsOf } from './names.js'
import { childrenOf, type Descriptor, hostPlatform, isForeign, isIndex, isManifest, mediaTypes, suits } from './oci.js'
import type { Work } from './work.js'

export interface NamedImage {
  name: string
  target: Descriptor
}

type Wish = Pick<ImageExportStream, 'platforms' | 'allPlatforms' | 'skipCompatibilityManifest' | 'skipNonDistributable'>

/** Throws NOT_FOUND when a part of an image is not here. */
export async function archiveOf(
  parts: { contents: Contents; images: Images },
  work: Work,
  named: readonly NamedImage[],
  wish: Wish,
): Promise<AsyncGenerator<Buffer>> {
  const { contents, images } = parts
  const platforms = wish.platforms.length > 0 ? wish.platforms : [hostPlatform]
  const isWanted = ({ platform }: Descriptor) =>
    wish.allPlatforms || !platform || platforms.some(each => suits(each, platform))
  const blobs = new Map<string, Descriptor>()
  const saved: object[] = []
  for (const { name, target } of named) {
    const found = await images.walk(work, target, child => isWanted(child))
    const manifests = found.filter(isManifest)
    if (manifests.length === 0)
      throw notFound(`a manifest of image ${JSON.stringify(name)} for the platforms asked for`)
    for (const descriptor of found)
      if (!(wish.skipNonDistributable && isForeign(descriptor))) blobs.set(descriptor.digest, descriptor)
    const [manifest] = manifests.filter(({ platform }) => !platform || suits(platforms[0] ?? hostPlatform, platform))
    if (manifest) saved.push(await savedAs(contents, work, name, manifest))
  }
  const manifests = named.map(({ name, target: { mediaType, digest, size, annotations, platform } }) => ({
    ...{ mediaType, digest, size, annotations: { ...annotations, ...annotationsOf(name) } },
    ...(platform && !isIndex({ mediaType }) && { platform }),
  }))
  const files: ExportFile[] = [...blobs.keys()].sort().map(digest => ({
    name: `blobs/${digest.replace(':', '/')}`,
    size: contents.sizeOf(work, digest),
    bytes: () => contents.read(work, digest),
  }))
  files.push(jsonFile('index.json', { schemaVersion: 2, mediaType: mediaTypes.index, manifests }))
  if (!wish.skipCompatibilityManifest && saved.length > 0) files.push(jsonFile('manifest.json', saved))
  files.push(jsonFile('oci-layout', { imageLayoutVersion: '1.0.0' }))
  return writeArchive(files)
}

async function savedAs(contents: Contents, work: Work, name: string, manifest: Descriptor): Promise<object> {
  const [config, ...layers] = childrenOf(manifest, await contents.document(work, manifest))
  const path = ({ digest }: Descriptor) => `blobs/${digest.replace(':', '/')}`
  return { Config: config ? path(config) : '', RepoTags: [name], Layers: layers.map(path) }
}
