// Removes all that a case has left in its namespace, through the API, in an order that works.
import { ContainersService } from '../../../proto/gen/containerd/services/containers/v1/containers.js'
import { ContentService } from '../../../proto/gen/containerd/services/content/v1/content.js'
import { ImagesService } from '../../../proto/gen/containerd/services/images/v1/images.js'
import { LeasesService } from '../../../proto/gen/containerd/services/leases/v1/leases.js'
import { NamespacesService } from '../../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import { type Info, Kind, SnapshotsService } from '../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import { TasksService } from '../../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { Status } from '../../../proto/gen/containerd/v1/types/task.js'
import type { Host } from '../../harness/host.js'

export async function clear({ rpc }: Host, namespace: string): Promise<void> {
  const of = { namespace }
  for (const { id, status } of (await rpc.call(TasksService.list, { filter: '' }, of)).tasks) {
    if (status === Status.PAUSED) await rpc.call(TasksService.resume, { containerId: id }, of)
    if (status !== Status.STOPPED) {
      const ended = rpc.call(TasksService.wait, { containerId: id, execId: '' }, of)
      await rpc
        .call(TasksService.kill, { containerId: id, execId: '', signal: 9, all: true }, of)
        .catch(() => undefined)
      await ended
    }
    await rpc.call(TasksService.delete, { containerId: id }, of)
  }
  for (const { id } of (await rpc.call(ContainersService.list, { filters: [] }, of)).containers)
    await rpc.call(ContainersService.delete, { id }, of)
  for (const { name } of (await rpc.call(ImagesService.list, { filters: [] }, of)).images)
    await rpc.call(ImagesService.delete, { name, sync: false, target: undefined }, of)
  const snapshotter = 'overlayfs'
  const infos = (await rpc.collect(SnapshotsService.list, { snapshotter, filters: [] }, of)).flatMap(({ info }) => info)
  for (const { name: key } of childrenFirst(infos)) await rpc.call(SnapshotsService.remove, { snapshotter, key }, of)
  for (const { info } of await rpc.collect(ContentService.list, { filters: [] }, of))
    for (const { digest } of info) await rpc.call(ContentService.delete, { digest }, of)
  for (const { ref } of (await rpc.call(ContentService.listStatuses, { filters: [] }, of)).statuses)
    await rpc.call(ContentService.abort, { ref }, of)
  for (const { id } of (await rpc.call(LeasesService.list, { filters: [] }, of)).leases)
    await rpc.call(LeasesService.delete, { id, sync: false }, of)
}

/** Of one that nothing was made in there may be no trace. A refusal says what is still in it. */
export async function removeNamespace({ rpc }: Host, name: string): Promise<void> {
  const { namespaces } = await rpc.call(NamespacesService.list, { filter: '' })
  if (namespaces.some(each => each.name === name)) await rpc.call(NamespacesService.delete, { name })
}

function childrenFirst(infos: readonly Info[]): Info[] {
  const depth = (info: Info): number => {
    const parent = infos.find(({ name }) => name === info.parent)
    return parent ? 1 + depth(parent) : 0
  }
  const rank = (info: Info) => 2 * depth(info) + (info.kind === Kind.COMMITTED ? 0 : 1)
  return [...infos].sort((a, b) => rank(b) - rank(a))
}
