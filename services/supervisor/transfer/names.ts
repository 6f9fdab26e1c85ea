// Under which names a transfer stores what arrived. Source: containerd, core/transfer/image (Store) and images/archive.
import { notFound, unimplemented } from '../../../plugins/kit/errors.js'
import type { ImageReference, ImageStore } from '../../../proto/gen/containerd/types/transfer/imagestore.js'
import type { Descriptor } from './oci.js'

const imageName = 'io.containerd.image.name'
const refName = 'org.opencontainers.image.ref.name'

/** Of what the request itself is about: its own name, and the further ones that are whole. */
export function namesOfTarget({ name, extraReferences }: ImageStore, { digest }: Descriptor): string[] {
  const further = extraReferences.filter(({ isPrefix }) => !isPrefix)
  return [...(name ? [name] : []), ...further.map(ref => (ref.addDigest ? `${ref.name}@${digest}` : ref.name))]
}

/** Of an image inside an archive: as the archive calls it, within the prefixes that the request names. */
export function namesInArchive({ extraReferences }: ImageStore, image: Descriptor): string[] {
  return extraReferences
    .filter(({ isPrefix }) => isPrefix)
    .flatMap(reference => {
      const name = nameWithin(reference, image)
      const byDigest = `${reference.name}@${image.digest}`
      if (name === '') return reference.addDigest ? [byDigest] : []
      return reference.addDigest && !reference.skipNamedDigest ? [name, byDigest] : [name]
    })
}

function nameWithin({ name: prefix, allowOverwrite }: ImageReference, { annotations }: Descriptor): string {
  const whole = annotations[imageName]
  if (whole) return whole
  const ref = annotations[refName]
  if (!ref || prefix === '') return ''
  if (!/[/:@]/.test(ref)) return `${prefix}:${ref}`
  return allowOverwrite || (ref.startsWith(prefix) && /^($|[/:@])/.test(ref.slice(prefix.length))) ? ref : ''
}

/** The images that an export takes. */
export function namesToExport({ name, extraReferences }: ImageStore): string[] {
  if (extraReferences.some(({ isPrefix }) => isPrefix)) throw unimplemented('prefix lookup on export')
  const names = [...(name ? [name] : []), ...extraReferences.map(({ name }) => name)]
  if (names.length === 0) throw notFound('an image to export')
  return names
}

/** What an archive says of an image by this name: "docker.io/library/busybox:1.36" and "1.36". */
export function annotationsOf(name: string): Record<string, string> {
  const tag = /@(.+)$/.exec(name)?.[1] ?? /:([^:/]+)$/.exec(name)?.[1]
  return { [imageName]: name, ...(tag !== undefined && { [refName]: tag }) }
}

/** "busybox" → "docker.io/library/busybox:latest", as docker's archives leave it out. */
export function fullName(name: string): string {
  const [first = '', ...rest] = name.split('/')
  const hasHost = rest.length > 0 && (/[.:]/.test(first) || first === 'localhost')
  const path = hasHost ? name : `docker.io/${rest.length > 0 ? '' : 'library/'}${name}`
  return /[:@]/.test(path.slice(path.lastIndexOf('/'))) ? path : `${path}:latest`
}
