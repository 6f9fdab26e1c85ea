// A daemon is killed and started again while containers run: how long until it knows all of them.

import { ListTasksRequest, TasksService } from '../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { Status } from '../../proto/gen/containerd/v1/types/task.js'
import type { Host } from '../harness/host.js'
import { Rpc } from '../harness/rpc.js'
import { until } from '../harness/wait.js'
import { type Contest, removeContainers, startContainers, takeTurns } from './contest.js'
import { comparison, type Outcome, summaryOf } from './report.js'

const containers = 10
/** One recovery takes as long as some runs: this many of those are worth one. */
const runsPerRecovery = 4

export async function measureRecovery(contest: Contest): Promise<Outcome> {
  const { hosts, image } = contest
  const runs = Math.max(1, Math.ceil(contest.runs / runsPerRecovery))
  const warmUps = Math.min(1, contest.warmUps)
  const ids = {
    purser: await startContainers(hosts.purser, image, containers),
    containerd: await startContainers(hosts.containerd, image, containers),
  }
  const ms = await takeTurns({ hosts, runs, warmUps }, recover)
  await removeContainers(hosts.purser, ids.purser)
  await removeContainers(hosts.containerd, ids.containerd)
  return {
    tables: [
      comparison(
        `Recovery: from the start after a SIGKILL until ${containers} containers are listed as running, in ms`,
        ms,
      ),
    ],
    data: { ms, summary: summaryOf(ms), containers },
  }
}

async function recover(host: Host): Promise<number> {
  await host.kill()
  const begun = performance.now()
  const serving = host.start()
  const known = until(`${host.kind} to know its containers`, () => knowsAll(host.address), {
    timeoutMs: 30_000,
    intervalMs: 5,
  })
  const took = known.then(() => performance.now() - begun)
  await Promise.all([serving, known])
  return took
}

/** By a new connection each time: one that failed would wait before it tries again. */
async function knowsAll(address: string): Promise<boolean> {
  const rpc = new Rpc(address)
  try {
    const { tasks } = await rpc.call(TasksService.list, ListTasksRequest.fromPartial({}), { timeoutMs: 2000 })
    return tasks.filter(({ status }) => status === Status.RUNNING).length === containers
  } catch {
    return false
  } finally {
    rpc.close()
  }
}
