// Content.Write: a client's bytes go to the content plugin undecoded; only what starts and ends a write is understood.

import { type EventEmitter, once } from 'node:events'
import { BinaryReader } from '@bufbuild/protobuf/wire'
import {
  alreadyExists,
  Code,
  notFound,
  outOfRange,
  StatusError,
  toStatusError,
  unavailable,
} from '../../../plugins/kit/errors.js'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import { bidi, type CallContext } from '../../../plugins/kit/serve.js'
import {
  WriteAction,
  WriteContentRequest,
  WriteContentResponse,
} from '../../../proto/gen/containerd/services/content/v1/content.js'
import { checkDigest, checkLabels } from '../domain/validate.js'
import { leaseKnownBlob, recordBlob } from '../effects/blobRecords.js'
import type { Blobs } from '../effects/blobs.js'
import type { Runner } from '../runner.js'
import type { StoredBlob } from '../state/namespaceState.js'
import type { Store } from '../state/store.js'
import { type ApiCall, insist, namespacedCall } from './call.js'

interface Deps {
  runner: Runner
  store: Store
  blobs: Blobs
  /** Opens a write at the content plugin, messages as bytes. */
  openWrite(options: { namespace: string; signal: AbortSignal; deadlineMs: number }): Promise<Upstream>
}

/** What of grpc-js's stream to the plugin is used. */
export interface Upstream extends EventEmitter, AsyncIterable<Buffer> {
  write(message: Buffer): boolean
  end(): unknown
  cancel(): void
}

/** What is told of a write request; its data stays where it is. */
type WriteHead = Omit<WriteContentRequest, 'data'> & { dataBytes: number }

export function contentWrite(deps: Deps) {
  return bidi<Buffer, Buffer>(async function* (requests, context) {
    const call = namespacedCall(context, 'Content/Write')
    const incoming = requests[Symbol.asyncIterator]()
    const first = await incoming.next()
    if (first.done) return
    const head = readHead(first.value)
    if (head.expected !== '') insist(checkDigest(head.expected))
    insist(checkLabels(head.labels))
    // Before a byte is taken: what was written under a lease that is gone would be collected at once.
    if (call.lease !== undefined && !deps.store.world.namespace(call.namespace).leases.has(call.lease)) {
      throw notFound(`lease "${call.lease}"`)
    }
    const written = deps.blobs.writing(head.expected)
    try {
      await deps.blobs.settled(head.expected)
      const known = deps.store.world.namespace(call.namespace).blobs.get(head.expected)
      if (known && (await leaseKnownBlob(deps, call, head.expected))) throw alreadyExists(`content ${head.expected}`)
      const shared = sharedSize(deps, head, known)
      const messages = prepend(first.value, incoming)
      if (shared === undefined) yield* passOn(deps, call, messages, context)
      else yield* adopt(deps, call, messages, { digest: head.expected, size: shared })
    } finally {
      written()
    }
  })
}

/**
 * The size of a blob that another namespace holds already: its bytes need not be sent again (containerd's sharing
 * policy "shared").
 */
function sharedSize({ blobs }: Deps, head: WriteHead, known?: StoredBlob): bigint | undefined {
  if (head.expected === '') return undefined
  // Removed while its lease was asked for: its bytes have waited, since they were expected.
  const size = known ? BigInt(known.size) : blobs.sizeAnywhere(head.expected)
  if (size !== undefined && head.total > 0n && head.total !== size) return undefined
  return size
}

/** Bytes through; a commit is answered only after it is journaled. */
async function* passOn(
  deps: Deps,
  call: ApiCall,
  messages: AsyncIterable<Buffer>,
  context: CallContext,
): AsyncGenerator<Buffer> {
  const { namespace } = call
  const { signal } = context
  const upstream = await deps.openWrite({ namespace, signal, deadlineMs: Number.POSITIVE_INFINITY })
  const commits: WriteHead[] = []
  const last = { head: undefined as WriteHead | undefined }
  const forwarding = forward(messages, upstream, head => {
    last.head = head
    if (head.action !== WriteAction.COMMIT) return
    insist(checkLabels(head.labels))
    commits.push(head)
  })
  // Of what was received, as its client was told.
  const received = { digest: '', offset: 0n }
  let refused: unknown
  forwarding.catch((error: unknown) => {
    refused = error
    upstream.cancel()
  })
  try {
    for await (const bytes of upstream) {
      const response = WriteContentResponse.decode(bytes)
      failpoint('plugin.answered.Content.Write')
      Object.assign(received, { digest: response.digest, offset: response.offset })
      if (response.action === WriteAction.COMMIT) await record(deps, call, response, commits.shift()?.labels ?? {})
      yield bytes
    }
    await forwarding
  } catch (error) {
    const failure = toStatusError(refused ?? error)
    const committing = commits.shift()
    const isReceived = committing?.dataBytes === 0 && committing.offset === received.offset
    const digest = committing?.expected || last.head?.expected || (isReceived ? received.digest : '')
    if (failure.code !== Code.ALREADY_EXISTS || digest === '') throw failure
    if (!committing) {
      // Somebody else has brought its bytes and is about to record them, or to remove them: its client may not count on it.
      await deps.blobs.settled(digest)
      if (await leaseKnownBlob(deps, call, digest)) throw failure
      throw unavailable(`content ${digest} is being written or removed: send it again`)
    }
    // The same bytes came into the store another way meanwhile: this namespace holds them as well from now on.
    const size = await deps.blobs.sharing(digest, async size => {
      await recordIn(deps, call, { digest, size, labels: committing.labels })
      return size
    })
    yield answer(WriteAction.COMMIT, digest, size)
  } finally {
    upstream.cancel()
  }
}

