// Which media types are layers. Source: OCI image spec, media-types.md; Docker's image manifest v2.2.
import { unimplemented } from '../../kit/errors.js'
import type { Compression } from '../layer/decompress.js'

const oci = 'application/vnd.oci.image.layer'
const docker = 'application/vnd.docker.image.rootfs'

/** What a layer is once it is uncompressed, whatever it was before. */
export const uncompressedLayer = `${oci}.v1.tar`

const layerTypes = new Set([
  ...[`${oci}.v1.tar`, `${oci}.nondistributable.v1.tar`].flatMap(type => [type, `${type}+gzip`, `${type}+zstd`]),
  ...[`${docker}.diff.tar`, `${docker}.foreign.diff.tar`].flatMap(type => [type, `${type}.gzip`, `${type}.zstd`]),
])

export function requireLayer(mediaType: string): void {
  if (!layerTypes.has(mediaType)) throw unimplemented(`no way to unpack media type ${JSON.stringify(mediaType)}`)
}

/** What a diff is written as; gzip when the caller has no wish. */
export function outputOf(wish: string): { mediaType: string; compression: Compression } {
  const mediaType = wish || `${oci}.v1.tar+gzip`
  const compression = outputs[mediaType]
  if (!compression) throw unimplemented(`unsupported diff media type: ${mediaType}`)
  return { mediaType, compression }
}

const outputs: Record<string, Compression> = {
  [`${oci}.v1.tar`]: 'none',
  [`${oci}.v1.tar+gzip`]: 'gzip',
  [`${oci}.v1.tar+zstd`]: 'zstd',
  [`${docker}.diff.tar`]: 'none',
  [`${docker}.diff.tar.gzip`]: 'gzip',
  [`${docker}.diff.tar.zstd`]: 'zstd',
}
