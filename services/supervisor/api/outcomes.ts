// How a request that was taken up, and whose answer is not known, is answered after all: by what the journal says came
// of it. One entry for each method that changes something; a method without one is not remembered.
import type { MethodDefinition } from '@grpc/grpc-js'
import { ContainersService } from '../../../proto/gen/containerd/services/containers/v1/containers.js'
import { ContentService } from '../../../proto/gen/containerd/services/content/v1/content.js'
import { DiffService } from '../../../proto/gen/containerd/services/diff/v1/diff.js'
import { EventsService } from '../../../proto/gen/containerd/services/events/v1/events.js'
import { ImagesService } from '../../../proto/gen/containerd/services/images/v1/images.js'
import { LeasesService } from '../../../proto/gen/containerd/services/leases/v1/leases.js'
import { NamespacesService } from '../../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import { SnapshotsService } from '../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import { TasksService } from '../../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { TransferService } from '../../../proto/gen/containerd/services/transfer/v1/transfer.js'
import type { DomainEvent } from '../domain/decision.js'
import { execStream, leaseStream, snapshotStream, taskStream } from '../domain/streams.js'
import { formatNanos } from '../domain/time.js'
import { descriptorToProto, timestampToProto } from '../state/convert.js'
import type { Told } from '../state/store.js'
import { exitToProto } from './exit.js'

/** `undone`: nothing is left of it, so that it can be carried out now. */
export type Verdict = { response: Buffer } | 'undone' | 'unknown'

export type Outcome =
  /** Its facts were one batch, so it is done: the answer is what a reader sees now, by this method. */
  | { by: 'reading'; path: string; ask(request: Buffer): Buffer }
  /** Its facts were one batch, and the answer says nothing. */
  | { by: 'itself'; response: Buffer }
  /**
   * The first fact, of this stream or of the request itself, that says how it went. `wait`: there will be one, from
   * whoever carries it out or from recovery.
   */
  | {
      by: 'facts'
      wait: boolean
      stream(namespace: string, request: Buffer): string
      verdict(told: Told): Verdict | undefined
    }
  /** Nothing is recorded before it is done, and doing it again ends the same. */
  | { by: 'repetition' }

type Method<Request, Response> = MethodDefinition<Request, Response>

