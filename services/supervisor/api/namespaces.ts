// containerd.services.namespaces.v1.Namespaces: the names that keep clients apart, and their labels.
import { type Served, unary } from '../../../plugins/kit/serve.js'
import type { Namespace, NamespacesServer } from '../../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import { isRefusal } from '../domain/decision.js'
import { createNamespace, deleteNamespace, updateNamespace } from '../domain/namespace/decide.js'
import { namespaceStream } from '../domain/streams.js'
import { checkIdentifier, checkLabels } from '../domain/validate.js'
import type { Labels } from '../domain/values.js'
import type { Runner } from '../runner.js'
import { withoutEmpty } from '../state/convert.js'
import type { Store } from '../state/store.js'
import { causeOf, insist } from './call.js'
import { applyMask, type Updatable, withLabel } from './masks.js'
import { sortedEntries } from './order.js'

export interface NamespacesDeps {
  runner: Runner
  store: Store
}

export function namespacesService({ runner, store }: NamespacesDeps): Served<NamespacesServer> {
  return {
    // One that was never used is as good as any other: clients ask before their first use.
    get: unary(({ name }) => {
      insist(checkIdentifier(name))
      return { namespace: toProto(name, store.world.namespace(name).labels) }
    }),

    list: unary(() => ({
      namespaces: sortedEntries(store.world.namespaces).map(([name, { labels }]) => toProto(name, labels)),
    })),

    create: unary(async ({ namespace }, context) => {
      const { name, labels } = valid(namespace)
      await runner.complete(causeOf(context, 'Namespaces/Create'), namespaceStream(name), world =>
        createNamespace(world.namespaces.get(name), name, labels),
      )
      return { namespace: toProto(name, labels) }
    }),

    update: unary(async ({ namespace, updateMask }, context) => {
      const { name, labels } = valid(namespace)
      await runner.complete(causeOf(context, 'Namespaces/Update'), namespaceStream(name), world => {
        // As in containerd, setting labels is a first use too.
        const current = world.namespace(name)
        const updated = updateMask?.length ? applyMask(current, updateMask, updatable(labels), '') : { labels }
        return isRefusal(updated) ? updated : updateNamespace(current, name, updated.labels)
      })
      return { namespace: undefined }
    }),

    delete: unary(async ({ name }, context) => {
      await runner.complete(causeOf(context, 'Namespaces/Delete'), namespaceStream(name), world =>
        deleteNamespace(world.namespaces.get(name), name, world.namespace(name).contents()),
      )
      return {}
    }),
  }
}

function valid(namespace: Namespace | undefined): { name: string; labels: Labels } {
  const { name, labels } = namespace ?? { name: '', labels: {} }
  insist(checkIdentifier(name))
  insist(checkLabels(labels), 'namespace.Labels')
  return { name, labels: withoutEmpty(labels) }
}

const toProto = (name: string, labels: Labels): Namespace => ({ name, labels: { ...labels } })

/** containerd updates labels one by one, or all of them without a mask; it refuses the path "labels". */
const updatable = (wanted: Labels): Updatable<{ labels: Labels }> => ({
  fields: {},
  entries: { labels: ({ labels }, key) => ({ labels: withLabel(labels, key, wanted) }) },
})
