// Archives of images, in and out: OCI image layouts in a tar, and what `docker save` writes. Source: OCI image spec,
// "Image Layout"; Docker image spec v1.2, "Combined Image JSON".
import { once } from 'node:events'
import { Readable } from 'node:stream'
import { createGunzip, createGzip } from 'node:zlib'
import { Code, invalidArgument, StatusError } from '../../../plugins/kit/errors.js'
import type { Contents, WrittenBlob } from './contents.js'
import { annotationsOf, fullName } from './names.js'
import { type Descriptor, documentBytesMax, mediaTypes, parseJson } from './oci.js'
import type { Work } from './work.js'

/** Files of an archive: an image has some ten to some hundred blobs. */
const entriesMax = 100_000
const gzipMagic = Buffer.from([0x1f, 0x8b])
const gzipped = `${mediaTypes.dockerLayer}.gzip`

interface Archive {
  /** By path. */
  blobs: Map<string, WrittenBlob & { isGzip: boolean }>
  links: Map<string, string>
  layout: string | undefined
  saved: unknown
}

/** Everything in it is written; answers the index that it stands for. Throws INVALID_ARGUMENT. */
export async function importArchive(
  contents: Contents,
  work: Work,
  bytes: AsyncIterable<Buffer>,
  compress: boolean,
): Promise<Descriptor> {
  const archive = await readArchive(contents, work, bytes, compress)
  const index = archive.blobs.get('index.json')
  if (archive.layout !== undefined) {
    if (archive.layout !== '1.0.0') throw invalidArgument(`unsupported OCI version ${archive.layout.slice(0, 40)}`)
    if (!index) throw invalidArgument('missing index.json in OCI layout 1.0.0')
    return { mediaType: mediaTypes.index, digest: index.digest, size: index.size, annotations: {} }
  }
  if (archive.saved === undefined) throw invalidArgument('unrecognized image format')
  return indexOfSaved(contents, work, archive)
}

async function readArchive(contents: Contents, work: Work, bytes: AsyncIterable<Buffer>, compress: boolean) {
  const { default: tar } = await import('tar-stream')
  const archive: Archive = { blobs: new Map(), links: new Map(), layout: undefined, saved: undefined }
  const extract = tar.extract()
  const feeding = feed(await uncompressed(bytes), extract)
  let entries = 0
  try {
    for await (const entry of extract) {
      const data = chunksOf(entry)
      if (++entries > entriesMax) throw tooLarge(`an archive of more than ${entriesMax} entries`)
      const { name, type, size = 0, linkname } = entry.header
      const path = cleanPath(name)
      if (type === 'symlink' && linkname) archive.links.set(path, cleanPath(`${parentOf(path)}${linkname}`))
      if (type !== 'file' && type !== 'contiguous-file') entry.resume()
      else if (path === 'oci-layout') archive.layout = layoutVersion(await document(data, size, path))
      else if (path === 'manifest.json') archive.saved = listOf(await document(data, size, path))
      else archive.blobs.set(path, await takeBlob(contents, work, data, { path, size, compress }))
    }
    await feeding
  } catch (error) {
    if (error instanceof Error && !(error instanceof StatusError) && error.message in tarFaults)
      throw invalidArgument(`the archive is no proper tar: ${error.message}`)
    throw error
  } finally {
    extract.destroy()
  }
  return archive
}

/** In tar-stream's words. */
const tarFaults: Readonly<Record<string, true>> = {
  'Invalid header': true,
  'Header exceeds max size': true,
  'Unexpected end of data': true,
  'Invalid tar header. Maybe the tar is corrupted or it needs to be gunzipped?': true,
  'Invalid tar header: unknown format.': true,
}

