// containerd.services.diff.v1.Diff on the wire: decode and validate, find the trees, let a worker do it, encode.

import { randomUUID } from 'node:crypto'
import type { Logger } from 'pino'
import type {
  ApplyRequest,
  ApplyResponse,
  DiffRequest,
  DiffResponse,
  DiffServer,
} from '../../../proto/gen/containerd/services/diff/v1/diff.js'
import type { Timestamp } from '../../../proto/gen/google/protobuf/timestamp.js'
import { Code, failedPrecondition, invalidArgument, StatusError } from '../../kit/errors.js'
import { failpoint } from '../../kit/failpoint.js'
import { type CallContext, unary } from '../../kit/serve.js'
import { LayerError, type LayerFailure } from '../layer/errors.js'
import type { LayerLimits } from '../layer/limits.js'
import type { PackJob, PackResult } from '../layer/pack.js'
import type { Blobs } from '../store/blobs.js'
import { parseDigest } from '../store/digest.js'
import type { Ingests } from '../store/ingests.js'
import type { IngestWriter } from '../store/writer.js'
import { outputOf, requireLayer, uncompressedLayer } from './mediaTypes.js'
import type { LayerWorkers } from './pool.js'
import { layersOf, type Trees } from './trees.js'

export interface DifferParts {
  blobs: Blobs
  ingests: Ingests
  trees: Trees
  workers: LayerWorkers
  limits: LayerLimits
  /** Sync every unpacked layer, also when the caller does not ask for it. */
  sync: boolean
  zstd: string
  log: Logger
}

/** Where containerd's clients look for the digest of the tar. */
const uncompressedAnnotation = 'containerd.io/uncompressed'

export function diffService(parts: DifferParts): DiffServer {
  return {
    apply: unary((request, context) => translated(() => apply(parts, request, context))),
    diff: unary((request, context) => translated(() => diff(parts, request, context))),
  }
}

async function apply(parts: DifferParts, request: ApplyRequest, { signal }: CallContext): Promise<ApplyResponse> {
  const { blobs, trees, workers, limits, zstd, log } = parts
  if (!request.diff) throw invalidArgument('the descriptor of the layer is missing')
  if (request.mounts.length === 0) throw invalidArgument('the mounts to unpack upon are missing')
  requireLayer(request.diff.mediaType)
  const digest = parseDigest(request.diff.digest)
  await blobs.info(digest) // NOT_FOUND before anything is mounted
  const source = { blob: blobs.path(digest), digest, size: Number(request.diff.size) }
  return trees.withTarget(request.mounts, async target => {
    const sync = request.syncFs || parts.sync
    const reply = await workers.run({ kind: 'apply', ...source, target, limits, sync, zstd }, signal)
    if (reply.kind !== 'applied') throw refusal(reply)
    failpoint('layer.applied')
    const { diffId, size, warnings } = reply.result
    if (warnings.length > 0) log.warn({ digest, warnings }, 'a layer was unpacked with parts left out')
    const applied = { mediaType: uncompressedLayer, digest: diffId, size: BigInt(size), annotations: {} }
    return { applied }
  })
}

async function diff(parts: DifferParts, request: DiffRequest, context: CallContext): Promise<DiffResponse> {
  const { ingests, log } = parts
  const { namespace, signal } = context
  if (namespace === '') throw failedPrecondition('namespace is required')
  if (request.right.length === 0) throw invalidArgument('the mounts of the newer state are missing')
  const { mediaType, compression } = outputOf(request.mediaType)
  const ref = request.ref || `diff-${randomUUID()}`
  const writer = await ingests.writer({ namespace, ref, total: 0n, expected: undefined, signal })
  try {
    if (writer.offset > 0n) await writer.truncate()
    const epochNs = request.sourceDateEpoch && nanosecondsOf(request.sourceDateEpoch)
    const output: Omit<PackJob, 'source'> = { kind: 'pack', output: writer.fd, compression, epochNs, zstd: parts.zstd }
    const { digest, size, diffId, warnings } = await pack(parts, request, output, signal)
    failpoint('layer.packed')
    if (warnings.length > 0) log.warn({ digest, warnings }, 'a layer was made with parts left out')
    await adopt(writer, digest, BigInt(size))
    const annotations = { [uncompressedAnnotation]: diffId }
    return { diff: { mediaType, digest, size: BigInt(size), annotations } }
  } catch (error) {
    await writer.discard()
    throw error
  }
}

/** The upper directory of an overlay is the difference, if the rest of it is what we compare with. */
async function pack(
  { trees, workers }: DifferParts,
  { left, right }: DiffRequest,
  output: Omit<PackJob, 'source'>,
  signal: AbortSignal,
): Promise<PackResult> {
  const upper = upperOver(layersOf(left), layersOf(right))
  if (upper) {
    const reply = await workers.run({ ...output, source: { kind: 'upper', upper } }, signal)
    if (reply.kind === 'packed') return reply.result
    if (reply.kind !== 'refused' || reply.reason !== 'unsupported') throw refusal(reply)
  }
  return trees.withTree(left, leftTree =>
    trees.withTree(right, async rightTree => {
      const reply = await workers.run(
        { ...output, source: { kind: 'trees', left: leftTree, right: rightTree } },
        signal,
      )
      if (reply.kind !== 'packed') throw refusal(reply)
      return reply.result
    }),
  )
}

function upperOver(left: string[] | undefined, right: string[] | undefined): string | undefined {
  if (!left?.length || right?.length !== left.length + 1) return undefined
  return left.every((layer, index) => layer === right[index + 1]) ? right[0] : undefined
}

/** The same difference may have been packed before: then that blob is the answer. */
async function adopt(writer: IngestWriter, digest: string, size: bigint): Promise<void> {
  try {
    await writer.adopt(parseDigest(digest), size)
  } catch (error) {
    if (!(error instanceof StatusError && error.code === Code.ALREADY_EXISTS)) throw error
  }
}

const nanosecondsOf = ({ seconds, nanos }: Timestamp) => seconds * 1_000_000_000n + BigInt(nanos)

function refusal(reply: { kind: string; reason?: LayerFailure; message?: string }): LayerError {
  return new LayerError(reply.reason ?? 'failed', reply.message ?? `the layer worker answered ${reply.kind}`)
}

async function translated<T>(action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (error) {
    if (!(error instanceof LayerError)) throw error
    throw new StatusError(codes[error.reason], error.message, { cause: error })
  }
}

const codes: Record<LayerFailure, Code> = {
  invalid: Code.INVALID_ARGUMENT,
  mismatch: Code.FAILED_PRECONDITION,
  exhausted: Code.RESOURCE_EXHAUSTED,
  unsupported: Code.UNIMPLEMENTED,
  cancelled: Code.CANCELLED,
  failed: Code.UNKNOWN,
}
