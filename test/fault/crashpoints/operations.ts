// The operations that are cut short: each with what has to be there before it, and one call that may end half-way.
import { WriteAction } from '../../../proto/gen/containerd/services/content/v1/content.js'
import { ApplyRequest, DiffService } from '../../../proto/gen/containerd/services/diff/v1/diff.js'
import { EventsService, PublishRequest } from '../../../proto/gen/containerd/services/events/v1/events.js'
import { CreateRequest, DeleteRequest, LeasesService } from '../../../proto/gen/containerd/services/leases/v1/leases.js'
import {
  CreateNamespaceRequest,
  NamespacesService,
} from '../../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import {
  PrepareSnapshotRequest,
  SnapshotsService,
  ViewSnapshotRequest,
} from '../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import {
  PauseTaskRequest,
  ResumeTaskRequest,
  TasksService,
} from '../../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { Upload } from '../../harness/content.js'
import { layerArchive, MediaType } from '../../harness/image.js'
import { gone, signal } from '../../harness/process.js'
import { root, type Stage, signals, snapshotter } from './stage.js'

/** Of the supervisor's journal: small, so that a trial can fill one. */
export const segmentBytes = 256 << 10

export interface Operation {
  name: string
  setup?(stage: Stage): Promise<unknown>
  /** Asked again after a crash that came before it was done, it does it. */
  run(stage: Stage): Promise<unknown>
  /** Cut short, it is finished without being asked for again. */
  isFinished?: true
  /** It ends the supervisor and starts it again: what it meets are the points of a start, or of a stop. */
  restarts?: boolean
  /** Of its points only these are its own; all unless said. */
  points?: RegExp
}

const created = async (stage: Stage, options?: { network: boolean }) => {
  await stage.prepare()
  await stage.createContainer(options)
  await stage.createTask()
}
const running = async (stage: Stage, options?: { network: boolean }) => {
  await created(stage, options)
  await stage.start()
}
const stopped = async (stage: Stage, options?: { network: boolean }) => {
  await running(stage, options)
  await stage.kill(signals.USR1)
  await stage.exited()
}
const withExec = async (stage: Stage) => {
  await running(stage)
  await stage.exec()
}
const withRunningExec = async (stage: Stage) => {
  await withExec(stage)
  await stage.start(stage.execId)
}

async function upload(stage: Stage, bytes = stage.bytes, lease?: string): Promise<void> {
  const write = new Upload(stage.host, lease === undefined ? {} : under(lease))
  const labels = lease === undefined ? root : {}
  const [action, ref, total] = [WriteAction.WRITE, stage.id, BigInt(bytes.length)]
  try {
    const { offset } = await write.send({ action: WriteAction.STAT, ref, total })
    const rest = bytes.subarray(Number(offset))
    if (rest.length > 0) await write.send({ action, ref, total, offset, data: rest })
    await write.send({ action: WriteAction.COMMIT, ref, total, offset: total, expected: stage.digest, labels })
  } finally {
    write.hangUp()
  }
}

const under = (lease: string) => ({ metadata: { 'containerd-lease': lease } })

/** A blob and a snapshot that only a lease holds. */
async function leased(stage: Stage): Promise<void> {
  const { host, id, bytes, ground } = stage
  await host.call(LeasesService.create, CreateRequest.fromPartial({ id }))
  await upload(stage, bytes, id)
  const request = PrepareSnapshotRequest.fromPartial({ snapshotter, key: id, parent: ground.layer })
  await host.call(SnapshotsService.prepare, request, under(id))
}

/** A layer as a client uploads it. The stage's blob is that layer then. */
async function uploadLayer(stage: Stage): Promise<void> {
  stage.bytes = await layerArchive([{ kind: 'file', path: 'file', text: stage.id }])
  await upload(stage)
}

async function apply(stage: Stage): Promise<void> {
  const diff = { mediaType: MediaType.layer, digest: stage.digest, size: BigInt(stage.bytes.length) }
  await stage.host.call(DiffService.apply, ApplyRequest.fromPartial({ diff, mounts: stage.mounts }))
}

