// What a request is called: the client's own id, the trace that it belongs to, or a name of ours.
import { randomUUID } from 'node:crypto'
import type { Metadata } from '@grpc/grpc-js'
import { invalidArgument } from '../../../plugins/kit/errors.js'
import { checkRequestId } from '../domain/validate.js'
import type { Once } from '../runner.js'

/** The id by which a repeat is known; undefined when the client gave none. Throws INVALID_ARGUMENT. */
export function requestIdOf(metadata: Metadata): string | undefined {
  const id = single(metadata, 'purser-request-id')
  const objection = id === undefined ? undefined : checkRequestId(id)
  if (objection) throw invalidArgument(`purser-request-id: ${objection}`)
  return id
}

/** What the journal keeps through everything that follows from a request. */
export function correlationOf(metadata: Metadata): string {
  return requestIdOf(metadata) ?? traceIdOf(metadata) ?? randomUUID()
}

/** Undefined also for a malformed header, which W3C Trace Context (§3.2.2) asks to ignore. */
function traceIdOf(metadata: Metadata): string | undefined {
  const header = single(metadata, 'traceparent')
  const [, version, trace, parent, more] =
    /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?$/.exec(header ?? '') ?? []
  if (version === 'ff' || (version === '00' && more !== undefined)) return undefined
  return trace === undefined || /^0+$/.test(trace) || /^0+$/.test(parent ?? '') ? undefined : trace
}

const marked = new WeakMap<Metadata, Once>()

/** Has the first facts of this call bring along that its request was taken up. */
export function markOnce(metadata: Metadata, once: Once): void {
  marked.set(metadata, once)
}

export const onceOf = (metadata: Metadata): Once | undefined => marked.get(metadata)

/** A header's only value; undefined when it is missing or empty. */
export function single(metadata: Metadata, key: string): string | undefined {
  const value = metadata.get(key)[0]?.toString()
  return value === '' ? undefined : value
}
