// Resident memory: of the daemons when idle and after work, and what a running container adds.
import type { Host } from '../harness/host.js'
import { memoryOf } from '../harness/process.js'
import { pause } from '../harness/wait.js'
import { type Contest, type Name, names, removeContainers, startContainers } from './contest.js'
import { add, type Memory, memoryByPart, shimsOf } from './daemons.js'
import type { Cell, Outcome, Table } from './report.js'

const containers = 10
/** Until what a daemon does in the background after work is done, the garbage collector's part included. */
const settleMs = 5000

type Parts = Record<string, Memory>

interface Running {
  before: Parts
  during: Parts
  shims: Memory[]
}

/** What fresh daemons take. */
export async function readIdle({ hosts }: Contest): Promise<Record<Name, Parts>> {
  await pause(settleMs)
  return { purser: memoryByPart(hosts.purser), containerd: memoryByPart(hosts.containerd) }
}

/** `idle` was read before all other work. */
export async function measureMemory(contest: Contest, idle: Record<Name, Parts>): Promise<Outcome> {
  const after = await readIdle(contest)
  // One after the other, since all shims share the pages of one program: PSS divides them by who is there.
  const running = {
    purser: await withContainers(contest.hosts.purser, contest.image),
    containerd: await withContainers(contest.hosts.containerd, contest.image),
  }
  return {
    tables: [daemonTable(idle, after, running), containerTable(running)],
    data: { idleKiB: idle, afterWorkKiB: after, containers, running },
  }
}

async function withContainers(host: Host, image: string): Promise<Running> {
  const before = memoryByPart(host)
  const ids = await startContainers(host, image, containers)
  await pause(settleMs)
  const result = { before, during: memoryByPart(host), shims: shimsOf(host).map(({ pid }) => memoryOf(pid)) }
  await removeContainers(host, ids)
  return result
}

function daemonTable(idle: Record<Name, Parts>, after: Record<Name, Parts>, running: Record<Name, Running>): Table {
  const rows = names.flatMap(name => {
    const states = [idle[name], after[name], running[name].during]
    const row = (title: string, memories: Memory[]): Cell[] => [
      title,
      ...memories.flatMap(({ rssKiB, pssKiB }) => [mebibytes(rssKiB), mebibytes(pssKiB)]),
    ]
    const parts = Object.keys(after[name])
    const single = parts.map(part =>
      row(
        part,
        states.map(state => state[part] ?? { rssKiB: 0, pssKiB: 0 }),
      ),
    )
    return parts.length === 1 ? single : [...single, row(`${name} in all`, states.map(total))]
  })
  return {
    title: `Memory of the daemons in MiB: fresh, after all the work above, and with ${containers} containers running`,
    head: ['', 'fresh: RSS', 'PSS', 'after work: RSS', 'PSS', 'with containers: RSS', 'PSS'],
    rows,
    note: 'The bench is a node program too, and in PSS it bears a share of the pages of node itself.',
  }
}

function containerTable(running: Record<Name, Running>): Table {
  const rows = names.map((name): Cell[] => {
    const { before, during, shims } = running[name]
    const growth = (total(during).pssKiB - total(before).pssKiB) / containers
    const shim = shims.reduce(add, { rssKiB: 0, pssKiB: 0 })
    return [
      name,
      mebibytes(growth),
      mebibytes(shim.rssKiB / containers),
      mebibytes(shim.pssKiB / containers),
      mebibytes(growth + shim.pssKiB / containers),
    ]
  })
  return {
    title: `What one running container adds, in MiB (${containers} running)`,
    head: ['', 'daemons: PSS', 'shim: RSS', 'PSS', 'daemons and shim: PSS'],
    rows,
    note: 'A daemon can shrink meanwhile, when its garbage collector has just been at work.',
  }
}

const total = (parts: Parts): Memory => Object.values(parts).reduce(add, { rssKiB: 0, pssKiB: 0 })
const mebibytes = (kibibytes: number) => kibibytes / 1024
