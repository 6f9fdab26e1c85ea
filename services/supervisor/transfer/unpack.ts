// An image's layers as snapshots, one upon the other, named by their chain ids as containerd's clients name them.
import { createHash, randomBytes } from 'node:crypto'
import { Code, failedPrecondition, invalidArgument, toStatusError } from '../../../plugins/kit/errors.js'
import { removeSnapshot, type SnapshotPlace } from '../domain/snapshot/decide.js'
import type { DiffCalls } from '../effects/ports.js'
import { type Snapshots, snapshotLane } from '../effects/snapshots.js'
import type { Runner } from '../runner.js'
import { mountToProto } from '../state/convert.js'
import type { Contents } from './contents.js'
import { childrenOf, type Descriptor, diffIdsOf, parseJson } from './oci.js'
import type { Work } from './work.js'

export interface UnpackDeps {
  runner: Runner
  contents: Contents
  snapshots: Snapshots
  differ: DiffCalls
  /** Throws INVALID_ARGUMENT for one that nobody knows. */
  checkSnapshotter(name: string): void
}

/** A layer of many gigabytes on a slow disk; a caller that leaves ends it sooner. */
const deadlineMs = 3_600_000

/** `arrived` resolves when a layer's bytes are here. */
export async function unpack(
  deps: UnpackDeps,
  work: Work,
  manifest: Descriptor,
  snapshotter: string,
  arrived: (layer: Descriptor) => Promise<unknown>,
): Promise<void> {
  const { contents, snapshots } = deps
  const [config, ...layers] = childrenOf(manifest, await contents.document(work, manifest))
  if (!config) throw invalidArgument(`manifest ${manifest.digest} names no config`)
  await arrived(config)
  const diffIds = diffIdsOf(parseJson(await contents.document(work, config), `config ${config.digest}`))
  if (diffIds.length !== layers.length)
    throw invalidArgument(`image ${manifest.digest} has ${layers.length} layers, its config ${diffIds.length}`)
  let parent = ''
  for (const [index, layer] of layers.entries()) {
    const diffId = diffIds[index] ?? ''
    const chainId = parent === '' ? diffId : chained(parent, diffId)
    await arrived(layer)
    const place = { namespace: work.namespace, snapshotter, key: chainId }
    if (!(await snapshots.hold(place, work))) await unpackLayer(deps, work, { layer, diffId, chainId, parent, place })
    await contents.label(work, layer.digest, { 'containerd.io/uncompressed': diffId })
    parent = chainId
  }
  if (parent !== '')
    await contents.label(work, config.digest, { [`containerd.io/gc.ref.snapshot.${snapshotter}`]: parent })
}

/** Source: OCI image spec, "Layer ChainID". */
const chained = (parent: string, diffId: string) =>
  `sha256:${createHash('sha256').update(`${parent} ${diffId}`).digest('hex')}`

interface Step {
  layer: Descriptor
  diffId: string
  chainId: string
  parent: string
  place: SnapshotPlace
}

async function unpackLayer(deps: UnpackDeps, work: Work, { layer, diffId, chainId, parent, place }: Step) {
  const { snapshots, differ } = deps
  const { namespace, cause, lease, signal } = work
  const active = { ...place, key: `extract-${randomBytes(8).toString('hex')} ${chainId}` }
  const labels = { 'containerd.io/snapshot.ref': chainId, ...inherited(layer) }
  const request = { cause, lease, labels, signal }
  const mounts = await snapshots.prepare('active', { ...request, place: active }, parent)
  try {
    const { mediaType, digest, annotations } = layer
    const diff = { mediaType, digest, annotations, size: BigInt(layer.size) }
    const { applied } = await differ.apply(
      { diff, mounts: mounts.map(mountToProto), payloads: {}, syncFs: false },
      { namespace, deadlineMs, signal },
    )
    if (applied?.digest !== diffId)
      throw failedPrecondition(`layer ${layer.digest} unpacks to ${applied?.digest}, its image says ${diffId}`)
    await snapshots.requestCommit({ ...request, place: active }, chainId)
  } catch (error) {
    await discard(deps, work, active)
    // Another has unpacked the same meanwhile.
    if (toStatusError(error).code !== Code.ALREADY_EXISTS || !(await snapshots.hold(place, work))) throw error
  }
}

async function discard({ runner }: UnpackDeps, { cause }: Work, place: SnapshotPlace): Promise<void> {
  const { namespace, snapshotter, key } = place
  await runner.attempt(cause, snapshotLane(place), world => {
    const here = world.namespace(namespace)
    return removeSnapshot(place, here.snapshot(snapshotter, key), here.children(snapshotter, key))
  })
}

/** Annotations of a layer that are meant for the snapshotter (stargz, nydus, …). */
const inherited = ({ annotations }: Descriptor) =>
  Object.fromEntries(Object.entries(annotations).filter(([key]) => key.startsWith('containerd.io/snapshot/')))
