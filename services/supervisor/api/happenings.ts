// The feed's events and the fold's containers as messages of purser.events.v1.
import {
  type Bookmark,
  Container,
  type Event,
  type Life,
  type Process,
} from '../../../proto/gen/purser/events/v1/events.js'
import type { Exec } from '../domain/exec/decide.js'
import type { Task } from '../domain/task/decide.js'
import { formatNanos, parseTimestamp } from '../domain/time.js'
import type { Happening } from '../feed/happening.js'
import type { News } from '../feed/subscriber.js'
import { timestampToProto } from '../state/convert.js'
import type { StoredContainer } from '../state/namespaceState.js'
import type { Summary } from '../state/summaries.js'
import type { World } from '../state/world.js'
import { sortedEntries } from './order.js'
import { statusOfExec, statusOfTask } from './processStatus.js'

export function eventToProto(happening: Happening): Event {
  const { record, topic, payload } = happening
  const { type, ...data } = happening.event
  const { sequence, node, namespace, stream, causation, correlation, actor } = record
  const time = timestampToProto(formatNanos(record.timeUnixNano))
  const about = { sequence, time, node, namespace, topic, stream, type, payload, causation, correlation, actor }
  return { ...about, data: JSON.stringify(data) }
}

export function bookmarkToProto({ sequence, timeUnixNano, present }: Extract<News, { kind: 'mark' }>): Bookmark {
  return {
    sequence,
    time: timeUnixNano === undefined ? undefined : timestampToProto(formatNanos(timeUnixNano)),
    present,
  }
}

export function lifeToProto(life: Summary): Life {
  return {
    image: life.image,
    runtime: life.runtime,
    createdAt: timestampToProto(life.createdAt),
    startedAt: timestampToProto(life.startedAt),
    exitedAt: timestampToProto(life.exitedAt),
    exitStatus: life.exitStatus ?? undefined,
    starts: life.starts,
    deletedAt: timestampToProto(life.deletedAt),
    firstSequence: BigInt(life.firstSequence),
    lastSequence: BigInt(life.lastSequence),
  }
}

/** A container with its processes, as they are when it is asked for. The world may go on; this does not. */
export interface Standing {
  namespace: string
  id: string
  container: StoredContainer['lifecycle']
  times: Pick<StoredContainer, 'createdAt' | 'updatedAt'>
  task: Task | undefined
  execs: readonly (readonly [id: string, exec: Exec])[]
}

/** All containers of the namespaces, of all when there are none, by name. */
export function standings(world: World, namespaces: readonly string[]): Standing[] {
  return sortedEntries(world.namespaces)
    .filter(([name]) => namespaces.length === 0 || namespaces.includes(name))
    .flatMap(([namespace, state]) =>
      sortedEntries(state.containers).map(([id, { lifecycle, createdAt, updatedAt }]) => ({
        namespace,
        id,
        container: lifecycle,
        times: { createdAt, updatedAt },
        task: state.tasks.get(id),
        execs: [...state.execsOf(id)],
      })),
    )
}

export function containerToProto({ namespace, id, container, times, task, execs }: Standing): Container {
  const { record } = container.facts
  return Container.fromPartial({
    namespace,
    id,
    image: record?.image ?? '',
    runtime: record?.runtime.name ?? '',
    snapshotter: record?.snapshotter ?? '',
    snapshotKey: record?.snapshotKey ?? '',
    labels: { ...record?.labels },
    createdAt: timestampToProto(times.createdAt),
    updatedAt: timestampToProto(times.updatedAt),
    task: task && processToProto(id, task.state, statusOfTask[task.state], task.facts, task.facts.outOfMemory),
    execs: execs.map(([execId, { state, facts }]) => processToProto(execId, state, statusOfExec[state], facts, false)),
  })
}

function processToProto(
  id: string,
  state: string,
  status: Process['status'],
  { pid, exit }: Exec['facts'],
  outOfMemory: boolean,
): Process {
  const exitedAt = exit ? parseTimestamp(exit.at) : undefined
  return { id, state, status, pid, exitStatus: exit?.status ?? 0, exitedAt, outOfMemory }
}
