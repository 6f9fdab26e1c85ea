// One trial's container, layers, blobs and so on, all named after its id: made, observed and removed by gRPC.
import { status as Code } from '@grpc/grpc-js'
import { readText } from '../../../plugins/kit/identity.js'
import {
  ContainersService,
  CreateContainerRequest,
  DeleteContainerRequest,
  GetContainerRequest,
} from '../../../proto/gen/containerd/services/containers/v1/containers.js'
import {
  AbortRequest,
  ContentService,
  DeleteContentRequest,
  InfoRequest,
} from '../../../proto/gen/containerd/services/content/v1/content.js'
import {
  CreateImageRequest,
  DeleteImageRequest,
  GetImageRequest,
  ImagesService,
} from '../../../proto/gen/containerd/services/images/v1/images.js'
import { DeleteRequest, LeasesService, ListRequest } from '../../../proto/gen/containerd/services/leases/v1/leases.js'
import {
  DeleteNamespaceRequest,
  GetNamespaceRequest,
  NamespacesService,
} from '../../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import {
  CommitSnapshotRequest,
  PrepareSnapshotRequest,
  RemoveSnapshotRequest,
  SnapshotsService,
  StatSnapshotRequest,
} from '../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import {
  CreateTaskRequest,
  DeleteProcessRequest,
  DeleteTaskRequest,
  ExecProcessRequest,
  GetRequest,
  KillRequest,
  ResumeTaskRequest,
  StartRequest,
  TasksService,
  WaitRequest,
} from '../../../proto/gen/containerd/services/tasks/v1/tasks.js'
import type { Mount } from '../../../proto/gen/containerd/types/mount.js'
import { Status } from '../../../proto/gen/containerd/v1/types/task.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'
import type { Host } from '../../harness/host.js'
import { digestOf } from '../../harness/image.js'
import { alive, type ProcessEntry } from '../../harness/process.js'
import { until } from '../../harness/wait.js'
import { processSpec, shellSpec } from '../../integration/runtime/spec.js'

export const snapshotter = 'overlayfs'
/** What bears it stays though nothing refers to it. */
export const root = { 'containerd.io/gc.root': 'yes' }
export const signals = { USR1: 10, KILL: 9 } as const

/** What every trial finds: an image that is unpacked, a network. */
export interface Ground {
  /** The topmost committed snapshot of the image. */
  layer: string
  network: string
}

/** Or it is gone. Source: proc(5), "SigCgt". */
function catches(pid: number, number: number): boolean {
  const [, mask = ''] = /^SigCgt:\t([0-9a-f]+)$/m.exec(readText(`/proc/${pid}/status`)) ?? []
  return mask === '' || ((BigInt(`0x${mask}`) >> BigInt(number - 1)) & 1n) === 1n
}

/** Ends with 7 when it is asked to, and only then. */
const command = 'trap "exit 7" USR1; while :; do sleep 1000 & wait; done'
const execCommand = 'trap "exit 3" USR1; while :; do sleep 1000 & wait; done'

export class Stage {
  /** Its blob's. */
  bytes: Buffer
  readonly execId = 'added'
  mounts: Mount[] = []

  constructor(
    readonly host: Host,
    readonly id: string,
    readonly ground: Ground,
  ) {
    this.bytes = Buffer.from(`a blob of ${id}`)
  }

  get digest(): string {
    return digestOf(this.bytes)
  }

  get layerKey(): string {
    return `${this.id}-layer`
  }

  async prepare(key = this.id, parent = this.ground.layer): Promise<void> {
    const request = PrepareSnapshotRequest.fromPartial({ snapshotter, key, parent, labels: root })
    this.mounts = (await this.host.call(SnapshotsService.prepare, request)).mounts
  }

  async commit(): Promise<void> {
    const request = CommitSnapshotRequest.fromPartial({ snapshotter, name: this.layerKey, key: this.id, labels: root })
    await this.host.call(SnapshotsService.commit, request)
  }

  async removeSnapshot(key = this.id): Promise<void> {
    await this.host.call(SnapshotsService.remove, RemoveSnapshotRequest.fromPartial({ snapshotter, key }))
  }

  async createContainer({ network = false } = {}): Promise<void> {
    const { id } = this
    const container = {
      id,
      labels: network ? { 'io.purser/network': this.ground.network } : {},
      runtime: { name: 'io.containerd.runc.v2' },
      spec: specOf('Spec', shellSpec({ namespace: this.host.namespace, id, command, rootfs: 'rootfs' })),
      snapshotter,
      snapshotKey: id,
    }
    await this.host.call(ContainersService.create, CreateContainerRequest.fromPartial({ container }))
  }

  async createTask(): Promise<void> {
    const { id: containerId, mounts: rootfs } = this
    await this.host.call(TasksService.create, CreateTaskRequest.fromPartial({ containerId, rootfs }), patiently)
  }

  async start(execId = ''): Promise<void> {
    const request = StartRequest.fromPartial({ containerId: this.id, execId })
    const { pid } = await this.host.call(TasksService.start, request, patiently)
    // The first process of a pid namespace does not get a signal that it has not asked for.
    await until('the process to ask for its signal', () => catches(pid, signals.USR1), { timeoutMs: 30_000 })
  }

  async exec(): Promise<void> {
    const spec = specOf('Process', Buffer.from(JSON.stringify(processSpec(execCommand))))
    const request = { containerId: this.id, execId: this.execId, spec }
    await this.host.call(TasksService.exec, ExecProcessRequest.fromPartial(request))
  }

  async kill(signal: number, execId = ''): Promise<void> {
    await this.host.call(TasksService.kill, KillRequest.fromPartial({ containerId: this.id, execId, signal }))
  }