async function takeBlob(
  contents: Contents,
  work: Work,
  entry: AsyncIterable<Buffer>,
  { path, size, compress }: { path: string; size: number; compress: boolean },
) {
  const hex = /^blobs\/(sha256|sha512)\/([0-9a-f]+)$/.exec(path)
  const seen = { first: Buffer.alloc(0) }
  const watched = beginning(entry, seen)
  if (hex) return { ...(await contents.write(work, { digest: `${hex[1]}:${hex[2]}`, size }, watched)), isGzip: false }
  if (compress && /\.tar$/.test(path)) {
    const head = await peek(entry)
    const isGzip = head.first.subarray(0, 2).equals(gzipMagic)
    const layer = isGzip ? head.bytes : piped(head.bytes, createGzip())
    return { ...(await contents.write(work, { digest: undefined, size: undefined }, layer)), isGzip: true }
  }
  const written = await contents.write(work, { digest: undefined, size }, watched)
  return { ...written, isGzip: seen.first.subarray(0, 2).equals(gzipMagic) }
}

async function* beginning(bytes: AsyncIterable<Buffer>, seen: { first: Buffer }): AsyncGenerator<Buffer> {
  for await (const chunk of bytes) {
    if (seen.first.length < 2) seen.first = Buffer.concat([seen.first, chunk.subarray(0, 2)])
    yield chunk
  }
}

/** The first bytes, and all of them. */
async function peek(bytes: AsyncIterable<Buffer>): Promise<{ first: Buffer; bytes: AsyncGenerator<Buffer> }> {
  const iterator = bytes[Symbol.asyncIterator]()
  let first = Buffer.alloc(0)
  let isOver = false
  while (first.length < 2 && !isOver) {
    const next = await iterator.next()
    if (next.done) isOver = true
    else first = Buffer.concat([first, next.value])
  }
  return { first, bytes: rest() }
  async function* rest(): AsyncGenerator<Buffer> {
    if (first.length > 0) yield first
    for (let next = await iterator.next(); !isOver && !next.done; next = await iterator.next()) yield next.value
  }
}

async function uncompressed(bytes: AsyncIterable<Buffer>): Promise<AsyncIterable<Buffer>> {
  const head = await peek(bytes)
  return head.first.subarray(0, 2).equals(gzipMagic) ? piped(head.bytes, createGunzip()) : head.bytes
}

async function* piped(bytes: AsyncIterable<Buffer>, through: ReturnType<typeof createGzip>): AsyncGenerator<Buffer> {
  const source = Readable.from(bytes)
  source.on('error', error => through.destroy(error))
  try {
    for await (const chunk of source.pipe(through)) yield chunk
  } finally {
    source.destroy()
    through.destroy()
  }
}

type Sink = {
  write(chunk: Buffer): boolean
  end(last?: undefined): unknown
  destroy(error?: Error): unknown
} & NodeJS.EventEmitter

async function* chunksOf(entry: AsyncIterable<unknown>): AsyncGenerator<Buffer> {
  for await (const chunk of entry) if (Buffer.isBuffer(chunk)) yield chunk
}

/** A source that fails takes the sink with it. */
async function feed(bytes: AsyncIterable<Buffer>, sink: Sink): Promise<void> {
  const gone = new AbortController()
  sink.once('close', () => gone.abort())
  try {
    for await (const chunk of bytes) {
      if (gone.signal.aborted) return
      if (!sink.write(chunk)) await once(sink, 'drain', { signal: gone.signal }).catch(() => {})
    }
    sink.end()
  } catch (error) {
    sink.destroy(error instanceof Error ? error : new Error(String(error)))
  }
}

async function document(entry: AsyncIterable<Buffer>, size: number, path: string): Promise<Buffer> {
  if (size > documentBytesMax) throw tooLarge(`${path} of ${size} bytes`)
  const pieces: Buffer[] = []
  for await (const piece of entry) pieces.push(piece)
  return Buffer.concat(pieces)
}

function layoutVersion(bytes: Buffer): string {
  const { imageLayoutVersion } = parseJson(bytes, 'oci-layout')
  return typeof imageLayoutVersion === 'string' ? imageLayoutVersion : ''
}

function listOf(bytes: Buffer): unknown {
  return parseJson(Buffer.concat([Buffer.from('{"saved":'), bytes, Buffer.from('}')]), 'manifest.json').saved
}

