// containerd.services.sandbox.v1.Store: the records of sandboxes. What runs is the controllers' business.
import { notFound } from '../../../plugins/kit/errors.js'
import { type Served, unary } from '../../../plugins/kit/serve.js'
import type { StoreServer } from '../../../proto/gen/containerd/services/sandbox/v1/sandbox.js'
import { Sandbox } from '../../../proto/gen/containerd/types/sandbox.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'
import { isRefusal, refuse } from '../domain/decision.js'
import { type Fields, labelField, present } from '../domain/filter.js'
import type { SandboxRecord } from '../domain/sandbox/events.js'
import { createSandboxRecord, deleteSandboxRecord, updateSandboxRecord } from '../domain/sandbox/record.js'
import { sandboxRecordStream } from '../domain/streams.js'
import { checkIdentifier, checkLabels, type Objection } from '../domain/validate.js'
import type { Runner } from '../runner.js'
import { anyFromSmall, smallFromAny, timestampToProto, withoutEmpty } from '../state/convert.js'
import type { HeavyParts } from '../state/heavy.js'
import type { StoredSandbox } from '../state/namespaceState.js'
import type { Store } from '../state/store.js'
import { filtersOf, insist, namespacedCall } from './call.js'
import { Attachments, mapValues, readParts, unchangedParts } from './containerRecord.js'
import { applyMask, own, type Updatable, withLabel } from './masks.js'
import { sortedByKey } from './order.js'

interface Deps {
  runner: Runner
  store: Store
  heavy: HeavyParts
}

export function sandboxStore({ runner, store, heavy }: Deps): Served<StoreServer> {
  const stored = (namespace: string, id: string): StoredSandbox => {
    const sandbox = store.world.namespace(namespace).sandboxes.get(id)
    if (!sandbox) throw notFound(`sandbox ${JSON.stringify(id)} in namespace ${JSON.stringify(namespace)}`)
    return sandbox
  }

  return {
    create: unary(async ({ sandbox }, context) => {
      const { namespace, cause } = namespacedCall(context, 'SandboxStore/Create')
      const attachments = new Attachments()
      const record = fromProto(sandbox ?? Sandbox.create(), attachments)
      insist(objectionTo(record), 'failed to validate sandbox')
      const sequence = await runner.complete(cause, sandboxRecordStream(namespace, record.id), world =>
        createSandboxRecord(
          namespace,
          world.namespace(namespace).sandboxes.get(record.id)?.record,
          record,
          attachments.values,
        ),
      )
      const created = stored(namespace, record.id)
      attachments.keepIn(heavy, created.record, sequence)
      return { sandbox: await toProto(created, heavy) }
    }),

    update: unary(async ({ sandbox, fields }, context) => {
      const { namespace, cause } = namespacedCall(context, 'SandboxStore/Update')
      const wanted = sandbox ?? Sandbox.create()
      const { sandboxId: id } = wanted
      const before = store.world.namespace(namespace).sandboxes.get(id)?.record
      const unchanged = before ? await unchangedParts(before, wanted, heavy) : new Set<string>()
      let attachments = new Attachments(unchanged)
      const sequence = await runner.complete(cause, sandboxRecordStream(namespace, id), world => {
        attachments = new Attachments(unchanged)
        const record = world.namespace(namespace).sandboxes.get(id)?.record
        if (!record) return refuse('not-found', `sandbox ${JSON.stringify(id)}`)
        // Without paths a client says the whole record, so another name is its mistake; "runtime" replaces name and options.
        if (fields.length === 0 && record.runtime.name !== (wanted.runtime?.name ?? ''))
          return refuse('invalid-argument', 'sandbox.Runtime.Name field is immutable')
        const paths = fields.length > 0 ? fields : updatablePaths
        const updated = applyMask(record, paths, updatable(wanted, attachments), `on sandbox ${JSON.stringify(id)}`)
        if (isRefusal(updated)) return updated
        const objection = objectionTo(updated)
        if (objection) return refuse('invalid-argument', `failed to validate sandbox: ${objection}`)
        return updateSandboxRecord(namespace, record, updated, attachments.values)
      })
      const updated = stored(namespace, id)
      attachments.keepIn(heavy, updated.record, sequence)
      return { sandbox: await toProto(updated, heavy) }
    }),

    delete: unary(async ({ sandboxId: id }, context) => {
      const { namespace, cause } = namespacedCall(context, 'SandboxStore/Delete')
      await runner.complete(cause, sandboxRecordStream(namespace, id), world =>
        deleteSandboxRecord(namespace, world.namespace(namespace).sandboxes.get(id)?.record, id),
      )
      return {}
    }),

    list: unary(async ({ filters }, context) => {
      const { namespace } = namespacedCall(context, 'SandboxStore/List')
      const filter = filtersOf(filters)
      const list: Sandbox[] = []
      for (const sandbox of sortedByKey(store.world.namespace(namespace).sandboxes))
        if (filter(fieldsOf(sandbox.record))) list.push(await toProto(sandbox, heavy))
      return { list }
    }),

    get: unary(async ({ sandboxId }, context) => {
      const { namespace } = namespacedCall(context, 'SandboxStore/Get')
      return { sandbox: await toProto(stored(namespace, sandboxId), heavy) }
    }),
  }
}