const outcomes = new Map<string, Outcome>([
  reading(ContainersService.create, ContainersService.get, ({ container }) => ({ id: container?.id ?? '' })),
  reading(ContainersService.update, ContainersService.get, ({ container }) => ({ id: container?.id ?? '' })),
  itself(ContainersService.delete, {}),

  reading(ImagesService.create, ImagesService.get, ({ image }) => ({ name: image?.name ?? '' })),
  reading(ImagesService.update, ImagesService.get, ({ image }) => ({ name: image?.name ?? '' })),
  itself(ImagesService.delete, {}),

  reading(NamespacesService.create, NamespacesService.get, ({ namespace }) => ({ name: namespace?.name ?? '' })),
  reading(NamespacesService.update, NamespacesService.get, ({ namespace }) => ({ name: namespace?.name ?? '' })),
  itself(NamespacesService.delete, {}),

  // Without a name it got one of ours, which only its answer told.
  facts(
    LeasesService.create,
    (namespace, { id }) => leaseStream(namespace, id),
    ({ event, record }) => {
      if (event.type !== 'LeaseCreated') return undefined
      const { id, labels } = event
      const createdAt = timestampToProto(formatNanos(record.timeUnixNano))
      return { lease: { id, createdAt, labels: { ...labels } } }
    },
    { wait: false },
  ),
  itself(LeasesService.delete, {}),
  itself(LeasesService.addResource, {}),
  itself(LeasesService.deleteResource, {}),

  reading(SnapshotsService.prepare, SnapshotsService.mounts, ({ snapshotter, key }) => ({ snapshotter, key })),
  reading(SnapshotsService.view, SnapshotsService.mounts, ({ snapshotter, key }) => ({ snapshotter, key })),
  facts(
    SnapshotsService.commit,
    (namespace, { snapshotter, key }) => snapshotStream(namespace, snapshotter, key),
    ({ event }) => {
      if (event.type === 'SnapshotCommitted') return {}
      return event.type === 'SnapshotCommitFailed' || event.type === 'SnapshotRemoved' ? 'undone' : undefined
    },
  ),
  itself(SnapshotsService.remove, {}),
  reading(SnapshotsService.update, SnapshotsService.stat, ({ snapshotter, info }) => ({
    snapshotter,
    key: info?.name ?? '',
  })),

  reading(ContentService.update, ContentService.info, ({ info }) => ({ digest: info?.digest ?? '' })),
  itself(ContentService.delete, {}),
  repetition(DiffService.apply),
  repetition(DiffService.diff),
  repetition(TransferService.transfer),

  itself(EventsService.publish, {}),
  itself(EventsService.forward, {}),

  facts(TasksService.create, ofTask, ({ event }) => {
    if (event.type === 'TaskCreated') return { containerId: event.containerId, pid: event.pid }
    return event.type === 'TaskCreateFailed' ? 'undone' : undefined
  }),
  facts(TasksService.start, ofProcess, ({ event }) => {
    switch (event.type) {
      case 'TaskStarted':
      case 'TaskExited':
      case 'ExecStarted':
      case 'ExecExited':
        return { pid: event.pid }
      case 'ExecAbandoned':
        return 'unknown'
      default:
        return event.type === 'TaskStartFailed' || event.type === 'ExecStartFailed' ? 'undone' : undefined
    }
  }),
  facts(TasksService.delete, ofTask, ({ event }) => {
    if (event.type === 'TaskDeleted') return { id: '', pid: event.pid, ...exitToProto(event.exit) }
    return event.type === 'TaskDeleteFailed' ? 'undone' : undefined
  }),
  facts(TasksService.deleteProcess, ofProcess, ({ event }) => {
    // How it ended was told before; the record is gone.
    if (event.type === 'ExecDeleted' || event.type === 'ExecAbandoned') return 'unknown'
    return event.type === 'ExecDeleteFailed' ? 'undone' : undefined
  }),
  // The signal goes to the process once its fact is durable; whether it got there, only an end tells.
  facts(TasksService.kill, ofProcess, ({ event }) => (hasEnded(event) ? {} : undefined), { wait: false }),
  facts(TasksService.exec, ofProcess, ({ event }) => {
    if (event.type === 'ExecAdded') return {}
    return event.type === 'ExecAddFailed' || event.type === 'ExecAbandoned' ? 'undone' : undefined
  }),
  facts(TasksService.pause, ofTask, ({ event }) => {
    if (event.type === 'TaskPaused') return {}
    return event.type === 'TaskPauseFailed' || event.type === 'TaskExited' ? 'undone' : undefined
  }),
  facts(TasksService.resume, ofTask, ({ event }) => {
    if (event.type === 'TaskResumed') return {}
    return event.type === 'TaskResumeFailed' || event.type === 'TaskExited' ? 'undone' : undefined
  }),
  facts(TasksService.checkpoint, ofTask, ({ event }) => {
    if (event.type === 'TaskCheckpointed') return { descriptors: event.descriptors.map(descriptorToProto) }
    return event.type === 'TaskCheckpointFailed' ? 'undone' : undefined
  }),
  itself(TasksService.update, {}),
])

export const outcomeOf = (path: string): Outcome | undefined => outcomes.get(path)

function ofTask(namespace: string, { containerId }: { containerId: string }): string {
  return taskStream(namespace, containerId)
}

function ofProcess(namespace: string, { containerId, execId }: { containerId: string; execId: string }): string {
  return execId === '' ? taskStream(namespace, containerId) : execStream(namespace, containerId, execId)
}

function hasEnded({ type }: DomainEvent): boolean {
  return type === 'TaskExited' || type === 'ExecExited' || type === 'ExecAbandoned' || type === 'TaskDeleted'
}

function reading<Request, Question, Response>(
  method: Method<Request, Response>,
  reader: Method<Question, Response>,
  ask: (request: Request) => Question,
): [string, Outcome] {
  const bytes = (request: Buffer) => reader.requestSerialize(ask(method.requestDeserialize(request)))
  return [method.path, { by: 'reading', path: reader.path, ask: bytes }]
}

function itself<Request, Response>(method: Method<Request, Response>, response: Response): [string, Outcome] {
  return [method.path, { by: 'itself', response: method.responseSerialize(response) }]
}

function repetition<Request, Response>(method: Method<Request, Response>): [string, Outcome] {
  return [method.path, { by: 'repetition' }]
}

function facts<Request, Response extends object>(
  method: Method<Request, Response>,
  stream: (namespace: string, request: Request) => string,
  verdict: (told: Told) => Response | 'undone' | 'unknown' | undefined,
  { wait } = { wait: true },
): [string, Outcome] {
  return [
    method.path,
    {
      by: 'facts',
      wait,
      stream: (namespace, request) => stream(namespace, method.requestDeserialize(request)),
      verdict(told) {
        const found = verdict(told)
        return typeof found === 'object' ? { response: method.responseSerialize(found) } : found
      },
    },
  ]
}