/** On what is stored and on records. */
export const onStores: Operation[] = [
  { name: 'upload a blob', run: upload },
  { name: 'delete a blob', setup: upload, run: stage => stage.deleteBlob() },
  { name: 'create an image', run: stage => stage.createImage() },
  {
    name: 'create a lease',
    run: stage => stage.host.call(LeasesService.create, CreateRequest.fromPartial({ id: stage.id })),
  },
  {
    name: 'create a namespace',
    run: stage =>
      stage.host.call(NamespacesService.create, CreateNamespaceRequest.fromPartial({ namespace: { name: stage.id } })),
  },
  { name: 'prepare a snapshot', run: stage => stage.prepare() },
  {
    name: 'view a snapshot',
    run: stage =>
      stage.host.call(
        SnapshotsService.view,
        ViewSnapshotRequest.fromPartial({ snapshotter, key: stage.id, parent: stage.ground.layer, labels: root }),
      ),
  },
  {
    name: 'unpack a layer',
    setup: async stage => {
      await uploadLayer(stage)
      await stage.prepare(stage.id, '')
    },
    run: apply,
  },
  {
    name: 'commit a snapshot',
    setup: async stage => {
      await uploadLayer(stage)
      await stage.prepare(stage.id, '')
      await apply(stage)
    },
    run: stage => stage.commit(),
    isFinished: true,
  },
  { name: 'remove a snapshot', setup: stage => stage.prepare(), run: stage => stage.removeSnapshot() },
  {
    name: 'collect garbage',
    setup: leased,
    run: stage => stage.host.call(LeasesService.delete, DeleteRequest.fromPartial({ id: stage.id, sync: true })),
  },
  { name: 'create a container', setup: stage => stage.prepare(), run: stage => stage.createContainer() },
  {
    name: 'delete a container',
    setup: stage => stage.createContainer(),
    run: stage => stage.deleteContainer(),
  },
  {
    name: 'fill the journal until it begins another file',
    run: publish,
    points: /^journal\.segment/,
  },
]

/** On the life of a task: from nothing to running. */
export const onBeginnings: Operation[] = [
  {
    name: 'create a task',
    setup: async stage => {
      await stage.prepare()
      await stage.createContainer()
    },
    run: stage => stage.createTask(),
  },
  {
    name: 'create a task on a network',
    setup: async stage => {
      await stage.prepare()
      await stage.createContainer({ network: true })
    },
    run: stage => stage.createTask(),
  },
  { name: 'start a task', setup: created, run: stage => stage.start() },
  {
    name: 'pause a task',
    setup: running,
    run: stage => stage.host.call(TasksService.pause, PauseTaskRequest.fromPartial({ containerId: stage.id })),
  },
  {
    name: 'resume a task',
    setup: async stage => {
      await running(stage)
      await stage.host.call(TasksService.pause, PauseTaskRequest.fromPartial({ containerId: stage.id }))
    },
    run: stage => stage.host.call(TasksService.resume, ResumeTaskRequest.fromPartial({ containerId: stage.id })),
  },
]

/** On processes that are added to a running task. */
export const onExecs: Operation[] = [
  { name: 'add an exec', setup: running, run: stage => stage.exec() },
  { name: 'start an exec', setup: withExec, run: stage => stage.start(stage.execId) },
  { name: 'end an exec', setup: withRunningExec, run: stage => end(stage, signals.USR1, stage.execId) },
  {
    name: 'delete an exec',
    setup: async stage => {
      await withRunningExec(stage)
      await end(stage, signals.USR1, stage.execId)
    },
    run: stage => stage.deleteExec(),
  },
]

/** And from running to nothing. */
export const onEnds: Operation[] = [
  { name: 'end a task by a signal', setup: running, run: stage => end(stage, signals.USR1) },
  { name: 'kill a task', setup: running, run: stage => end(stage, signals.KILL) },
  { name: 'delete a task', setup: stopped, run: stage => stage.deleteTask() },
  {
    name: 'delete a task on a network',
    setup: stage => stopped(stage, { network: true }),
    run: stage => stage.deleteTask(),
  },
]

/** A start, or a stop, is the operation. */
export const restarts: Operation[] = [
  {
    name: 'restart beside a running task',
    setup: stage => running(stage, { network: true }),
    run: async ({ host }) => {
      await host.kill()
      await host.start(startMs)
    },
    restarts: true,
  },
  {
    name: 'restart after a task has ended unseen',
    setup: running,
    run: async stage => {
      const { host } = stage
      const init = await stage.init()
      await host.kill()
      if (init) {
        signal(init, 'SIGUSR1')
        await gone(init)
      }
      await host.start(startMs)
    },
    restarts: true,
    points: /^(journal\.written|registry|plugin\.answered|history|emission)/,
  },
  {
    name: 'stop in order, and start',
    run: async ({ host }) => {
      await host.stop()
      await host.start(startMs)
    },
    restarts: true,
    points: /^journal\.(snapshot|marked)/,
  },
]

const startMs = 90_000

/** More than one file of the journal takes. */
async function publish({ host }: Stage): Promise<void> {
  const event = { typeUrl: 'crashpoints.Filler', value: Buffer.alloc(16 << 10, 'x') }
  for (let bytes = 0; bytes < 1.5 * segmentBytes; bytes += event.value.length)
    await host.call(EventsService.publish, PublishRequest.fromPartial({ topic: '/crashpoints/filler', event }))
}

async function end(stage: Stage, signal: number, execId = ''): Promise<void> {
  await stage.kill(signal, execId)
  await stage.exited(execId)
}
