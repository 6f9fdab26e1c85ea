// A small image made from this machine's busybox: the same bytes each time, without network.
import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { buffer } from 'node:stream/consumers'
import { gzipSync } from 'node:zlib'
import tar from 'tar-stream'

export const MediaType = {
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  index: 'application/vnd.oci.image.index.v1+json',
  config: 'application/vnd.oci.image.config.v1+json',
  layer: 'application/vnd.oci.image.layer.v1.tar',
  layerGzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  layerZstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
} as const

export interface Descriptor {
  mediaType: string
  digest: string
  size: number
}

export interface Blob {
  descriptor: Descriptor
  bytes: Buffer
}

export interface Image {
  /** Its full name, as `ctr run` takes it. */
  name: string
  manifest: Blob
  config: Blob
  layers: Blob[]
  /** The digests of the uncompressed layers. */
  diffIds: string[]
}

export type Compression = 'none' | 'gzip' | 'zstd'

/** One entry of a layer. Owner is root, time is 0, unless said otherwise. */
export type Entry =
  | { kind: 'directory'; path: string; mode?: number }
  | { kind: 'file'; path: string; text: string | Buffer; mode?: number; uid?: number; gid?: number }
  | { kind: 'symlink'; path: string; target: string }
  /** `mode` is the target's own: whoever unpacks sets it again. */
  | { kind: 'hardlink'; path: string; target: string; mode: number }
  /** An empty file named ".wh.NAME" removes NAME of the layers below (OCI image spec, "Whiteouts"). */
  | { kind: 'whiteout'; path: string }

export interface ImageOptions {
  name?: string
  compression?: Compression
  /** Further layers on top of busybox. */
  layers?: Entry[][]
  /** The "config" of the image's configuration, merged over the default one. */
  config?: Record<string, unknown>
}

export const busyboxName = 'docker.io/library/busybox:test'

/** busybox, and on top of it a layer that adds, changes and whites out files: /etc/motd, /etc/issue, /etc/removed. */
export async function busyboxImage(options: ImageOptions = {}): Promise<Image> {
  return buildImage([busyboxLayer(), changesLayer, ...(options.layers ?? [])], options)
}

export async function buildImage(contents: Entry[][], options: ImageOptions = {}): Promise<Image> {
  const archives = await Promise.all(contents.map(layerArchive))
  const compression = options.compression ?? 'gzip'
  const layers = archives.map(archive => compress(archive, compression))
  const diffIds = archives.map(digestOf)
  const config = jsonBlob(MediaType.config, {
    created: '1970-01-01T00:00:00Z',
    architecture: architecture(),
    os: 'linux',
    config: { Env: ['PATH=/bin:/usr/bin', 'IMAGE=busybox'], Cmd: ['sh'], WorkingDir: '/', ...options.config },
    rootfs: { type: 'layers', diff_ids: diffIds },
    history: contents.map(() => ({ created: '1970-01-01T00:00:00Z' })),
  })
  const manifest = jsonBlob(MediaType.manifest, {
    schemaVersion: 2,
    mediaType: MediaType.manifest,
    config: config.descriptor,
    layers: layers.map(({ descriptor }) => descriptor),
  })
  return { name: options.name ?? busyboxName, manifest, config, layers, diffIds }
}

/** Every blob of the image, those that others refer to first: the order in which a registry takes them. */
export function blobsOf(image: Image): Blob[] {
  return [...image.layers, image.config, image.manifest]
}

/** An OCI image layout in a tar file, as `ctr images import` takes it. */
export async function writeArchive(path: string, ...images: Image[]): Promise<void> {
  const pack = tar.pack()
  const bytes = buffer(pack)
  const file = (name: string, content: string | Buffer) => pack.entry({ name, mtime: new Date(0) }, content)
  file('oci-layout', JSON.stringify({ imageLayoutVersion: '1.0.0' }))
  const manifests = images.map(({ name, manifest }) => ({
    ...manifest.descriptor,
    platform: { os: 'linux', architecture: architecture() },
    annotations: { 'io.containerd.image.name': name, 'org.opencontainers.image.ref.name': name.split(':').at(-1) },
  }))
  file('index.json', JSON.stringify({ schemaVersion: 2, mediaType: MediaType.index, manifests }))
  const blobs = new Map(images.flatMap(blobsOf).map(({ descriptor, bytes }) => [descriptor.digest, bytes]))
  for (const [digest, content] of blobs) file(`blobs/${digest.replace(':', '/')}`, content)
  pack.finalize()
  writeFileSync(path, await bytes)
}

/** As `docker save` writes it and `docker load` takes it: by tag, with uncompressed layers. */
export async function writeDockerArchive(path: string, tag: string, { config, layers }: Image): Promise<void> {
  const pack = tar.pack()
  const bytes = buffer(pack)
  pack.entry({ name: 'config.json' }, config.bytes)
  const names = layers.map((_, index) => `${index}.tar`)
  for (const [index, layer] of layers.entries()) pack.entry({ name: `${index}.tar` }, layer.bytes)
  pack.entry({ name: 'manifest.json' }, JSON.stringify([{ Config: 'config.json', RepoTags: [tag], Layers: names }]))
  pack.finalize()
  writeFileSync(path, await bytes)
}

