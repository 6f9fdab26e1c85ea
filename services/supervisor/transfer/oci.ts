// Manifests, indexes and configs of images, read from bytes that somebody else has made. Source: OCI image spec v1.1;
// Docker image manifest v2 schema 2.
import { invalidArgument } from '../../../plugins/kit/errors.js'
import { checkDigest } from '../domain/validate.js'

export interface Platform {
  os: string
  architecture: string
  variant: string
}

export interface Descriptor {
  mediaType: string
  digest: string
  size: number
  annotations: Record<string, string>
  platform?: Platform
}

export const mediaTypes = {
  index: 'application/vnd.oci.image.index.v1+json',
  dockerManifest: 'application/vnd.docker.distribution.manifest.v2+json',
  dockerConfig: 'application/vnd.docker.container.image.v1+json',
  dockerLayer: 'application/vnd.docker.image.rootfs.diff.tar',
} as const

const indexes = [mediaTypes.index, 'application/vnd.docker.distribution.manifest.list.v2+json']
const manifests = ['application/vnd.oci.image.manifest.v1+json', mediaTypes.dockerManifest]
const configs = ['application/vnd.oci.image.config.v1+json', mediaTypes.dockerConfig]
/** Of a manifest, an index or a config: honest ones have some kilobytes. Registries take up to 4 MiB. */
export const documentBytesMax = 8 << 20
/** Of an index or a manifest. */
const childrenMax = 10_000

export const isIndex = ({ mediaType }: Pick<Descriptor, 'mediaType'>) => indexes.includes(mediaType)
export const isManifest = ({ mediaType }: Pick<Descriptor, 'mediaType'>) => manifests.includes(mediaType)
export const isConfig = ({ mediaType }: Pick<Descriptor, 'mediaType'>) => configs.includes(mediaType)
/** Such may not be passed on: their place is elsewhere. */
export const isForeign = ({ mediaType }: Pick<Descriptor, 'mediaType'>) => /nondistributable|foreign/.test(mediaType)
const isLayer = ({ mediaType }: Pick<Descriptor, 'mediaType'>) => /\.layer\.|rootfs\.(diff|foreign)/.test(mediaType)

type Json = Record<string, unknown>

const isJson = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value)

export function parseJson(bytes: Buffer, what: string): Json {
  try {
    const value: unknown = JSON.parse(bytes.toString('utf8'))
    if (isJson(value)) return value
  } catch {}
  throw invalidArgument(`${what} is no JSON object`)
}

/** What an index or a manifest refers to: manifests, or the config and then the layers. Nothing for everything else. */
export function childrenOf(descriptor: Descriptor, bytes: Buffer): Descriptor[] {
  const what = `${descriptor.mediaType} ${descriptor.digest}`
  if (isIndex(descriptor)) return descriptorsOf(parseJson(bytes, what).manifests ?? [], `the manifests of ${what}`)
  if (!isManifest(descriptor)) return []
  const { config, layers, manifests } = parseJson(bytes, what)
  // What can be read both ways has been used to show different images to different readers (CVE-2021-41190).
  if (manifests !== undefined) throw invalidArgument(`${what} is a manifest and an index at once`)
  return [descriptorOf(config, `the config of ${what}`), ...descriptorsOf(layers ?? [], `the layers of ${what}`)]
}

function descriptorsOf(value: unknown, what: string): Descriptor[] {
  if (!Array.isArray(value) || value.length > childrenMax) throw invalidArgument(`${what} are no list, or too long`)
  return value.map(each => descriptorOf(each, what))
}

function descriptorOf(value: unknown, what: string): Descriptor {
  if (!isJson(value)) throw invalidArgument(`${what}: no descriptor`)
  const { mediaType, digest, size, annotations, platform } = value
  if (typeof digest !== 'string' || checkDigest(digest)) throw invalidArgument(`${what}: no digest`)
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) throw invalidArgument(`${what}: no size`)
  return {
    mediaType: typeof mediaType === 'string' ? mediaType : '',
    digest,
    size,
    annotations: textsOf(annotations),
    ...(isJson(platform) && { platform: platformOf(platform) }),
  }
}

const textsOf = (value: unknown): Record<string, string> =>
  Object.fromEntries(
    Object.entries(isJson(value) ? value : {}).filter(
      (entry): entry is [string, string] => typeof entry[1] === 'string',
    ),
  )

const text = (value: unknown) => (typeof value === 'string' ? value : '')

export const platformOf = ({ os, architecture, variant }: Json): Platform => ({
  os: text(os),
  architecture: text(architecture),
  variant: text(variant),
})

/** The digests of the uncompressed layers, in a config. */
export function diffIdsOf(config: Json): string[] {
  const ids = isJson(config.rootfs) ? config.rootfs.diff_ids : undefined
  if (!Array.isArray(ids)) throw invalidArgument('the config of the image names no rootfs.diff_ids')
  return ids.map((id: unknown) => {
    if (typeof id !== 'string' || checkDigest(id)) throw invalidArgument('a rootfs.diff_id of the image is no digest')
    return id
  })
}

/** What keeps the children of a blob from garbage collection, in the words of containerd's clients (ChildGCLabels). */
export function referenceLabels(children: readonly Descriptor[]): Record<string, string> {
  const counts = new Map<string, number>()
  return Object.fromEntries(
    children.map(child => {
      const kind = isManifest(child) || isIndex(child) ? 'm.' : isLayer(child) ? 'l.' : isConfig(child) ? 'config' : ''
      const key = `containerd.io/gc.ref.content.${kind}`
      const count = counts.get(key) ?? 0
      counts.set(key, count + 1)
      return [count > 0 || key.endsWith('.') ? `${key}${count}` : key, child.digest]
    }),
  )
}

const architectures: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386', ppc64: 'ppc64le' }

export const hostPlatform: Platform = {
  os: 'linux',
  architecture: architectures[process.arch] ?? process.arch,
  variant: '',
}

/** Whether what was made for one platform suits one that was wished for. The base variant need not be named. */
export function suits(wished: Platform, made: Platform): boolean {
  const [a, b] = [wished, made].map(({ os, architecture, variant }) => ({ os, ...normal(architecture, variant) }))
  return a?.os === b?.os && a?.architecture === b?.architecture && a?.variant === b?.variant
}

function normal(architecture: string, variant: string): { architecture: string; variant: string } {
  const name = { x86_64: 'amd64', aarch64: 'arm64' }[architecture] ?? architecture
  const base = { arm64: ['v8', '8'], amd64: ['v1'], arm: ['v7', '7'] }[name]
  return { architecture: name, variant: base?.includes(variant) ? '' : variant }
}
