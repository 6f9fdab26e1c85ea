// Diff: layers onto snapshots and back, and descriptors that are wrong.
import { gzipSync } from 'node:zlib'
import { ContentService, WriteAction } from '../../../../proto/gen/containerd/services/content/v1/content.js'
import { DiffService } from '../../../../proto/gen/containerd/services/diff/v1/diff.js'
import { SnapshotsService } from '../../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import { Descriptor } from '../../../../proto/gen/containerd/types/descriptor.js'
import { digestOf, type Entry, layerArchive, MediaType } from '../../../harness/image.js'
import { type Case, kept, type Stage } from '../stage.js'

const snapshotter = 'overlayfs'
const prepare = async (at: Stage, key: string, parent = '') =>
  (await at.do(SnapshotsService.prepare, { snapshotter, key, parent, labels: kept })).mounts

/** A layer of one file in the content store; its text is the case's own. */
async function layer(at: Stage, mediaType: string, entries?: Entry[]): Promise<Descriptor> {
  const text = at.bytes()
  const archive = await layerArchive(entries ?? [{ kind: 'file', path: 'file', text }])
  const data = mediaType === MediaType.layerGzip ? gzipSync(archive) : archive
  return store(at, mediaType, data)
}

async function store(at: Stage, mediaType: string, data: Buffer): Promise<Descriptor> {
  const digest = digestOf(data)
  const { send, end } = at.upload()
  await send({ action: WriteAction.COMMIT, ref: digest, data, expected: digest, labels: kept })
  end()
  return Descriptor.fromPartial({ mediaType, digest, size: BigInt(data.length) })
}

const applying = (name: string, make: (at: Stage) => Promise<Descriptor>): Case => ({
  name: `diff: apply ${name}`,
  async steps(at) {
    const diff = await make(at)
    await at.call(DiffService.apply, { diff, mounts: await prepare(at, 'k') })
  },
})

const making = (name: string, mediaType: string): Case => ({
  name: `diff: diff ${name}`,
  async steps(at) {
    const mounts = await prepare(at, 'k')
    await at.do(DiffService.apply, { diff: await layer(at, MediaType.layer), mounts })
    const answer = await at.watch(
      'Diff/Diff',
      at
        .do(DiffService.diff, { left: [], right: mounts, mediaType, ref: 'made', labels: kept })
        .then(({ diff }) => ({
          mediaType: diff?.mediaType,
          annotations: Object.keys(diff?.annotations ?? {}),
          digest: diff?.digest ?? '',
        }))
        .then(({ digest, ...rest }) => {
          made.set(at, digest)
          at.unname(digest)
          return rest
        }),
    )
    if (!answer) return
    const { info } = await at.do(ContentService.info, { digest: made.get(at) ?? '' })
    at.see('labels', Object.keys(info?.labels ?? {}).sort())
  },
})
const made = new WeakMap<Stage, string>()

export const diff: Case[] = [
  applying('a plain layer', at => layer(at, MediaType.layer)),
  applying('a gzip layer', at => layer(at, MediaType.layerGzip)),
  applying('a docker layer', async at => ({
    ...(await layer(at, MediaType.layerGzip)),
    mediaType: 'application/vnd.docker.image.rootfs.diff.tar.gzip',
  })),
  applying('a plain layer that says it is gzip', async at => ({
    ...(await layer(at, MediaType.layer)),
    mediaType: MediaType.layerGzip,
  })),
  applying('a gzip layer that says it is plain', async at => ({
    ...(await layer(at, MediaType.layerGzip)),
    mediaType: MediaType.layer,
  })),
  applying('a layer of an unknown type', async at => ({
    ...(await layer(at, MediaType.layer)),
    mediaType: 'nonsense',
  })),
  applying('a layer without a type', async at => ({ ...(await layer(at, MediaType.layer)), mediaType: '' })),
  applying('a layer of a config’s type', async at => ({
    ...(await layer(at, MediaType.layer)),
    mediaType: MediaType.config,
  })),
  applying('a layer that is not there', async () =>
    Descriptor.fromPartial({ mediaType: MediaType.layer, digest: digestOf(Buffer.from('nowhere')), size: 7n }),
  ),
  applying('a digest that is none', async () =>
    Descriptor.fromPartial({ mediaType: MediaType.layer, digest: 'word', size: 7n }),
  ),
  // Not without a descriptor at all: containerd 1.6 dies of that.
  applying('rubbish', at => store(at, MediaType.layer, at.bytes('rubbish'.repeat(200)))),
  applying('rubbish that says it is gzip', at => store(at, MediaType.layerGzip, at.bytes('rubbish'.repeat(200)))),
  applying('gzip that ends early', async at => {
    const archive = await layerArchive([{ kind: 'file', path: 'f', text: at.bytes('x'.repeat(5000)) }])
    return store(at, MediaType.layerGzip, gzipSync(archive).subarray(0, 100))
  }),
  applying('a size that is not its size', async at => ({ ...(await layer(at, MediaType.layer)), size: 3n })),
  applying('a layer that climbs out', at =>
    layer(at, MediaType.layer, [{ kind: 'file', path: '../../out', text: at.bytes() }]),
  ),
  applying('an empty layer', at =>
    layer(at, MediaType.layer, [{ kind: 'directory', path: at.bytes().toString('hex').slice(0, 40) }]),
  ),
  {
    name: 'diff: without a namespace',
    async steps(at) {
      const none = { namespace: '' }
      await at.call(DiffService.apply, { diff: await layer(at, MediaType.layer) }, none)
      await at.call(DiffService.diff, {}, none)
    },
  },
  making('to the default type', ''),
  making('to plain', MediaType.layer),
  making('to gzip', MediaType.layerGzip),
  making('to a docker layer', 'application/vnd.docker.image.rootfs.diff.tar.gzip'),
  making('to an unknown type', 'nonsense'),
  making('to a config’s type', MediaType.config),
  {
    name: 'diff: diff with a ref that is being written',
    async steps(at) {
      const mounts = await prepare(at, 'k')
      await at.upload().send({ action: WriteAction.WRITE, ref: 'made', data: Buffer.from('abc') })
      await at.call(DiffService.diff, {
        left: [],
        right: mounts,
        mediaType: MediaType.layer,
        ref: 'made',
        labels: kept,
      })
    },
  },
]