async function record(
  deps: Deps,
  call: ApiCall,
  { digest, offset }: WriteContentResponse,
  labels: Record<string, string>,
) {
  await deps.blobs.holding(digest, () => recordIn(deps, call, { digest, size: offset, labels }))
}

async function recordIn(deps: Deps, call: ApiCall, blob: Parameters<typeof recordBlob>[2]): Promise<void> {
  insist(checkLabels(blob.labels))
  if ((await recordBlob(deps, call, blob)) === 'known') throw alreadyExists(`content ${blob.digest}`)
}

/** A write whose bytes are here already: its client is told that all were received, and commits. */
async function* adopt(
  deps: Deps,
  call: ApiCall,
  messages: AsyncIterable<Buffer>,
  blob: { digest: string; size: bigint },
): AsyncGenerator<Buffer> {
  for await (const bytes of messages) {
    const head = readHead(bytes)
    if (head.dataBytes > 0) throw outOfRange(`content ${blob.digest} has all its ${blob.size} bytes: commit it`)
    if (head.action === WriteAction.COMMIT) {
      insist(checkLabels(head.labels))
      if (head.total > 0n && head.total !== blob.size) {
        throw new StatusError(
          Code.FAILED_PRECONDITION,
          `unexpected commit size ${blob.size}, expected ${head.total}: failed precondition`,
        )
      }
      await record(deps, call, { ...emptyResponse, digest: blob.digest, offset: blob.size }, head.labels)
      yield answer(WriteAction.COMMIT, blob.digest, blob.size)
      return
    }
    yield answer(head.action, blob.digest, blob.size)
  }
}

async function forward(
  messages: AsyncIterable<Buffer>,
  upstream: Upstream,
  seen: (head: WriteHead) => void,
): Promise<void> {
  for await (const bytes of messages) {
    seen(readHead(bytes))
    if (!upstream.write(bytes)) await Promise.race([once(upstream, 'drain'), once(upstream, 'close')])
  }
  upstream.end()
}

async function* prepend(first: Buffer, rest: AsyncIterator<Buffer>): AsyncGenerator<Buffer> {
  yield first
  for (let next = await rest.next(); !next.done; next = await rest.next()) yield next.value
}

const emptyResponse: WriteContentResponse = {
  action: WriteAction.COMMIT,
  startedAt: undefined,
  updatedAt: undefined,
  offset: 0n,
  total: 0n,
  digest: '',
}

function answer(action: WriteAction, digest: string, size: bigint): Buffer {
  const response = { ...emptyResponse, action, digest, offset: size, total: size }
  return Buffer.from(WriteContentResponse.encode(response).finish())
}

/** Decodes everything but `data` (field 6), whose length alone is told. Throws INVALID_ARGUMENT. */
export function readHead(bytes: Buffer): WriteHead {
  try {
    const reader = new BinaryReader(bytes)
    const parts: Buffer[] = []
    let dataBytes = 0
    while (reader.pos < reader.len) {
      const start = reader.pos
      const [field, wireType] = reader.tag()
      reader.skip(wireType, field)
      if (field === dataField) dataBytes += reader.pos - start
      else parts.push(bytes.subarray(start, reader.pos))
    }
    const { data: _, ...head } = WriteContentRequest.decode(
      parts.length === 1 && parts[0] ? parts[0] : Buffer.concat(parts),
    )
    return { ...head, dataBytes }
  } catch (error) {
    throw new StatusError(Code.INVALID_ARGUMENT, 'malformed WriteContentRequest: invalid argument', { cause: error })
  }
}

const dataField = 6