/** What `docker save` wrote, as an index of manifests that we make. */
async function indexOfSaved(contents: Contents, work: Work, archive: Archive): Promise<Descriptor> {
  const { saved } = archive
  if (!Array.isArray(saved)) throw invalidArgument('manifest.json of the archive is no list')
  const blobAt = (name: unknown, what: string) => {
    const path = typeof name === 'string' ? cleanPath(name) : ''
    const blob = archive.blobs.get(path) ?? archive.blobs.get(archive.links.get(path) ?? '')
    if (!blob) throw invalidArgument(`${what} ${JSON.stringify(path.slice(0, 200))} not found in the archive`)
    return blob
  }
  const manifests: object[] = []
  for (const image of saved) {
    const { Config, Layers, RepoTags } = image ?? {}
    const config = blobAt(Config, 'image config')
    const layers = (Array.isArray(Layers) ? Layers : []).map(name => blobAt(name, 'layer'))
    const text = (value: WrittenBlob, mediaType: string) => ({ mediaType, size: value.size, digest: value.digest })
    const manifest = await writeJson(contents, work, mediaTypes.dockerManifest, {
      schemaVersion: 2,
      mediaType: mediaTypes.dockerManifest,
      config: text(config, mediaTypes.dockerConfig),
      layers: layers.map(layer => text(layer, layer.isGzip ? gzipped : mediaTypes.dockerLayer)),
    })
    const { mediaType, digest, size } = manifest
    const tags: unknown[] = Array.isArray(RepoTags) ? RepoTags : []
    if (tags.length === 0) manifests.push({ mediaType, digest, size })
    for (const tag of tags)
      if (typeof tag === 'string')
        manifests.push({ mediaType, digest, size, annotations: annotationsOf(fullName(tag)) })
  }
  return writeJson(contents, work, mediaTypes.index, { schemaVersion: 2, manifests })
}

async function writeJson(contents: Contents, work: Work, mediaType: string, value: object): Promise<Descriptor> {
  const bytes = Buffer.from(JSON.stringify(value))
  const written = await contents.write(work, { digest: undefined, size: bytes.length }, Readable.from([bytes]))
  return { mediaType, ...written, annotations: {} }
}

export interface ExportFile {
  name: string
  size: number
  bytes(): AsyncIterable<Buffer>
}

/** A tar of files, with nothing of time or owner in it: the same images make the same archive. */
export async function* writeArchive(files: readonly ExportFile[]): AsyncGenerator<Buffer> {
  const { default: tar } = await import('tar-stream')
  const pack = tar.pack()
  const packing = (async () => {
    for (const directory of ['blobs/', 'blobs/sha256/'])
      pack.entry({ name: directory, type: 'directory', mode: 0o755, mtime: new Date(0) })
    for (const { name, size, bytes } of files) {
      const header = { name, size, mode: 0o444, mtime: new Date(0) }
      await new Promise<void>((resolve, reject) => {
        const entry = pack.entry(header, error => (error ? reject(error) : resolve()))
        entry.on('error', reject)
        void feed(bytes(), entry)
      })
    }
    pack.finalize()
  })().catch((error: unknown) => pack.destroy(error instanceof Error ? error : new Error(String(error))))
  void packing
  try {
    yield* chunksOf(pack)
  } finally {
    pack.destroy()
  }
}

export const jsonFile = (name: string, value: unknown): ExportFile => {
  const bytes = Buffer.from(JSON.stringify(value))
  return { name, size: bytes.length, bytes: () => Readable.from([bytes]) }
}

const parentOf = (path: string) => path.slice(0, path.lastIndexOf('/') + 1)

/** Nothing is written by these names, they are only looked up. */
function cleanPath(name: string): string {
  const parts: string[] = []
  for (const part of name.split('/')) {
    if (part === '..') parts.pop()
    else if (part !== '' && part !== '.') parts.push(part)
  }
  return parts.join('/')
}

const tooLarge = (what: string) => new StatusError(Code.RESOURCE_EXHAUSTED, `${what} is more than is taken`)
