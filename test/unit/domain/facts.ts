// One example of every fact about tasks, processes, containers, networks, restarts and plugins, for tests of their lifecycles.
import type { ContainerInput } from '../../../services/supervisor/domain/container/machine.js'
import type { ExecEvent } from '../../../services/supervisor/domain/exec/events.js'
import type { NetworkEvent } from '../../../services/supervisor/domain/network/events.js'
import type { PluginEvent } from '../../../services/supervisor/domain/plugin/events.js'
import type { RestartEvent } from '../../../services/supervisor/domain/restart/events.js'
import type { SandboxEvent, SandboxRecordEvent } from '../../../services/supervisor/domain/sandbox/events.js'
import type { TaskEvent } from '../../../services/supervisor/domain/task/events.js'
import type { ExecAdmitted } from '../../../services/supervisor/domain/task/machine.js'

type ByType<Event extends { type: string }> = { [Type in Event['type']]: Extract<Event, { type: Type }> }

export const stdio = { stdin: '', stdout: '/run/fifo/out', stderr: '', terminal: false }
export const exit = { status: 7, at: '2026-01-02T03:04:05.000000006Z' }
const of = { containerId: 'redis' } as const
const reason = 'because'

export const task: ByType<TaskEvent | ExecAdmitted> = {
  TaskCreateRequested: {
    type: 'TaskCreateRequested',
    ...of,
    runtime: 'r',
    stdio,
    rootfs: [],
    options: null,
    checkpoint: '',
  },
  TaskCreated: {
    type: 'TaskCreated',
    ...of,
    pid: 42,
    bundle: '/b',
    stdio,
    rootfs: [],
    checkpoint: '',
    adjustments: [],
  },
  TaskCreateFailed: { type: 'TaskCreateFailed', ...of, reason },
  TaskStartRequested: { type: 'TaskStartRequested', ...of },
  TaskStarted: { type: 'TaskStarted', ...of, pid: 42 },
  TaskStartFailed: { type: 'TaskStartFailed', ...of, reason },
  TaskSignalled: { type: 'TaskSignalled', ...of, signal: 15, all: false },
  TaskPauseRequested: { type: 'TaskPauseRequested', ...of },
  TaskPaused: { type: 'TaskPaused', ...of },
  TaskPauseFailed: { type: 'TaskPauseFailed', ...of, reason },
  TaskResumeRequested: { type: 'TaskResumeRequested', ...of },
  TaskResumed: { type: 'TaskResumed', ...of },
  TaskResumeFailed: { type: 'TaskResumeFailed', ...of, reason },
  TaskResourcesUpdated: { type: 'TaskResourcesUpdated', ...of },
  TaskCheckpointRequested: { type: 'TaskCheckpointRequested', ...of, options: null, imagePath: '', lease: null },
  TaskCheckpointed: {
    type: 'TaskCheckpointed',
    ...of,
    imagePath: '',
    descriptors: [{ mediaType: 'm', digest: 'sha256:1', size: '7', annotations: {} }],
  },
  TaskCheckpointFailed: { type: 'TaskCheckpointFailed', ...of, reason },
  TaskOutOfMemory: { type: 'TaskOutOfMemory', ...of },
  TaskExited: { type: 'TaskExited', ...of, pid: 42, exit },
  TaskDeleteRequested: { type: 'TaskDeleteRequested', ...of },
  TaskDeleted: { type: 'TaskDeleted', ...of, pid: 42, exit },
  TaskDeleteFailed: { type: 'TaskDeleteFailed', ...of, reason },
  ExecAdmitted: { type: 'ExecAdmitted' },
}

const ofExec = { containerId: 'redis', execId: 'sh' } as const

export const exec: ByType<ExecEvent> = {
  ExecRequested: { type: 'ExecRequested', ...ofExec, stdio, spec: { typeUrl: 's', sequence: '', index: 0 } },
  ExecAdded: { type: 'ExecAdded', ...ofExec },
  ExecAddFailed: { type: 'ExecAddFailed', ...ofExec, reason },
  ExecStartRequested: { type: 'ExecStartRequested', ...ofExec },
  ExecStarted: { type: 'ExecStarted', ...ofExec, pid: 43 },
  ExecStartFailed: { type: 'ExecStartFailed', ...ofExec, reason },
  ExecSignalled: { type: 'ExecSignalled', ...ofExec, signal: 9 },
  ExecExited: { type: 'ExecExited', ...ofExec, pid: 43, exit },
  ExecDeleteRequested: { type: 'ExecDeleteRequested', ...ofExec },
  ExecDeleted: { type: 'ExecDeleted', ...ofExec },
  ExecDeleteFailed: { type: 'ExecDeleteFailed', ...ofExec, reason },
  ExecAbandoned: { type: 'ExecAbandoned', ...ofExec, exit },
}

export const record = {
  id: 'redis',
  labels: {},
  image: 'redis:7',
  runtime: { name: 'r', options: null },
  spec: { typeUrl: 's', sequence: '', index: 0 },
  snapshotter: 'overlayfs',
  snapshotKey: 'redis',
  extensions: {},
  sandbox: '',
}

