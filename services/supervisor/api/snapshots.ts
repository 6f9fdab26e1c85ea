// containerd.services.snapshots.v1.Snapshots: names, labels and mounts from the fold, files from the plugin.
import { type CallContext, type Served, serverStream, unary } from '../../../plugins/kit/serve.js'
import {
  type Info,
  Kind,
  type ListSnapshotsResponse,
  type SnapshotsServer,
} from '../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import { labelField } from '../domain/filter.js'
import { removeSnapshot, type SnapshotPlace, updateSnapshot } from '../domain/snapshot/decide.js'
import { checkLabels, checkName } from '../domain/validate.js'
import { type Snapshots, snapshotLane } from '../effects/snapshots.js'
import { type Runner, refusalStatus } from '../runner.js'
import { mountToProto, timestampToProto } from '../state/convert.js'
import type { StoredSnapshot } from '../state/namespaceState.js'
import type { Store } from '../state/store.js'
import { type ApiCall, filtersOf, insist, namespacedCall } from './call.js'
import { maskedLabels } from './labels.js'

interface Deps {
  runner: Runner
  store: Store
  snapshots: Snapshots
  /** Throws INVALID_ARGUMENT for a snapshotter that nobody knows. */
  checkSnapshotter(name: string): void
}

/** Infos in one message of a list, as containerd sends them. */
const listChunk = 100

export function snapshotsService({ runner, store, snapshots, checkSnapshotter }: Deps): Served<SnapshotsServer> {
  const placeOf = (context: CallContext, method: string, request: { snapshotter: string; key: string }) => {
    const call = namespacedCall(context, `Snapshots/${method}`)
    checkSnapshotter(request.snapshotter)
    insist(checkName('snapshot key', request.key))
    const place: SnapshotPlace = { namespace: call.namespace, snapshotter: request.snapshotter, key: request.key }
    return { call, place }
  }

  const recordOf = ({ namespace, snapshotter, key }: SnapshotPlace): StoredSnapshot => {
    const record = store.world.namespace(namespace).snapshot(snapshotter, key)
    if (!record) throw refusalStatus({ refused: 'not-found', message: `snapshot "${key}"` })
    return record
  }

  const requestOf = (
    { cause, lease }: ApiCall,
    { signal }: CallContext,
    place: SnapshotPlace,
    labels: Record<string, string>,
  ) => {
    insist(checkLabels(labels))
    return { place, cause, lease, labels, signal }
  }

  return {
    prepare: unary(async (request, context) => {
      const { call, place } = placeOf(context, 'Prepare', request)
      const mounts = await snapshots.prepare('active', requestOf(call, context, place, request.labels), request.parent)
      return { mounts: mounts.map(mountToProto) }
    }),

    view: unary(async (request, context) => {
      const { call, place } = placeOf(context, 'View', request)
      const mounts = await snapshots.prepare('view', requestOf(call, context, place, request.labels), request.parent)
      return { mounts: mounts.map(mountToProto) }
    }),

    mounts: unary(async (request, context) => {
      const { place } = placeOf(context, 'Mounts', request)
      return { mounts: (await snapshots.mounts(place, context.signal)).map(mountToProto) }
    }),

    commit: unary(async (request, context) => {
      const { call, place } = placeOf(context, 'Commit', request)
      insist(checkName('snapshot name', request.name))
      await snapshots.requestCommit(requestOf(call, context, place, request.labels), request.name)
      return {}
    }),

    remove: unary(async (request, context) => {
      const { call, place } = placeOf(context, 'Remove', request)
      const { namespace, snapshotter, key } = place
      await runner.run(call.cause, snapshotLane(place), world => {
        const here = world.namespace(namespace)
        return removeSnapshot(place, here.snapshot(snapshotter, key), here.children(snapshotter, key))
      })
      return {}
    }),

    stat: unary(async (request, context) => {
      const { call, place } = placeOf(context, 'Stat', request)
      // An unpacking client asks before it builds upon a layer that somebody else has made.
      if (call.lease !== undefined) await snapshots.hold(place, call)
      return { info: infoOf(place.key, recordOf(place)) }
    }),

    update: unary(async ({ snapshotter, info, updateMask }, context) => {
      const { call, place } = placeOf(context, 'Update', { snapshotter, key: info?.name ?? '' })
      const { namespace, key } = place
      await runner.run(call.cause, snapshotLane(place), world => {
        const current = world.namespace(namespace).snapshot(snapshotter, key)
        const labels = maskedLabels(current?.labels ?? {}, info?.labels ?? {}, updateMask)
        insist(checkLabels(labels))
        return updateSnapshot(place, current, labels)
      })
      return { info: infoOf(key, recordOf(place)) }
    }),

    list: serverStream(async function* ({ snapshotter, filters }, context): AsyncGenerator<ListSnapshotsResponse> {
      const call = namespacedCall(context, 'Snapshots/List')
      checkSnapshotter(snapshotter)
      const accepts = filtersOf(filters)
      let info: Info[] = []
      for (const [key, record] of store.world.namespace(call.namespace).snapshots.get(snapshotter) ?? []) {
        if (!accepts(path => fieldOf(key, record, path))) continue
        info.push(infoOf(key, record))
        if (info.length === listChunk) {
          yield { info }
          info = []
        }
      }
      if (info.length > 0) yield { info }
    }),

    usage: unary(async (request, context) => {
      const { place } = placeOf(context, 'Usage', request)
      return snapshots.usage(place, context.signal)
    }),

    cleanup: unary(async ({ snapshotter }, context) => {
      namespacedCall(context, 'Snapshots/Cleanup')
      checkSnapshotter(snapshotter)
      await snapshots.cleanup(snapshotter)
      return {}
    }),
  }
}

const kinds = { active: Kind.ACTIVE, view: Kind.VIEW, committed: Kind.COMMITTED } as const

function infoOf(name: string, record: StoredSnapshot): Info {
  return {
    name,
    parent: record.parent,
    kind: kinds[record.kind],
    createdAt: timestampToProto(record.createdAt),
    updatedAt: timestampToProto(record.updatedAt),
    labels: { ...record.labels },
  }
}

function fieldOf(name: string, record: StoredSnapshot, [field, ...rest]: readonly string[]): string | undefined {
  switch (field) {
    case 'name':
      return name
    case 'parent':
      return record.parent
    case 'kind':
      return record.kind
    case 'labels':
      return labelField(record.labels, rest)
    default:
      return undefined
  }
}
