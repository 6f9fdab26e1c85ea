// containerd.services.snapshots.v1.Snapshots upon the rules: decode, ask, encode.
import {
  type Info,
  Kind,
  type SnapshotsServer,
  SnapshotsService,
} from '../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import type { Timestamp } from '../../proto/gen/google/protobuf/timestamp.js'
import { invalidArgument } from '../kit/errors.js'
import type { PluginService } from '../kit/plugin.js'
import { serverStream, unary } from '../kit/serve.js'
import { parseFilters } from './filter.js'
import type { Snapshot } from './snapshot.js'
import type { Snapshots } from './snapshots.js'

/** Infos per message of List, as its contract says. */
const infosPerMessage = 100

/** The requests' `snapshotter` is not looked at: who calls this socket has chosen. */
export function snapshotsService(snapshots: Snapshots): PluginService {
  const implementation: SnapshotsServer = {
    prepare: unary(async ({ key, parent, labels }) => ({ mounts: await snapshots.prepare(key, parent, labels) })),
    view: unary(async ({ key, parent, labels }) => ({ mounts: await snapshots.view(key, parent, labels) })),
    mounts: unary(({ key }) => ({ mounts: snapshots.mounts(key) })),
    commit: unary(async ({ name, key, labels, parent }) => {
      await snapshots.commit(name, key, labels, parent)
      return {}
    }),
    remove: unary(async ({ key }) => {
      await snapshots.remove(key)
      return {}
    }),
    stat: unary(({ key }) => ({ info: infoOf(snapshots.stat(key)) })),
    update: unary(async ({ info, updateMask }) => {
      if (!info) throw invalidArgument('info is missing')
      return { info: infoOf(await snapshots.update(info.name, info.labels, updateMask ?? [])) }
    }),
    list: serverStream(async function* ({ filters }) {
      const matching = snapshots.list().filter(parseFilters(filters))
      for (let at = 0; at < matching.length; at += infosPerMessage)
        yield { info: matching.slice(at, at + infosPerMessage).map(infoOf) }
    }),
    usage: unary(async ({ key }) => {
      const { bytes, inodes } = await snapshots.usage(key)
      return { size: bytes, inodes }
    }),
    cleanup: unary(async () => {
      await snapshots.cleanup()
      return {}
    }),
  }
  return { definition: SnapshotsService, implementation }
}

const kinds = { active: Kind.ACTIVE, view: Kind.VIEW, committed: Kind.COMMITTED } as const

function infoOf(snapshot: Snapshot): Info {
  return {
    name: snapshot.name,
    parent: snapshot.parent,
    kind: kinds[snapshot.kind],
    createdAt: timestamp(snapshot.createdAt),
    updatedAt: timestamp(snapshot.updatedAt),
    labels: { ...snapshot.labels },
  }
}

function timestamp(nanoseconds: bigint): Timestamp {
  return { seconds: nanoseconds / 1_000_000_000n, nanos: Number(nanoseconds % 1_000_000_000n) }
}