function fromProto({ sandboxId, labels, runtime, spec, extensions, sandboxer }: Sandbox, attachments: Attachments) {
  const record: SandboxRecord = {
    id: sandboxId,
    labels: withoutEmpty(labels),
    runtime: runtimeOf(runtime),
    spec: spec ? attachments.add(spec) : null,
    extensions: mapValues(extensions, extension => attachments.add(extension)),
    sandboxer,
  }
  return record
}

async function toProto({ record, createdAt, updatedAt }: StoredSandbox, heavy: HeavyParts): Promise<Sandbox> {
  const { id, labels, runtime, sandboxer } = record
  return {
    sandboxId: id,
    runtime: { name: runtime.name, options: runtime.options ? anyFromSmall(runtime.options) : undefined },
    labels: { ...labels },
    ...(await readParts(record, heavy)),
    createdAt: timestampToProto(createdAt),
    updatedAt: timestampToProto(updatedAt),
    sandboxer,
  }
}

const runtimeOf = (runtime: Sandbox['runtime']): SandboxRecord['runtime'] => ({
  name: runtime?.name ?? '',
  options: runtime?.options ? smallFromAny(runtime.options) : null,
})

function objectionTo({ id, labels, extensions }: SandboxRecord): Objection {
  const objection = checkIdentifier(id)
  if (objection) return `invalid sandbox ID: ${objection}`
  if (Object.hasOwn(extensions, '')) return 'extension keys must not be zero-length'
  return checkLabels(labels)
}

const updatablePaths = ['labels', 'extensions', 'spec', 'runtime']

function updatable(wanted: Sandbox, attachments: Attachments): Updatable<SandboxRecord> {
  const extension = (record: SandboxRecord, name: string, value: Any) =>
    attachments.add(value, own(record.extensions, name))
  return {
    fields: {
      labels: record => ({ ...record, labels: withoutEmpty(wanted.labels) }),
      extensions: record => ({
        ...record,
        extensions: mapValues(wanted.extensions, (value, name) => extension(record, name, value)),
      }),
      spec: record => ({ ...record, spec: wanted.spec ? attachments.add(wanted.spec, record.spec) : null }),
      runtime: record => ({ ...record, runtime: runtimeOf(wanted.runtime) }),
    },
    entries: {
      labels: (record, key) => ({ ...record, labels: withLabel(record.labels, key, wanted.labels) }),
      extensions: (record, name) => {
        const { [name]: _before, ...others } = record.extensions
        const value = own(wanted.extensions, name)
        return { ...record, extensions: value ? { ...others, [name]: extension(record, name, value) } : others }
      },
    },
  }
}

/** As for containers, and the controller. */
function fieldsOf({ id, labels, runtime, sandboxer }: SandboxRecord): Fields {
  return ([field, ...rest]) => {
    switch (field) {
      case 'id':
        return present(id)
      case 'sandboxer':
        return present(sandboxer)
      case 'runtime':
        return rest[0] === 'name' ? present(runtime.name) : undefined
      case 'labels':
        return labelField(labels, rest)
      default:
        return undefined
    }
  }
}
