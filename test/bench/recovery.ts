// A daemon is killed and started again while containers run: how long until it serves, and until it has all of them.
//
// "Serves": it answers Version. "Has them": their shims answer through it (Metrics, which shims answer by themselves). Of
// some the shim is stopped before (SIGSTOP), as one that hangs: then it is asked how soon the others are there.

import { isServed } from '../../plugins/kit/listen.js'
import { MetricsRequest, TasksService } from '../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { VersionService } from '../../proto/gen/containerd/services/version/v1/version.js'
import type { Host } from '../harness/host.js'
import { signal } from '../harness/process.js'
import { Rpc } from '../harness/rpc.js'
import { until } from '../harness/wait.js'
import { type Contest, type Name, names, removeContainers, startContainers, takeTurns } from './contest.js'
import { shimsOf } from './daemons.js'
import { comparison, type Outcome, type Table } from './report.js'

/** One recovery takes as long as some runs: this many of those are worth one. */
const runsPerRecovery = 4
const hungMax = 10
const patienceMs = 120_000

interface Recovered {
  servesMs: number
  hasAllMs: number
}

export async function measureRecovery(contest: Contest, counts: readonly number[]): Promise<Outcome> {
  const tables: Table[] = []
  const data: Record<string, unknown> = {}
  const ids: Record<Name, string[]> = { purser: [], containerd: [] }
  for (const count of [...counts].sort((a, b) => a - b)) {
    for (const name of names) {
      const host = contest.hosts[name]
      ids[name].push(...(await startContainers(host, contest.image, count - ids[name].length)))
    }
    const took = await measure(contest, ids)
    tables.push(...show(`${count} containers`, took))
    data[count] = took
  }
  const hung = Math.min(hungMax, Math.floor(ids.purser.length / 2))
  if (hung > 0) {
    const took = await measureHung(contest, ids, hung)
    tables.push(...show(`${ids.purser.length} containers, of which the shims of ${hung} are stopped`, took))
    data.hung = took
  }
  for (const name of names) await removeContainers(contest.hosts[name], ids[name])
  return { tables, data }
}

async function measure({ hosts, runs, warmUps }: Contest, ids: Record<Name, string[]>) {
  const turns = { hosts, runs: Math.max(1, Math.ceil(runs / runsPerRecovery)), warmUps: Math.min(1, warmUps) }
  return takeTurns(turns, (host, name) => recover(host, ids[name]))
}

async function measureHung(contest: Contest, ids: Record<Name, string[]>, hung: number) {
  const stopped = names.flatMap(name => {
    const victims = new Set(ids[name].slice(0, hung))
    return shimsOf(contest.hosts[name]).filter(({ command }) => command.some(word => victims.has(word)))
  })
  const all = (name: NodeJS.Signals) => {
    for (const shim of stopped) signal(shim, name)
  }
  all('SIGSTOP')
  try {
    const others = { purser: ids.purser.slice(hung), containerd: ids.containerd.slice(hung) }
    const { hosts } = contest
    return await takeTurns({ hosts, runs: 3, warmUps: 0 }, (host, name) => recover(host, others[name]))
  } finally {
    all('SIGCONT')
  }
}

function show(what: string, took: Record<Name, Recovered[]>): Table[] {
  const of = (pick: (recovered: Recovered) => number) => ({
    purser: took.purser.map(pick),
    containerd: took.containerd.map(pick),
  })
  const from = 'from the start after a SIGKILL'
  return [
    comparison(
      `Recovery with ${what}: ${from} until it serves, in ms`,
      of(({ servesMs }) => servesMs),
    ),
    comparison(
      `Recovery with ${what}: ${from} until each (other) one answers, in ms`,
      of(({ hasAllMs }) => hasAllMs),
    ),
  ]
}

export async function recover(host: Host, ids: string[]): Promise<Recovered> {
  await host.kill()
  const begun = performance.now()
  const started = host.start(patienceMs)
  await until(`${host.kind} to serve`, () => answers(host), { timeoutMs: patienceMs, intervalMs: 2 })
  const servesMs = performance.now() - begun
  const rpc = new Rpc(host.address)
  try {
    await until(`${host.kind} to have all`, () => hasAll(rpc, host, ids), { timeoutMs: patienceMs, intervalMs: 5 })
    const hasAllMs = performance.now() - begun
    await started
    return { servesMs, hasAllMs }
  } finally {
    rpc.close()
  }
}

/** By a new connection each time: one that failed would wait before it tries again. */
async function answers(host: Host): Promise<boolean> {
  // A bare connection first: a client made every 2 ms would keep the daemon that starts from one of two processors.
  if (!(await isServed(host.address))) return false
  const rpc = new Rpc(host.address)
  try {
    await rpc.call(VersionService.version, {}, { timeoutMs: 1000 })
    return true
  } catch {
    return false
  } finally {
    rpc.close()
  }
}

async function hasAll(rpc: Rpc, { namespace }: Host, ids: string[]): Promise<boolean> {
  try {
    const request = MetricsRequest.fromPartial({ filters: ids.map(id => `id==${id}`) })
    const { metrics } = await rpc.call(TasksService.metrics, request, { namespace, timeoutMs: patienceMs })
    return metrics.length === ids.length
  } catch {
    return false
  }
}
