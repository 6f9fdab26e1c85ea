// What every API handler needs to know of its call, checked once.
import { Code, invalidArgument, StatusError } from '../../../plugins/kit/errors.js'
import type { CallContext } from '../../../plugins/kit/serve.js'
import type { Actor } from '../../../proto/gen/purser/journal/v1/record.js'
import { type Filter, type FilterError, parseFilters } from '../domain/filter.js'
import { checkIdentifier, type Objection } from '../domain/validate.js'
import type { Cause } from '../runner.js'
import { linearRegExp } from './linearRegExp.js'
import { correlationOf, onceOf, single } from './request.js'

export interface ApiCall {
  namespace: string
  cause: Cause
  /** The lease that what this call makes is added to; undefined for none. */
  lease: string | undefined
}

/**
 * The call of a method that works in a namespace. Throws FAILED_PRECONDITION without one, as containerd does.
 * `method` is what the journal names as the cause: "Tasks/Create".
 */
export function namespacedCall(context: CallContext, method: string): ApiCall {
  const { namespace } = context
  if (namespace === '') {
    throw new StatusError(
      Code.FAILED_PRECONDITION,
      'namespace is required: failed precondition (send the metadata "containerd-namespace")',
    )
  }
  insist(checkIdentifier(namespace), 'namespace')
  return { namespace, cause: causeOf(context, method), lease: single(context.metadata, 'containerd-lease') }
}

export function causeOf(context: Pick<CallContext, 'metadata' | 'peer'>, method: string): Cause {
  const once = onceOf(context.metadata)
  const correlation = correlationOf(context.metadata)
  return { actor: actorOf(context.peer), causation: method, correlation, ...(once && { once }) }
}

/** Throws INVALID_ARGUMENT when there is an objection. */
export function insist(objection: Objection, what?: string): void {
  if (objection) throw invalidArgument(what ? `${what}: ${objection}` : objection)
}

/** The filters of a request; a malformed one is INVALID_ARGUMENT. */
export function filtersOf(sources: readonly string[]): Filter {
  try {
    return parseFilters(sources, linearRegExp)
  } catch (error) {
    if (isFilterError(error)) throw invalidArgument(error.message)
    throw error
  }
}

const isFilterError = (error: unknown): error is FilterError => error instanceof Error && error.name === 'FilterError'

/** The listener names the peer as `pid=1,uid=0,gid=0`, followed by grpc-js's `:port`. */
export function actorOf(peer: string): Actor {
  const match = /^pid=(\d+),uid=(\d+),gid=(\d+)/.exec(peer)
  return { pid: Number(match?.[1] ?? 0), uid: Number(match?.[2] ?? 0), gid: Number(match?.[3] ?? 0), name: '' }
}
