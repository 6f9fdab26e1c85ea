// containerd.services.containers.v1.Containers: the records from which tasks are made.
import { Code, notFound, StatusError } from '../../../plugins/kit/errors.js'
import { type Served, serverStream, unary } from '../../../plugins/kit/serve.js'
import { Container, type ContainersServer } from '../../../proto/gen/containerd/services/containers/v1/containers.js'
import { createContainer, deleteContainer, updateContainer } from '../domain/container/decide.js'
import { isRefusal, refuse } from '../domain/decision.js'
import type { Filter } from '../domain/filter.js'
import { containerStream } from '../domain/streams.js'
import type { Runner } from '../runner.js'
import type { HeavyParts } from '../state/heavy.js'
import type { StoredContainer } from '../state/namespaceState.js'
import { filtersOf, insist, namespacedCall } from './call.js'
import {
  Attachments,
  fieldsOf,
  fromProto,
  immutableDifference,
  objectionTo,
  recordOf,
  toProto,
  unchangedParts,
  updatable,
  updatablePaths,
} from './containerRecord.js'
import { type ControlLabelsDeps, withoutImagesControl } from './controlLabels.js'
import { applyMask } from './masks.js'
import { sortedByKey } from './order.js'

export interface ContainersDeps extends ControlLabelsDeps {
  runner: Runner
  heavy: HeavyParts
}

/** Specs that a list reads at once: one alone is slow, all of them are too much memory. */
const readsAtOnce = 128

export function containersService(deps: ContainersDeps): Served<ContainersServer> {
  const { runner, store, heavy } = deps
  const stored = (namespace: string, id: string): StoredContainer => {
    const container = store.world.namespace(namespace).containers.get(id)
    if (!container) throw notFound(`container ${JSON.stringify(id)} in namespace ${JSON.stringify(namespace)}`)
    return container
  }
  const matching = (namespace: string, filter: Filter): StoredContainer[] =>
    sortedByKey(store.world.namespace(namespace).containers).filter(container => filter(fieldsOf(recordOf(container))))

  return {
    get: unary(async ({ id }, context) => {
      const { namespace } = namespacedCall(context, 'Containers/Get')
      return { container: await toProto(stored(namespace, id), heavy) }
    }),

    list: unary(async ({ filters }, context) => {
      const { namespace } = namespacedCall(context, 'Containers/List')
      const containers: Container[] = []
      for await (const container of read(matching(namespace, filtersOf(filters)), heavy)) containers.push(container)
      return { containers }
    }),

    listStream: serverStream(async function* ({ filters }, context) {
      const { namespace } = namespacedCall(context, 'Containers/ListStream')
      for await (const container of read(matching(namespace, filtersOf(filters)), heavy)) yield { container }
    }),

    create: unary(async ({ container }, context) => {
      const { namespace, cause } = namespacedCall(context, 'Containers/Create')
      const attachments = new Attachments()
      const wanted = fromProto(container ?? Container.create(), attachments)
      insist(objectionTo(wanted), 'create container failed validation')
      const record = { ...wanted, labels: await withoutImagesControl(deps, namespace, wanted) }
      const sequence = await runner.complete(cause, containerStream(namespace, record.id), world =>
        createContainer(namespace, world.namespace(namespace).container(record.id), record, attachments.values),
      )
      const created = stored(namespace, record.id)
      attachments.keepIn(heavy, recordOf(created), sequence)
      return { container: await toProto(created, heavy) }
    }),

    update: unary(async ({ container, updateMask }, context) => {
      const { namespace, cause } = namespacedCall(context, 'Containers/Update')
      if (!container?.id) throw new StatusError(Code.INVALID_ARGUMENT, 'Container.ID required')
      const { id } = container
      const before = store.world.namespace(namespace).container(id).facts.record
      const unchanged = before ? await unchangedParts(before, container, heavy) : new Set<string>()
      let attachments = new Attachments(unchanged)
      const sequence = await runner.complete(cause, containerStream(namespace, id), world => {
        attachments = new Attachments(unchanged)
        const current = world.namespace(namespace).container(id)
        const record = current.facts.record
        if (!record) return refuse('not-found', `container ${JSON.stringify(id)}`)
        const immutable = updateMask?.length ? undefined : immutableDifference(record, container)
        if (immutable) return refuse('invalid-argument', `container.${immutable} field is immutable`)
        const paths = updateMask?.length ? updateMask : updatablePaths
        const updated = applyMask(record, paths, updatable(container, attachments), `on ${JSON.stringify(id)}`)
        if (isRefusal(updated)) return updated
        const objection = objectionTo(updated)
        if (objection) return refuse('invalid-argument', `update failed validation: ${objection}`)
        return updateContainer(namespace, current, updated, attachments.values)
      })
      const updated = stored(namespace, id)
      attachments.keepIn(heavy, recordOf(updated), sequence)
      return { container: await toProto(updated, heavy) }
    }),

    delete: unary(async ({ id }, context) => {
      const { namespace, cause } = namespacedCall(context, 'Containers/Delete')
      await runner.complete(cause, containerStream(namespace, id), world =>
        deleteContainer(namespace, world.namespace(namespace).container(id), id),
      )
      return {}
    }),
  }
}

/** Reads a few at a time, so that memory stays the same however many there are. */
async function* read(containers: StoredContainer[], heavy: HeavyParts): AsyncGenerator<Container> {
  for (let start = 0; start < containers.length; start += readsAtOnce) {
    const some = containers.slice(start, start + readsAtOnce)
    yield* await Promise.all(some.map(container => toProto(container, heavy)))
  }
}