const ofSandbox = { sandboxId: 'pod' } as const

export const sandbox: ByType<SandboxEvent> = {
  SandboxCreateRequested: {
    ...{ type: 'SandboxCreateRequested', ...ofSandbox, sandboxer: 'shim', runtime: { name: 'r', options: null } },
    ...{ rootfs: [], options: null, netnsPath: '', annotations: {}, spec: null },
  },
  SandboxCreated: { type: 'SandboxCreated', ...ofSandbox },
  SandboxCreateFailed: { type: 'SandboxCreateFailed', ...ofSandbox, reason },
  SandboxStartRequested: { type: 'SandboxStartRequested', ...ofSandbox },
  SandboxStarted: { type: 'SandboxStarted', ...ofSandbox, pid: 42, createdAt: exit.at, address: '/s', version: 3 },
  SandboxStartFailed: { type: 'SandboxStartFailed', ...ofSandbox, reason },
  SandboxStopRequested: { type: 'SandboxStopRequested', ...ofSandbox, timeoutSeconds: 1 },
  SandboxExited: { type: 'SandboxExited', ...ofSandbox, exit },
  SandboxShutdownRequested: { type: 'SandboxShutdownRequested', ...ofSandbox },
  SandboxShutdownFailed: { type: 'SandboxShutdownFailed', ...ofSandbox, reason },
  SandboxRemoved: { type: 'SandboxRemoved', ...ofSandbox },
}

const sandboxRecord = {
  ...{ id: 'pod', labels: {}, runtime: { name: 'r', options: null } },
  ...{ spec: null, extensions: {}, sandboxer: 'shim' },
}

export const sandboxOnRecord: ByType<SandboxRecordEvent> = {
  SandboxRecordCreated: { type: 'SandboxRecordCreated', sandbox: sandboxRecord },
  SandboxRecordUpdated: { type: 'SandboxRecordUpdated', sandbox: { ...sandboxRecord, labels: { a: 'b' } } },
  SandboxRecordDeleted: { type: 'SandboxRecordDeleted', id: 'pod' },
  SandboxRecordPartsMoved: { type: 'SandboxRecordPartsMoved', id: 'pod', spec: null, extensions: {} },
}

export const container: ByType<ContainerInput> = {
  ContainerCreated: { type: 'ContainerCreated', container: record },
  ContainerUpdated: { type: 'ContainerUpdated', container: { ...record, image: 'redis:8' } },
  ContainerDeleted: { type: 'ContainerDeleted', id: 'redis' },
  ContainerPartsMoved: {
    type: 'ContainerPartsMoved',
    id: 'redis',
    spec: { typeUrl: 's', sequence: '9', index: 0 },
    extensions: {},
  },
  TaskCreateRequested: task.TaskCreateRequested,
  TaskCreateFailed: task.TaskCreateFailed,
  TaskDeleted: task.TaskDeleted,
}

const attachment = { containerId: 'redis', network: 'bridge' } as const

export const network: ByType<NetworkEvent> = {
  NetworkAttachRequested: { type: 'NetworkAttachRequested', ...attachment },
  NetworkAttached: {
    ...{ type: 'NetworkAttached', ...attachment, netnsPath: '/run/netns/x' },
    ...{ addresses: ['10.0.0.2/24'], gateways: ['10.0.0.1'], interface: 'eth0' },
  },
  NetworkAttachFailed: { type: 'NetworkAttachFailed', ...attachment, reason },
  NetworkDetachRequested: { type: 'NetworkDetachRequested', ...attachment },
  NetworkDetached: { type: 'NetworkDetached', ...attachment },
  NetworkDetachFailed: { type: 'NetworkDetachFailed', ...attachment, reason },
}

export const restart: ByType<RestartEvent> = {
  RestartScheduled: { type: 'RestartScheduled', ...of, action: 'start', due: exit.at, attempt: 0 },
  RestartBegun: { type: 'RestartBegun', ...of },
  RestartDone: { type: 'RestartDone', ...of, at: exit.at },
  RestartFailed: { type: 'RestartFailed', ...of, reason, due: exit.at, attempt: 1 },
  RestartCancelled: { type: 'RestartCancelled', ...of },
}

const name = { kind: 'runtime', id: 'v2' } as const

/** Of registration `epoch`. */
export const plugin = (epoch: number): ByType<PluginEvent> => ({
  PluginRegistered: {
    type: 'PluginRegistered',
    ...name,
    version: `0.${epoch}`,
    endpoint: 'unix:///x',
    capabilities: [],
    epoch,
  },
  PluginReady: { type: 'PluginReady', ...name, epoch },
  PluginDraining: { type: 'PluginDraining', ...name, epoch, reason },
  PluginLost: { type: 'PluginLost', ...name, epoch, reason },
  PluginLeft: { type: 'PluginLeft', ...name, epoch, reason },
  PluginEmitted: {
    type: 'PluginEmitted',
    ...name,
    emissionId: `emission-${epoch}`,
    topic: '/x',
    at: null,
    event: null,
  },
})
