// A long past: whether a restart takes longer behind a million old events, with ten containers that run.
import { join } from 'node:path'
import { pino } from 'pino'
import type { DomainEvent, Fact } from '../../services/supervisor/domain/decision.js'
import { containerStream, taskStream } from '../../services/supervisor/domain/streams.js'
import { openFileJournal } from '../../services/supervisor/journal/fileLog.js'
import { encodeFact } from '../../services/supervisor/state/codec.js'
import { Store } from '../../services/supervisor/state/store.js'
import type { Host } from '../harness/host.js'
import { type Contest, removeContainers, startContainers } from './contest.js'
import { recover } from './recovery.js'
import type { Outcome } from './report.js'
import { summarise } from './statistics.js'

const containers = 10
const lives = 125_000
const livesAtOnce = 250
const namespace = 'past'

export async function measurePast({ hosts: { purser: host }, image, runs }: Contest): Promise<Outcome> {
  const turns = Math.max(1, Math.ceil(runs / 4))
  const ids = await startContainers(host, image, containers)
  const young = await recoveries(host, ids, turns)
  await host.kill()
  const events = await live(host)
  await host.start(120_000)
  const old = await recoveries(host, ids, turns)
  await removeContainers(host, ids)
  const row = (what: string, ms: number[]) => {
    const { median, min, max } = summarise(ms)
    return [what, median, min, max]
  }
  return {
    tables: [
      {
        title: `Restart with ${containers} containers, from the start after a SIGKILL until each answers, in ms`,
        head: ['', 'median', 'min', 'max'],
        rows: [row('young journal', young), row(`${events} events`, old)],
      },
    ],
    data: { young, old, events: Number(events) },
  }
}

async function recoveries(host: Host, ids: string[], turns: number): Promise<number[]> {
  const took: number[] = []
  for (let turn = 0; turn < turns; turn++) took.push((await recover(host, ids)).hasAllMs)
  return took
}

/** Has that many containers lived and gone, as far as the journal knows; answers where it ends. */
async function live({ root }: Host): Promise<bigint> {
  const log = pino({ level: 'silent' })
  const journal = await openFileJournal({ dir: join(root, 'journal'), node: 'test', log })
  const store = await Store.open(journal, log)
  for (let first = 0; first < lives; first += livesAtOnce) {
    const facts = Array.from({ length: livesAtOnce }, (_, index) => lifeOf(`old-${first + index}`)).flat()
    await journal.append({
      entries: facts.map(encodeFact),
      expected: new Map(),
      actor: { uid: 0, gid: 0, pid: 1, name: 'bench' },
      causation: 'bench',
      correlation: '',
      timeUnixNano: BigInt(Date.now()) * 1_000_000n,
      mayUseReserve: false,
    })
  }
  const last = journal.last()
  await store.close()
  await journal.close()
  return last
}

function lifeOf(containerId: string): Fact[] {
  const stdio = { stdin: '', stdout: '', stderr: '', terminal: false }
  const exit = { status: 0, at: new Date().toISOString().replace('Z', '000000Z') }
  const container = {
    ...{ id: containerId, labels: {}, image: 'busybox', runtime: { name: 'io.containerd.runc.v2', options: null } },
    ...{ spec: null, snapshotter: 'overlayfs', snapshotKey: containerId, extensions: {}, sandbox: '' },
  }
  const process = { stdio, rootfs: [], checkpoint: '' }
  const task: DomainEvent[] = [
    { type: 'TaskCreateRequested', containerId, runtime: 'io.containerd.runc.v2', options: null, ...process },
    { type: 'TaskCreated', containerId, pid: 42, bundle: '/gone', adjustments: [], ...process },
    { type: 'TaskStartRequested', containerId },
    { type: 'TaskStarted', containerId, pid: 42 },
    { type: 'TaskExited', containerId, pid: 42, exit },
    { type: 'TaskDeleted', containerId, pid: 42, exit },
  ]
  const deletion = { type: 'TaskDeleteRequested', containerId } as const
  const stream = containerStream(namespace, containerId)
  const ofTask = [...task.slice(0, -1), deletion, ...task.slice(-1)].map(
    (event): Fact => ({
      ...{ namespace, stream: taskStream(namespace, containerId), event },
      ...(event.type === 'TaskDeleted' && { ends: true }),
    }),
  )
  return [
    { namespace, stream, event: { type: 'ContainerCreated', container } },
    ...ofTask,
    { namespace, stream, event: { type: 'ContainerDeleted', id: containerId }, ends: true },
  ]
}
