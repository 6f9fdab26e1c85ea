// What every transfer is done under: a namespace, a cause, and a lease that holds what it brings until a name does.
//
// No lifecycle of its own: all that a transfer leaves behind is in facts that exist without it (content, snapshots, the
// image, the lease). A crash leaves the lease, which the next start takes away, and uploads, which another transfer goes
// on with, or which expire. A client whose call was cut off asks again.
import { randomBytes } from 'node:crypto'
import type { Logger } from 'pino'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import { createLease, deleteLease } from '../domain/lease/decide.js'
import { leaseStream } from '../domain/streams.js'
import type { Holder } from '../effects/blobRecords.js'
import { messageOf, ownCause } from '../effects/supervisor.js'
import type { Runner } from '../runner.js'
import type { Store } from '../state/store.js'

export interface Work extends Holder {
  lease: string
  /** Of the call. */
  signal: AbortSignal
}

/** Only a transfer's own leases bear it; its value is the process. */
const label = 'io.purser/transfer'
const expireMs = 24 * 3_600_000

interface Deps {
  runner: Runner
  store: Store
  log: Logger
}

/** Runs `work` under the caller's lease, or under one of its own that ends with it. */
export async function underLease<T>(
  deps: Deps,
  call: Holder & { signal: AbortSignal },
  work: (work: Work) => Promise<T>,
): Promise<T> {
  const { runner } = deps
  const { namespace, cause, signal } = call
  if (call.lease !== undefined) return work({ namespace, cause, lease: call.lease, signal })
  const id = `transfer-${randomBytes(9).toString('hex')}`
  const labels = { 'containerd.io/gc.expire': new Date(Date.now() + expireMs).toISOString(), [label]: `${process.pid}` }
  await runner.complete(cause, leaseStream(namespace, id), world =>
    createLease(namespace, world.namespace(namespace).lease(id), id, labels),
  )
  failpoint('transfer.leased')
  try {
    return await work({ namespace, cause, lease: id, signal })
  } finally {
    await removeLease(deps, namespace, id, cause)
  }
}

/** Takes away the leases of transfers that a supervisor before this one could not finish. */
export async function removeAbandonedLeases(deps: Deps): Promise<void> {
  for (const [namespace, { leases }] of deps.store.world.namespaces)
    for (const [id, { labels }] of leases)
      if (labels[label] !== undefined) await removeLease(deps, namespace, id, ownCause('recovery'))
}

/** A journal that takes no writes holds up neither a start nor the answer to a client. */
async function removeLease(
  { runner, log }: Deps,
  namespace: string,
  id: string,
  cause: Holder['cause'],
): Promise<void> {
  try {
    await runner.attempt(cause, leaseStream(namespace, id), world =>
      deleteLease(namespace, world.namespace(namespace).lease(id), id),
    )
  } catch (error) {
    log.warn({ namespace, lease: id, reason: messageOf(error) }, 'the lease of a transfer stays until it expires')
  }
}