  /** Resolves with the exit status. */
  async exited(execId = ''): Promise<number> {
    const request = WaitRequest.fromPartial({ containerId: this.id, execId })
    return (await this.host.call(TasksService.wait, request, patiently)).exitStatus
  }

  /** The task's process. */
  async init(): Promise<ProcessEntry | undefined> {
    const { process } = await this.host.call(TasksService.get, GetRequest.fromPartial({ containerId: this.id }))
    return process && alive(process.pid)
  }

  async deleteTask(): Promise<void> {
    await this.host.call(TasksService.delete, DeleteTaskRequest.fromPartial({ containerId: this.id }), patiently)
  }

  async deleteExec(): Promise<void> {
    const request = DeleteProcessRequest.fromPartial({ containerId: this.id, execId: this.execId })
    await this.host.call(TasksService.deleteProcess, request)
  }

  async deleteContainer(): Promise<void> {
    await this.host.call(ContainersService.delete, DeleteContainerRequest.fromPartial({ id: this.id }))
  }

  async deleteBlob(): Promise<void> {
    await this.host.call(ContentService.delete, DeleteContentRequest.fromPartial({ digest: this.digest }))
  }

  async createImage(): Promise<void> {
    const image = { name: this.id, target: { mediaType: 'text/plain', digest: this.digest, size: 1n } }
    await this.host.call(ImagesService.create, CreateImageRequest.fromPartial({ image }))
  }

  async deleteImage(): Promise<void> {
    await this.host.call(ImagesService.delete, DeleteImageRequest.fromPartial({ name: this.id }))
  }

  async deleteLease(): Promise<void> {
    await this.host.call(LeasesService.delete, DeleteRequest.fromPartial({ id: this.id }))
  }

  async deleteNamespace(): Promise<void> {
    await this.host.call(NamespacesService.delete, DeleteNamespaceRequest.fromPartial({ name: this.id }))
  }

  /** All that a client can see of this trial, without what differs from trial to trial. */
  async observe(): Promise<string> {
    const { host, id, digest } = this
    const snapshot = async (key: string) => {
      const { info } = await host.call(SnapshotsService.stat, StatSnapshotRequest.fromPartial({ snapshotter, key }))
      return { kind: info?.kind, parent: info?.parent === '' ? '' : 'the parent', labels: info?.labels }
    }
    const seen = {
      container: await unlessMissing(async () => {
        const { container } = await host.call(ContainersService.get, GetContainerRequest.fromPartial({ id }))
        return { ...container?.labels, ...(container?.labels[addresses] && { [addresses]: 'some' }) }
      }),
      task: await unlessMissing(() => this.#process('')),
      exec: await unlessMissing(() => this.#process(this.execId)),
      active: await unlessMissing(() => snapshot(id)),
      layer: await unlessMissing(() => snapshot(this.layerKey)),
      blob: await unlessMissing(async () => {
        const { info } = await host.call(ContentService.info, InfoRequest.fromPartial({ digest }))
        return { size: String(info?.size).length, labels: info?.labels }
      }),
      image: await unlessMissing(async () => {
        await host.call(ImagesService.get, GetImageRequest.fromPartial({ name: id }))
        return 'there'
      }),
      lease: (await host.call(LeasesService.list, ListRequest.fromPartial({}))).leases.some(lease => lease.id === id),
      namespace: await unlessMissing(async () => {
        await host.call(NamespacesService.get, GetNamespaceRequest.fromPartial({ name: id }))
        return 'there'
      }),
    }
    return JSON.stringify(seen).replaceAll(id, 'ID')
  }

  /** Removes whatever is there, as a client would. A refusal for any other reason than absence is thrown. */
  async clear(): Promise<void> {
    const task = await unlessMissing(() => this.#process(''))
    if (task) {
      const running = task.status !== Status[Status.CREATED] && task.status !== Status[Status.STOPPED]
      if (task.status === Status[Status.PAUSED])
        await this.host.call(TasksService.resume, ResumeTaskRequest.fromPartial({ containerId: this.id }))
      if (running) {
        await unlessMissing(() => this.kill(signals.KILL))
        await this.exited()
      }
      await unlessMissing(() => this.deleteTask())
    }
    await unlessMissing(() => this.deleteContainer())
    for (const key of [this.id, this.layerKey]) await unlessMissing(() => this.removeSnapshot(key))
    await unlessMissing(() => this.deleteImage())
    await unlessMissing(() => this.deleteBlob())
    await unlessMissing(() => this.deleteLease())
    await unlessMissing(() => this.deleteNamespace())
    await unlessMissing(() => this.host.call(ContentService.abort, AbortRequest.fromPartial({ ref: this.id })))
  }

  async #process(execId: string) {
    const { process } = await this.host.call(TasksService.get, GetRequest.fromPartial({ containerId: this.id, execId }))
    const status = Status[process?.status ?? Status.UNKNOWN] ?? ''
    return { status, exitStatus: process?.exitStatus }
  }
}

const addresses = 'io.purser/network.addresses'
/** For what starts programs on a machine that may be busy. */
const patiently = { timeoutMs: 90_000 }

function specOf(kind: 'Spec' | 'Process', value: Buffer): Any {
  return { typeUrl: `types.containerd.io/opencontainers/runtime-spec/1/${kind}`, value }
}

async function unlessMissing<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work()
  } catch (error) {
    if (codeOf(error) === Code.NOT_FOUND) return undefined
    throw error
  }
}

export function codeOf(error: unknown): Code | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'number' ? error.code : undefined
}