export async function layerArchive(entries: Entry[]): Promise<Buffer> {
  const pack = tar.pack()
  const bytes = buffer(pack)
  const mtime = new Date(0)
  for (const entry of entries) {
    const { kind, path: name } = entry
    if (kind === 'directory') pack.entry({ name, type: 'directory', mode: entry.mode ?? 0o755, mtime })
    else if (kind === 'symlink') pack.entry({ name, type: 'symlink', linkname: entry.target, mtime })
    else if (kind === 'hardlink') pack.entry({ name, type: 'link', linkname: entry.target, mode: entry.mode, mtime })
    else if (kind === 'whiteout') pack.entry({ name: whiteoutName(name), mtime }, '')
    else pack.entry({ name, mode: entry.mode ?? 0o644, uid: entry.uid ?? 0, gid: entry.gid ?? 0, mtime }, entry.text)
  }
  pack.finalize()
  return bytes
}

export function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}

export function blob(mediaType: string, bytes: Buffer): Blob {
  return { descriptor: { mediaType, digest: digestOf(bytes), size: bytes.length }, bytes }
}

function busyboxLayer(): Entry[] {
  const binary = readFileSync('/bin/busybox')
  const applets = execFileSync('/bin/busybox', ['--list'], { encoding: 'utf8' }).split('\n').filter(Boolean).sort()
  return [
    ...['bin', 'dev', 'etc', 'home', 'proc', 'root', 'sys', 'usr', 'usr/bin', 'var'].map(directory),
    { kind: 'directory', path: 'tmp', mode: 0o1777 },
    { kind: 'file', path: 'bin/busybox', text: binary, mode: 0o755 },
    ...sharedLibraries('/bin/busybox'),
    // Both kinds of links, since layers hold both.
    { kind: 'hardlink', path: 'bin/sh', target: 'bin/busybox', mode: 0o755 },
    ...applets
      .filter(name => name !== 'sh' && name !== 'busybox')
      .map((name): Entry => ({ kind: 'symlink', path: `bin/${name}`, target: 'busybox' })),
    { kind: 'file', path: 'etc/passwd', text: 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\n' },
    { kind: 'file', path: 'etc/group', text: 'root:x:0:\nuser:x:1000:\n' },
    { kind: 'file', path: 'etc/issue', text: 'first layer\n' },
    { kind: 'file', path: 'etc/removed', text: 'the second layer removes this\n' },
  ]
}

/** None for Debian's busybox-static; its package busybox, which many machines have instead, is linked dynamically. */
function sharedLibraries(program: string): Entry[] {
  const { stdout } = spawnSync('ldd', [program], { encoding: 'utf8' })
  const paths = [...stdout.matchAll(/(\/\S+) \(0x/g)].map(([, path = '']) => path)
  const directories = new Set(paths.flatMap(path => parents(path.slice(1))))
  return [
    ...[...directories].sort().map(directory),
    ...paths.map((path): Entry => ({ kind: 'file', path: path.slice(1), text: readFileSync(path), mode: 0o755 })),
  ]
}

/** "lib/x86_64-linux-gnu/libc.so.6" → "lib", "lib/x86_64-linux-gnu" */
function parents(path: string): string[] {
  const names = path.split('/').slice(0, -1)
  return names.map((_, index) => names.slice(0, index + 1).join('/'))
}

const changesLayer: Entry[] = [
  { kind: 'directory', path: 'etc' },
  { kind: 'file', path: 'etc/motd', text: 'hello from the second layer\n' },
  { kind: 'file', path: 'etc/issue', text: 'second layer\n' },
  { kind: 'whiteout', path: 'etc/removed' },
]

const directory = (path: string): Entry => ({ kind: 'directory', path })

/** As OCI names the machine's processor. */
export const architecture = () => (process.arch === 'x64' ? 'amd64' : process.arch)

function whiteoutName(path: string): string {
  const slash = path.lastIndexOf('/') + 1
  return `${path.slice(0, slash)}.wh.${path.slice(slash)}`
}

function compress(archive: Buffer, compression: Compression): Blob {
  if (compression === 'none') return blob(MediaType.layer, archive)
  if (compression === 'gzip') return blob(MediaType.layerGzip, gzipSync(archive, { level: 6 }))
  const bytes = execFileSync('zstd', ['--quiet', '--stdout'], { input: archive, maxBuffer: 1 << 30 })
  return blob(MediaType.layerZstd, bytes)
}

function jsonBlob(mediaType: string, value: unknown): Blob {
  return blob(mediaType, Buffer.from(JSON.stringify(value)))
}
