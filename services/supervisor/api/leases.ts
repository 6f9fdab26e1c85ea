// containerd.services.leases.v1.Leases: what keeps resources from garbage collection while a client works.
import { randomBytes } from 'node:crypto'
import { invalidArgument, notFound, unimplemented } from '../../../plugins/kit/errors.js'
import { type Served, unary } from '../../../plugins/kit/serve.js'
import type { Lease, LeasesServer, Resource } from '../../../proto/gen/containerd/services/leases/v1/leases.js'
import { labelField, present } from '../domain/filter.js'
import { addLeaseResource, createLease, deleteLease, removeLeaseResource } from '../domain/lease/decide.js'
import type { LeaseResource } from '../domain/lease/events.js'
import { leaseStream } from '../domain/streams.js'
import { checkDigest, checkName } from '../domain/validate.js'
import type { Runner } from '../runner.js'
import { timestampToProto, withoutEmpty } from '../state/convert.js'
import type { StoredLease } from '../state/namespaceState.js'
import type { Store } from '../state/store.js'
import { filtersOf, insist, namespacedCall } from './call.js'
import { sortedEntries } from './order.js'

export interface LeasesDeps {
  runner: Runner
  store: Store
  /** Resolves when what nothing holds is gone. */
  collect(): Promise<void>
}

export function leasesService({ runner, store, collect }: LeasesDeps): Served<LeasesServer> {
  const stored = (namespace: string, id: string): StoredLease => {
    const lease = store.world.namespace(namespace).leases.get(id)
    if (!lease) throw notFound(`lease ${JSON.stringify(id)}`)
    return lease
  }

  return {
    create: unary(async ({ id: wanted, labels }, context) => {
      const { namespace, cause } = namespacedCall(context, 'Leases/Create')
      const id = wanted === '' ? randomBytes(12).toString('hex') : wanted
      // Not an identifier: docker's leases are named "moby-image-sha256:…".
      insist(checkName('lease id', id))
      await runner.complete(cause, leaseStream(namespace, id), world =>
        createLease(namespace, world.namespace(namespace).lease(id), id, withoutEmpty(labels)),
      )
      return { lease: toProto(id, stored(namespace, id)) }
    }),

    delete: unary(async ({ id, sync }, context) => {
      const { namespace, cause } = namespacedCall(context, 'Leases/Delete')
      await runner.complete(cause, leaseStream(namespace, id), world =>
        deleteLease(namespace, world.namespace(namespace).lease(id), id),
      )
      if (sync) await collect()
      return {}
    }),

    list: unary(({ filters }, context) => {
      const { namespace } = namespacedCall(context, 'Leases/List')
      const filter = filtersOf(filters)
      const leases = sortedEntries(store.world.namespace(namespace).leases).filter(([id, { labels }]) =>
        filter(([field, ...rest]) => {
          if (field === 'id') return present(id)
          return field === 'labels' ? labelField(labels, rest) : undefined
        }),
      )
      return { leases: leases.map(([id, lease]) => toProto(id, lease)) }
    }),

    addResource: unary(async ({ id, resource: named }, context) => {
      const { namespace, cause } = namespacedCall(context, 'Leases/AddResource')
      const resource = checkedResource(named)
      await runner.complete(cause, leaseStream(namespace, id), world =>
        addLeaseResource(namespace, world.namespace(namespace).lease(id), id, resource),
      )
      return {}
    }),

    deleteResource: unary(async ({ id, resource: named }, context) => {
      const { namespace, cause } = namespacedCall(context, 'Leases/DeleteResource')
      const resource = checkedResource(named)
      await runner.complete(cause, leaseStream(namespace, id), world =>
        removeLeaseResource(namespace, world.namespace(namespace).lease(id), id, resource),
      )
      return {}
    }),

    listResources: unary(({ id }, context) => {
      const { namespace } = namespacedCall(context, 'Leases/ListResources')
      const types = sortedEntries(stored(namespace, id).resources)
      return { resources: types.flatMap(([type, ids]) => [...ids].sort().map(id => ({ type, id }))) }
    }),
  }
}

const toProto = (id: string, { createdAt, labels }: StoredLease): Lease => ({
  id,
  createdAt: timestampToProto(createdAt),
  labels: { ...labels },
})

/** "content", "ingests", "images" or "snapshots/<snapshotter>". */
function checkedResource(resource: Resource | undefined): LeaseResource {
  if (!resource) throw invalidArgument('lease resource must be set')
  const { type, id } = resource
  if (id === '') throw invalidArgument('lease resource id must be set')
  const parts = type.split('/')
  switch (parts[0]) {
    case 'content':
    case 'ingests':
    case 'images':
      if (parts.length !== 1) throw invalidArgument(`invalid resource type ${type}`)
      if (type === 'content') insist(checkDigest(id), 'invalid content resource id')
      return { type, id }
    case 'snapshots':
      if (parts.length !== 2 || parts[1] === '') throw invalidArgument(`invalid snapshot resource type ${type}`)
      return { type, id }
    default:
      throw unimplemented(`resource type ${type} not supported yet`)
  }
}
