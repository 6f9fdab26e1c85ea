// Labels that make the supervisor act must come from whoever makes the container, never from the image that it is made
// of: clients copy an image's labels onto the container, and one of these can name a program to be run on the host
// (CVE-2026-53488).
import type { Logger } from 'pino'
import { restartPrefix } from '../domain/restart/labels.js'
import type { Labels } from '../domain/values.js'
import type { Store } from '../state/store.js'
import type { BlobFiles } from './blobFiles.js'

/** Manifests that are looked into, and their size: an image has a few, of some KiB. */
const blobsMax = 64
const blobBytesMax = 4n << 20n

export interface ControlLabelsDeps {
  store: Store
  files: Pick<BlobFiles, 'read'>
  log: Logger
}

const isControl = (name: string): boolean => name.startsWith(restartPrefix)

/**
 * The labels without those control labels that the image says as well: the two cannot be told apart. Of an image that
 * cannot be read nobody knows what it says, so that none of them counts. Without an image all do.
 */
export async function withoutImagesControl(
  deps: ControlLabelsDeps,
  namespace: string,
  { labels, image, id }: { labels: Labels; image: string; id: string },
): Promise<Labels> {
  const names = Object.keys(labels).filter(isControl)
  if (names.length === 0 || image === '') return labels
  const configs = await labelsOfImage(deps, namespace, image)
  const dropped = names.filter(name => !configs || configs.some(config => config[name] === labels[name]))
  if (dropped.length === 0) return labels
  deps.log.warn({ namespace, id, image, labels: dropped }, 'control labels that the image may have set have no effect')
  return Object.fromEntries(Object.entries(labels).filter(([name]) => !dropped.includes(name)))
}

/** What each of the image's configs that are here says, whatever the platform; undefined when none is. */
async function labelsOfImage(deps: ControlLabelsDeps, namespace: string, image: string): Promise<Labels[] | undefined> {
  const target = deps.store.world.namespace(namespace).images.get(image)?.record.target.digest
  const configs: Labels[] = []
  const waiting = target === undefined ? [] : [target]
  const seen = new Set<string>()
  for (let digest = waiting.shift(); digest !== undefined && seen.size < blobsMax; digest = waiting.shift()) {
    if (seen.has(digest)) continue
    seen.add(digest)
    const blob = await readJson(deps, namespace, digest)
    if (!blob) continue
    waiting.push(...[blob.config, ...listOf(blob.manifests)].flatMap(digestOf))
    // A config has the labels one level down; a manifest's `config` is a descriptor.
    if (!digestOf(blob.config).length && !blob.manifests) configs.push(labelsOf(blob.config))
  }
  return configs.length > 0 && waiting.length === 0 ? configs : undefined
}

interface ImageJson {
  config?: unknown
  manifests?: unknown
}

async function readJson(
  { store, files }: ControlLabelsDeps,
  namespace: string,
  digest: string,
): Promise<ImageJson | undefined> {
  const blob = store.world.namespace(namespace).blobs.get(digest)
  const total = BigInt(blob?.size ?? 0)
  if (!blob || total > blobBytesMax) return undefined
  const chunks: Uint8Array[] = []
  const range = { digest, total, offset: 0n, size: 0n }
  for await (const { data } of files.read(range, AbortSignal.timeout(10_000))) chunks.push(data)
  try {
    return Object(JSON.parse(Buffer.concat(chunks).toString()))
  } catch {
    return undefined // no image of a kind that has labels
  }
}

const listOf = (value: unknown): unknown[] => (Array.isArray(value) ? value : [])

function digestOf(descriptor: unknown): string[] {
  if (typeof descriptor !== 'object' || descriptor === null || !('digest' in descriptor)) return []
  return typeof descriptor.digest === 'string' ? [descriptor.digest] : []
}

function labelsOf(config: unknown): Labels {
  const labels: unknown = typeof config === 'object' && config !== null && 'Labels' in config ? config.Labels : {}
  return Object.fromEntries(
    Object.entries(Object(labels)).flatMap(([name, value]) => (typeof value === 'string' ? [[name, value]] : [])),
  )
}
