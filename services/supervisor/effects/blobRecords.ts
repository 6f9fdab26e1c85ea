// What a namespace is recorded to hold of the content store, and what a lease holds of that.
import { commitContent } from '../domain/content/decide.js'
import { isRefusal, refuse } from '../domain/decision.js'
import { addLeaseResource, withLease } from '../domain/lease/decide.js'
import { contentStream, leaseStream } from '../domain/streams.js'
import type { Labels } from '../domain/values.js'
import { type Cause, type Runner, refusalStatus } from '../runner.js'
import type { Store } from '../state/store.js'

/** In whose name something is recorded. */
export interface Holder {
  namespace: string
  cause: Cause
  /** The lease that it is added to; undefined for none. */
  lease: string | undefined
}

/**
 * Whether a namespace holds a blob. If so, the call's lease holds it as well from now on, whoever brought it: the client
 * need not send it, and counts on it.
 */
export async function leaseKnownBlob(
  { runner, store }: { runner: Runner; store: Store },
  { namespace, cause, lease }: Holder,
  digest: string,
): Promise<boolean> {
  const isKnown = () => store.world.namespace(namespace).blobs.has(digest)
  if (lease === undefined || !isKnown()) return isKnown()
  const outcome = await runner.attempt(cause, leaseStream(namespace, lease), world => {
    const here = world.namespace(namespace)
    if (!here.blobs.has(digest)) return refuse('not-found', `content ${digest}`)
    return addLeaseResource(namespace, here.lease(lease), lease, { type: 'content', id: digest })
  })
  if (isRefusal(outcome) && isKnown()) throw refusalStatus(outcome)
  return isKnown()
}

/** Records that a namespace holds a blob whose bytes are in the store. Holding it already is no failure here. */
export async function recordBlob(
  { runner, store }: { runner: Runner; store: Store },
  call: Holder,
  blob: { digest: string; size: bigint; labels: Labels },
): Promise<'recorded' | 'known'> {
  const { namespace, cause, lease } = call
  const outcome = await runner.attempt(cause, contentStream(namespace, blob.digest), world => {
    const here = world.namespace(namespace)
    const held = lease === undefined ? undefined : { id: lease, view: here.lease(lease) }
    const decision = commitContent(namespace, here.blobs.get(blob.digest), blob)
    return withLease(decision, namespace, held, { type: 'content', id: blob.digest })
  })
  if (!isRefusal(outcome)) return 'recorded'
  if (outcome.refused === 'already-exists' && (await leaseKnownBlob({ runner, store }, call, blob.digest)))
    return 'known'
  throw refusalStatus(outcome)
}
