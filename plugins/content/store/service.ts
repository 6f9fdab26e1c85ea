// containerd.services.content.v1.Content on the wire: decode and validate, ask blobs and ingests, encode.
import {
  type Info,
  type ListContentResponse,
  type ReadContentRequest,
  type Status,
  WriteAction,
  type WriteContentRequest,
  type WriteContentResponse,
} from '../../../proto/gen/containerd/services/content/v1/content.js'
import type { Timestamp } from '../../../proto/gen/google/protobuf/timestamp.js'
import { alreadyExists, failedPrecondition, invalidArgument, outOfRange, unimplemented } from '../../kit/errors.js'
import { bidi, type CallContext, serverStream, unary } from '../../kit/serve.js'
import type { BlobInfo, Blobs } from './blobs.js'
import { parseDigest } from './digest.js'
import { parseFilters } from './filters.js'
import { type IngestStatus, type Ingests, refLengthMax } from './ingests.js'
import { type ContentImplementation, encodeRead, readRoom } from './wire.js'
import type { IngestWriter } from './writer.js'

const listBatch = 100
const readChunk = 1 << 20

export function contentService(blobs: Blobs, ingests: Ingests): ContentImplementation {
  return {
    info: unary(async ({ digest }) => ({ info: encodeInfo(await blobs.info(parseDigest(digest))) })),
    update: unary(() => {
      throw unimplemented('labels are kept by the supervisor: update of content')
    }),
    list: serverStream(({ filters }) => list(blobs, filters)),
    delete: unary(async ({ digest }) => {
      await blobs.remove(parseDigest(digest))
      return {}
    }),
    read: serverStream(request => read(blobs, request)),
    status: unary(async ({ ref }, context) => ({
      status: encodeStatus(await ingests.status(namespaceOf(context), ref)),
    })),
    listStatuses: unary(async ({ filters }, context) => {
      const matches = parseFilters(filters)
      const statuses = await ingests.list(namespaceOf(context))
      return { statuses: statuses.filter(({ ref }) => matches({ ref })).map(encodeStatus) }
    }),
    write: bidi<WriteContentRequest, WriteContentResponse>((requests, context) =>
      write(blobs, ingests, requests, context),
    ),
    abort: unary(async ({ ref }, context) => {
      await ingests.abort(namespaceOf(context), ref)
      return {}
    }),
  }
}

async function* list(blobs: Blobs, filters: string[]): AsyncGenerator<ListContentResponse> {
  const matches = parseFilters(filters)
  let info: Info[] = []
  for await (const blob of blobs.list()) {
    if (!matches({ digest: blob.digest, size: `${blob.size}` })) continue
    info.push(encodeInfo(blob))
    if (info.length < listBatch) continue
    yield { info }
    info = []
  }
  if (info.length > 0) yield { info }
}

/** Offsets in the answers count from where the read began, as containerd's do. */
async function* read(blobs: Blobs, request: ReadContentRequest): AsyncGenerator<Buffer> {
  const digest = parseDigest(request.digest)
  const file = await blobs.openForReading(digest)
  try {
    const { size } = await file.stat()
    const start = Math.max(0, Number(request.offset))
    if (start > size) throw outOfRange(`read past object length ${size} bytes`)
    const wanted = Number(request.size)
    const end = wanted > 0 ? Math.min(size, start + wanted) : size
    for (let at = start; at < end; ) {
      const length = Math.min(readChunk, end - at)
      const buffer = Buffer.allocUnsafe(readRoom + length)
      const { bytesRead } = await file.read(buffer, readRoom, length, at)
      if (bytesRead === 0) throw outOfRange(`content ${digest} was cut off at ${at} bytes`)
      yield encodeRead(buffer, bytesRead, at - start)
      at += bytesRead
    }
  } finally {
    await file.close()
  }
}

async function* write(
  blobs: Blobs,
  ingests: Ingests,
  requests: AsyncIterable<WriteContentRequest>,
  context: CallContext,
): AsyncGenerator<WriteContentResponse> {
  const namespace = namespaceOf(context)
  const { signal } = context
  let writer: IngestWriter | undefined
  try {
    for await (const request of requests) {
      const expected = request.expected === '' ? undefined : parseDigest(request.expected)
      if (!writer) {
        const { ref, total } = request
        if (ref === '') throw invalidArgument('first message must have a reference')
        writer = await ingests.writer({ namespace, ref, total, expected, signal })
      }
      writer.announce(request.total, expected)
      if (expected && blobs.has(expected)) {
        await writer.discard()
        throw alreadyExists(`blob with expected digest ${expected}`)
      }
      yield await step(writer, request)
      if (request.action === WriteAction.COMMIT) return
    }
  } finally {
    await writer?.close()
  }
}

async function step(
  writer: IngestWriter,
  { action, offset, data }: WriteContentRequest,
): Promise<WriteContentResponse> {
  if (action === WriteAction.STAT)
    return {
      action,
      startedAt: encodeMilliseconds(writer.startedAt),
      updatedAt: encodeMilliseconds(writer.updatedAt),
      offset: writer.offset,
      total: writer.total,
      digest: writer.digest(),
    }
  if (action !== WriteAction.WRITE && action !== WriteAction.COMMIT) throw invalidArgument(`action ${action}`)
  if (offset === 0n && writer.offset > 0n) await writer.truncate()
  else if (offset !== writer.offset) throw outOfRange(`write @${offset} must occur at current offset ${writer.offset}`)
  if (data.length > 0) await writer.write(data)
  const digest = action === WriteAction.COMMIT ? await writer.commit() : writer.digest()
  return { action, startedAt: undefined, updatedAt: undefined, offset: writer.offset, total: 0n, digest }
}

function namespaceOf({ namespace }: CallContext): string {
  if (namespace === '') throw failedPrecondition('namespace is required')
  if (namespace.length > refLengthMax) throw invalidArgument('the namespace is too long')
  return namespace
}

function encodeInfo({ digest, size, createdNs }: BlobInfo): Info {
  const time = encodeNanoseconds(createdNs)
  return { digest, size, createdAt: time, updatedAt: time, labels: {} }
}

function encodeStatus({ ref, offset, total, startedNs, updatedNs }: IngestStatus): Status {
  const startedAt = encodeNanoseconds(startedNs)
  return { ref, offset, total, startedAt, updatedAt: encodeNanoseconds(updatedNs), expected: '' }
}

const encodeMilliseconds = (ms: number): Timestamp => encodeNanoseconds(BigInt(ms) * 1_000_000n)

function encodeNanoseconds(ns: bigint): Timestamp {
  return { seconds: ns / 1_000_000_000n, nanos: Number(ns % 1_000_000_000n) }
}
