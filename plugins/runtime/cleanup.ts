// Cleaning up after a shim that is gone, by its binary's own means and ours.
import type { DeleteResponse } from '../../proto/gen/containerd/task/v2/shim.js'
import type { TaskName } from './bundle.js'
import { removeCgroups } from './cgroups.js'
import type { RuntimeBase } from './context.js'
import type { History } from './history.js'
import { deleteByShim, type ShimCommand } from './launch.js'
import { unmountBelow } from './mounts.js'
import { markVariable, newMark } from './strays.js'

/** For the last processes in a cgroup to be gone. */
const cgroupsMs = 2000

/** How a shim binary is called for a task. */
export function shimCommand(
  { settings, searchPath }: RuntimeBase,
  name: TaskName,
  history: History,
  mark = newMark(),
): ShimCommand {
  const environment = {
    PATH: searchPath,
    TTRPC_ADDRESS: settings.ttrpc,
    GRPC_ADDRESS: settings.address,
    NAMESPACE: name.namespace,
    MAX_SHIM_VERSION: '3',
    ...markVariable(mark),
  }
  const { origin, bundle } = history
  return { ...name, binary: origin?.binary ?? '', bundle, environment, mark, address: settings.address }
}

/** Without a running shim's help: ends the container, and removes its mounts and cgroups. Failures are logged. */
export async function cleanUpContainer(
  { settings, log, starts }: RuntimeBase,
  command: ShimCommand,
): Promise<DeleteResponse | undefined> {
  const { namespace, id, bundle } = command
  const { cleanUpMs } = settings.deadlines
  const response = await starts
    .run(() => deleteByShim(command, cleanUpMs))
    .catch((error: unknown) => {
      log.warn({ namespace, id, err: error }, "the shim's delete failed; there may be nothing left to delete")
      return undefined
    })
  try {
    unmountBelow(bundle)
  } catch (error) {
    log.error({ namespace, id, err: error }, 'a mount of a dead container is left')
  }
  const cgroups = await removeCgroups(bundle, cgroupsMs)
  if (cgroups.length > 0) log.error({ namespace, id, cgroups }, 'cgroups of a dead container are left')
  return response
}
