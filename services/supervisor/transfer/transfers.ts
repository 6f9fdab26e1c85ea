// Every kind of transfer, from its two ends: what moves, in which order, and what is told of it.
import type { Logger } from 'pino'
import { Code, invalidArgument, StatusError } from '../../../plugins/kit/errors.js'
import type { ImageStore, UnpackConfiguration } from '../../../proto/gen/containerd/types/transfer/imagestore.js'
import type { ImageExportStream, ImageImportStream } from '../../../proto/gen/containerd/types/transfer/importexport.js'
import type { Holder } from '../effects/blobRecords.js'
import { importArchive } from './archive.js'
import { receiveBytes, sendBytes } from './bytes.js'
import { Contents, type ContentsDeps } from './contents.js'
import { archiveOf } from './export.js'
import { Images, wantedBy } from './images.js'
import { namesInArchive, namesOfTarget, namesToExport } from './names.js'
import { type Descriptor, hostPlatform, isManifest, type Platform, suits } from './oci.js'
import type { Tell } from './progress.js'
import type { Stream } from './streams.js'
import { type UnpackDeps, unpack } from './unpack.js'
import { underLease, type Work } from './work.js'

export interface TransfersDeps extends ContentsDeps, Omit<UnpackDeps, 'contents'> {
  log: Logger
}

/** A call, and where to tell how far it is. */
export interface Asked extends Holder {
  signal: AbortSignal
  tell: Tell
}

export class Transfers {
  readonly #contents: Contents
  readonly #images: Images
  readonly #unpack: UnpackDeps

  constructor(private readonly deps: TransfersDeps) {
    this.#contents = new Contents(deps)
    this.#images = new Images(deps, this.#contents)
    this.#unpack = { ...deps, contents: this.#contents }
  }

  /** Another name for an image. */
  async tag(asked: Asked, from: ImageStore, to: ImageStore): Promise<void> {
    await underLease(this.deps, asked, work => this.#store(work, asked.tell, this.#images.target(work, from.name), to))
  }

  async import(asked: Asked, from: ImageImportStream, stream: Stream, to: ImageStore): Promise<void> {
    const { tell } = asked
    for (const { snapshotter } of to.unpacks) this.deps.checkSnapshotter(snapshotterOf(snapshotter))
    await underLease(this.deps, asked, async work => {
      tell({ event: 'Importing' })
      const bytes = receiveBytes(stream)
      const index = await importArchive(this.#contents, work, bytes, from.forceCompress)
      const found = await this.#images.walk(work, index, wantedBy(to), undefined, limited(to))
      for (const { digest } of found) this.#contents.sizeOf(work, digest) // NOT_FOUND when the archive lacks a part
      await this.#unpackAll(work, tell, found, to.unpacks)
      const whole = namesOfTarget(to, index)
      const inside = found.filter(({ digest }) => digest !== index.digest).filter(isImage)
      const stored = inside.flatMap(image => namesInArchive(to, image).map(name => ({ name, image })))
      if (whole.length + stored.length === 0)
        throw invalidArgument('the archive holds no image that the names of the destination fit')
      for (const name of whole) await this.#save(work, tell, name, index, to)
      for (const { name, image } of stored) await this.#save(work, tell, name, image, to)
      tell({ event: 'Completed import' })
    })
  }

  async export(asked: Asked, from: ImageStore, to: ImageExportStream, stream: Stream): Promise<void> {
    await underLease(this.deps, asked, async work => {
      asked.tell({ event: 'Exporting' })
      const named = namesToExport(from).map(name => ({ name, target: this.#images.target(work, name) }))
      const parts = { contents: this.#contents, images: this.#images }
      await sendBytes(stream, await archiveOf(parts, work, named, to))
      asked.tell({ event: 'Completed export' })
    })
  }

  async #store(work: Work, tell: Tell, target: Descriptor, to: ImageStore): Promise<void> {
    const names = namesOfTarget(to, target)
    if (names.length === 0) throw invalidArgument('the destination has no name')
    for (const name of names) await this.#save(work, tell, name, target, to)
  }

  async #save(work: Work, tell: Tell, name: string, image: Descriptor, to: ImageStore): Promise<void> {
    await this.#images.store(work, name, image, to.labels)
    tell({ event: 'saved', name, descriptor: image })
  }

  /** Each configuration takes the first manifest that suits it. */
  async #unpackAll(work: Work, tell: Tell, found: Descriptor[], unpacks: readonly UnpackConfiguration[]) {
    for (const { platform, snapshotter } of unpacks) {
      const manifest = await this.#suiting(work, found.filter(isManifest), platform ?? hostPlatform)
      tell({ event: 'extracting', name: manifest.digest, descriptor: manifest })
      await unpack(this.#unpack, work, manifest, snapshotterOf(snapshotter), async () => {})
      tell({ event: 'extracted', name: manifest.digest, descriptor: manifest })
    }
  }

  async #suiting(work: Work, manifests: Descriptor[], wished: Platform) {
    for (const manifest of manifests) if (suits(wished, await this.#images.platform(work, manifest))) return manifest
    throw new StatusError(
      Code.NOT_FOUND,
      `no image for platform ${wished.os}/${wished.architecture} to unpack: not found`,
    )
  }
}

const isImage = (descriptor: Descriptor) => isManifest(descriptor) || /index|manifest\.list/.test(descriptor.mediaType)

const snapshotterOf = (name: string) => (name === '' ? 'overlayfs' : name)

/** Those for the first platforms that were asked for come first. */
const limited =
  ({ manifestLimit, platforms }: ImageStore) =>
  (manifests: Descriptor[]): Descriptor[] => {
    if (manifestLimit === 0) return manifests
    const wished = platforms.length > 0 ? platforms : [hostPlatform]
    const rank = ({ platform }: Descriptor) => {
      const at = platform ? wished.findIndex(each => suits(each, platform)) : -1
      return at < 0 ? wished.length : at
    }
    return [...manifests].sort((a, b) => rank(a) - rank(b)).slice(0, manifestLimit)
  }
