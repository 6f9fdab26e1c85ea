// How each fact is told: to containerd's clients as an envelope, to the world outside as a publication.
import t from 'tap'
import { ContainerCreate } from '../../../proto/gen/containerd/events/container.js'
import { SnapshotPrepare } from '../../../proto/gen/containerd/events/snapshot.js'
import { TaskCreate, TaskDelete, TaskExit } from '../../../proto/gen/containerd/events/task.js'
import type { DomainEvent } from '../../../services/supervisor/domain/decision.js'
import { encodeFact } from '../../../services/supervisor/state/codec.js'
import { envelopeOf } from '../../../services/supervisor/state/envelopes.js'
import { publicationOf } from '../../../services/supervisor/state/publication.js'
import type { Told } from '../../../services/supervisor/state/store.js'
import { container, exec, exit, network, plugin, record, sandbox, sandboxOnRecord, task } from '../domain/facts.js'

const seconds = 1_767_323_045n

function told(event: DomainEvent): Told {
  const fact = { namespace: 'moby', stream: 's', event, attachments: [Buffer.from('heavy')] }
  const about = { node: 'n', causation: '', correlation: '', actor: { pid: 0, uid: 0, gid: 0, name: '' } }
  return { event, record: { ...encodeFact(fact), ...about, sequence: 9n, timeUnixNano: seconds * 1_000_000_000n + 6n } }
}

const target = { mediaType: 'm', digest: 'sha256:a', size: '1', annotations: {} }
const image = { name: 'redis:7', labels: { a: 'b' }, target }
const snapshot = { snapshotter: 'overlayfs', key: 'k' }
const labels = {}
const prepared = { type: 'SnapshotPrepared', ...snapshot, parent: 'p', labels, backendKey: 'b', mounts: [] } as const
const exitBytes = Buffer.from(TaskExit.encode(TaskExit.create({ containerId: 'c', exitStatus: 3 })).finish())
const published = {
  type: 'EventPublished',
  topic: '/tasks/exit',
  at: '2020-01-01T00:00:00.000000001Z',
  event: { typeUrl: 'type.googleapis.com/containerd.events.TaskExit', value: exitBytes.toString('base64') },
} as const

type Row = [event: DomainEvent, envelope: string, publication: string, id: string]

/** Every fact there is. '' stands for no envelope. */
const rows: readonly Row[] = [
  [{ type: 'RequestTaken', id: 'r1', method: 'Tasks/Create', fingerprint: 'f' }, '', '/purser/requests/taken', 'r1'],
  [
    { type: 'RequestAnswered', id: 'r1', method: 'Tasks/Create', fingerprint: 'f', code: 0, message: '' },
    '',
    '/purser/requests/answered',
    'r1',
  ],
  [container.ContainerCreated, '/containers/create ContainerCreate', '/containers/create', 'redis'],
  [container.ContainerUpdated, '/containers/update ContainerUpdate', '/containers/update', 'redis'],
  [container.ContainerDeleted, '/containers/delete ContainerDelete', '/containers/delete', 'redis'],
  [{ type: 'ContentCommitted', digest: 'sha256:a', size: '1', labels }, '', '/purser/content/committed', 'sha256:a'],
  [{ type: 'ContentUpdated', digest: 'sha256:a', labels }, '', '/purser/content/updated', 'sha256:a'],
  [{ type: 'ContentDeleted', digest: 'sha256:a' }, '/content/delete ContentDelete', '/content/delete', 'sha256:a'],
  [{ type: 'ImageCreated', image, at: null }, '/images/create ImageCreate', '/images/create', 'redis:7'],
  [{ type: 'ImageUpdated', image, at: null }, '/images/update ImageUpdate', '/images/update', 'redis:7'],
  [{ type: 'ImageDeleted', name: 'redis:7' }, '/images/delete ImageDelete', '/images/delete', 'redis:7'],
  [{ type: 'LeaseCreated', id: 'l', labels }, '', '/purser/leases/created', 'l'],
  [{ type: 'LeaseDeleted', id: 'l' }, '', '/purser/leases/deleted', 'l'],
  [
    { type: 'LeaseResourceAdded', id: 'l', resource: { type: 'content', id: 'd' } },
    '',
    '/purser/leases/resource-added',
    'l',
  ],
  [
    { type: 'LeaseResourceRemoved', id: 'l', resource: { type: 'content', id: 'd' } },
    '',
    '/purser/leases/resource-removed',
    'l',
  ],
  [
    { type: 'NamespaceCreated', name: 'moby', labels },
    '/namespaces/create NamespaceCreate',
    '/namespaces/create',
    'moby',
  ],
  [
    { type: 'NamespaceUpdated', name: 'moby', labels },
    '/namespaces/update NamespaceUpdate',
    '/namespaces/update',
    'moby',
  ],
  [{ type: 'NamespaceDeleted', name: 'moby' }, '/namespaces/delete NamespaceDelete', '/namespaces/delete', 'moby'],
  [network.NetworkAttachRequested, '', '/purser/networks/attach-requested', 'redis'],
  [network.NetworkAttached, '', '/purser/networks/attached', 'redis'],
  [network.NetworkAttachFailed, '', '/purser/networks/attach-failed', 'redis'],
  [network.NetworkDetachRequested, '', '/purser/networks/detach-requested', 'redis'],
  [network.NetworkDetached, '', '/purser/networks/detached', 'redis'],
  [network.NetworkDetachFailed, '', '/purser/networks/detach-failed', 'redis'],
  [plugin(1).PluginRegistered, '', '/purser/plugins/registered', 'runtime/v2'],
  [plugin(1).PluginReady, '', '/purser/plugins/ready', 'runtime/v2'],
  [plugin(1).PluginDraining, '', '/purser/plugins/draining', 'runtime/v2'],
  [plugin(1).PluginLost, '', '/purser/plugins/lost', 'runtime/v2'],
  [plugin(1).PluginLeft, '', '/purser/plugins/left', 'runtime/v2'],
  [plugin(1).PluginEmitted, '', '/x', ''],
  [published, '/tasks/exit TaskExit', '/tasks/exit', 'c'],
  [{ ...prepared, kind: 'active' }, '/snapshot/prepare SnapshotPrepare', '/snapshot/prepare', 'k'],
  [{ ...prepared, kind: 'view' }, '', '/purser/snapshots/prepared', 'k'],
  [
    { type: 'SnapshotCommitted', ...snapshot, name: 'n', labels, backendKey: 'b', usage: { size: '1', inodes: '1' } },
    ...(['/snapshot/commit SnapshotCommit', '/snapshot/commit', 'k'] as const),
  ],
  [{ type: 'SnapshotUpdated', ...snapshot, labels }, '', '/purser/snapshots/updated', 'k'],
  [
    { type: 'SnapshotRemoved', ...snapshot, backendKey: 'b' },
    '/snapshot/remove SnapshotRemove',
    '/snapshot/remove',
    'k',
  ],
  [sandbox.SandboxCreateRequested, '', '/purser/sandboxes/create-requested', 'pod'],
  [sandbox.SandboxCreated, '/sandboxes/create SandboxCreate', '/sandboxes/create', 'pod'],
  [sandbox.SandboxCreateFailed, '', '/purser/sandboxes/create-failed', 'pod'],
  [sandbox.SandboxStartRequested, '', '/purser/sandboxes/start-requested', 'pod'],
  [sandbox.SandboxStarted, '/sandboxes/start SandboxStart', '/sandboxes/start', 'pod'],
  [sandbox.SandboxStartFailed, '', '/purser/sandboxes/start-failed', 'pod'],
  [sandbox.SandboxStopRequested, '', '/purser/sandboxes/stop-requested', 'pod'],
  [sandbox.SandboxExited, '/sandboxes/exit SandboxExit', '/sandboxes/exit', 'pod'],
  [sandbox.SandboxShutdownRequested, '', '/purser/sandboxes/shutdown-requested', 'pod'],
  [sandbox.SandboxShutdownFailed, '', '/purser/sandboxes/shutdown-failed', 'pod'],
  [sandbox.SandboxRemoved, '', '/purser/sandboxes/removed', 'pod'],
  [sandboxOnRecord.SandboxRecordCreated, '', '/purser/sandboxes/record-created', 'pod'],
  [sandboxOnRecord.SandboxRecordUpdated, '', '/purser/sandboxes/record-updated', 'pod'],
  [sandboxOnRecord.SandboxRecordDeleted, '', '/purser/sandboxes/record-deleted', 'pod'],
  [sandboxOnRecord.SandboxRecordPartsMoved, '', '/purser/sandboxes/record-parts-moved', 'pod'],
  [task.TaskCreateRequested, '', '/purser/tasks/create-requested', 'redis'],
  [task.TaskCreated, '/tasks/create TaskCreate', '/tasks/create', 'redis'],
  [task.TaskCreateFailed, '', '/purser/tasks/create-failed', 'redis'],
  [task.TaskStartRequested, '', '/purser/tasks/start-requested', 'redis'],
  [task.TaskStarted, '/tasks/start TaskStart', '/tasks/start', 'redis'],
  [task.TaskStartFailed, '', '/purser/tasks/start-failed', 'redis'],
  [task.TaskSignalled, '', '/purser/tasks/signalled', 'redis'],
  [task.TaskPauseRequested, '', '/purser/tasks/pause-requested', 'redis'],
  [task.TaskPaused, '/tasks/paused TaskPaused', '/tasks/paused', 'redis'],
  [task.TaskPauseFailed, '', '/purser/tasks/pause-failed', 'redis'],
  [task.TaskResumeRequested, '', '/purser/tasks/resume-requested', 'redis'],
  [task.TaskResumed, '/tasks/resumed TaskResumed', '/tasks/resumed', 'redis'],
  [task.TaskResumeFailed, '', '/purser/tasks/resume-failed', 'redis'],
  [task.TaskResourcesUpdated, '', '/purser/tasks/resources-updated', 'redis'],
  [task.TaskCheckpointRequested, '', '/purser/tasks/checkpoint-requested', 'redis'],
  [task.TaskCheckpointed, '/tasks/checkpointed TaskCheckpointed', '/tasks/checkpointed', 'redis'],
  [task.TaskCheckpointFailed, '', '/purser/tasks/checkpoint-failed', 'redis'],
  [task.TaskOutOfMemory, '/tasks/oom TaskOOM', '/tasks/oom', 'redis'],
  [task.TaskExited, '/tasks/exit TaskExit', '/tasks/exit', 'redis'],
  [task.TaskDeleteRequested, '', '/purser/tasks/delete-requested', 'redis'],
  [task.TaskDeleted, '/tasks/delete TaskDelete', '/tasks/delete', 'redis'],
  [task.TaskDeleteFailed, '', '/purser/tasks/delete-failed', 'redis'],
  [exec.ExecRequested, '', '/purser/execs/requested', 'redis'],
  [exec.ExecAdded, '/tasks/exec-added TaskExecAdded', '/tasks/exec-added', 'redis'],
  [exec.ExecAddFailed, '', '/purser/execs/add-failed', 'redis'],
  [exec.ExecStartRequested, '', '/purser/execs/start-requested', 'redis'],
  [exec.ExecStarted, '/tasks/exec-started TaskExecStarted', '/tasks/exec-started', 'redis'],
  [exec.ExecStartFailed, '', '/purser/execs/start-failed', 'redis'],
  [exec.ExecSignalled, '', '/purser/execs/signalled', 'redis'],
  [exec.ExecExited, '/tasks/exit TaskExit', '/tasks/exit', 'redis'],
  [exec.ExecDeleteRequested, '', '/purser/execs/delete-requested', 'redis'],
  [exec.ExecDeleted, '', '/purser/execs/deleted', 'redis'],
  [exec.ExecDeleteFailed, '', '/purser/execs/delete-failed', 'redis'],
  [exec.ExecAbandoned, '', '/purser/execs/abandoned', 'redis'],
]

t.test('every fact is told, in containerd’s words where it has some', async t => {
  for (const [event, envelope, topic, id] of rows) {
    const kind = 'kind' in event && event.kind === 'view' ? `${event.type} (view)` : event.type
    const sent = envelopeOf(told(event))
    const type = sent?.event?.typeUrl.split('.').at(-1)
    t.equal(sent ? `${sent.topic} ${type}` : '', envelope, `${kind}: envelope`)
    const publication = publicationOf(told(event))
    t.match(publication, { topic, id, contentType: 'application/json' }, `${kind}: publication`)
    t.doesNotThrow(() => JSON.parse(Buffer.from(publication.data).toString()), `${kind}: JSON`)
    t.notMatch(Buffer.from(publication.data).toString(), /heavy/)
  }
})

t.test('an envelope says when and where, and what containerd’s own clients decode', async t => {
  const timestamp = { seconds, nanos: 6 }
  const payload = (event: DomainEvent) => envelopeOf(told(event))?.event?.value ?? Buffer.alloc(0)
  t.match(envelopeOf(told(task.TaskStarted)), {
    timestamp,
    namespace: 'moby',
    event: { typeUrl: 'containerd.events.TaskStart' },
  })
  t.match(envelopeOf(told({ type: 'ImageDeleted', name: 'x' })), {
    event: { typeUrl: 'containerd.services.images.v1.ImageDelete' },
  })

  const exitedAt = { seconds, nanos: 6 }
  t.same(TaskExit.decode(payload(task.TaskExited)), {
    containerId: 'redis',
    id: 'redis',
    pid: 42,
    exitStatus: 7,
    exitedAt,
  })
  t.same(TaskExit.decode(payload(exec.ExecExited)), {
    containerId: 'redis',
    id: 'sh',
    pid: 43,
    exitStatus: 7,
    exitedAt,
  })
  t.match(TaskDelete.decode(payload(task.TaskDeleted)), {
    containerId: 'redis',
    id: '',
    pid: 42,
    exitStatus: 7,
    exitedAt,
  })
  t.equal(TaskExit.decode(payload({ ...task.TaskExited, exit: { status: 1, at: '' } })).exitedAt, undefined)
  const mount = { type: 'overlay', source: 'o', target: '', options: ['x'] }
  t.match(TaskCreate.decode(payload({ ...task.TaskCreated, rootfs: [mount] })), {
    ...{ containerId: 'redis', bundle: '/b', pid: 42, rootfs: [mount] },
    io: { stdin: '', stdout: '/run/fifo/out', stderr: '', terminal: false },
  })
  const runtime = { name: 'r', options: { typeUrl: 'o', value: Buffer.from('opts').toString('base64') } }
  t.match(ContainerCreate.decode(payload({ type: 'ContainerCreated', container: { ...record, runtime } })), {
    ...{ id: 'redis', image: 'redis:7' },
    runtime: { name: 'r', options: { typeUrl: 'o', value: Buffer.from('opts') } },
  })
  t.match(SnapshotPrepare.decode(payload({ ...prepared, kind: 'active' })), {
    key: 'k',
    parent: 'p',
    snapshotter: 'overlayfs',
  })
  t.match(envelopeOf(told(published)), {
    timestamp: { seconds: 1_577_836_800n, nanos: 1 },
    namespace: 'moby',
    event: { value: exitBytes },
  })
  t.match(envelopeOf(told({ ...published, at: null, event: null })), { timestamp, event: undefined })
})

t.test('a publication is JSON that a stranger can read, with exact times', async t => {
  const data = (event: DomainEvent): unknown => JSON.parse(Buffer.from(publicationOf(told(event)).data).toString())
  t.same(data(task.TaskExited), { containerId: 'redis', id: 'redis', pid: 42, exitStatus: 7, exitedAt: exit.at })
  t.same(data(network.NetworkDetached), { containerId: 'redis', network: 'bridge' })
  t.same(data(published), { containerId: 'c', exitStatus: 3 })
  t.equal(publicationOf(told(published)).type, 'containerd.events.TaskExit')
  t.equal(publicationOf(told(network.NetworkDetached)).type, 'io.purser.networks.detached')
  const foreign = { ...published, event: { typeUrl: 'x.example/T', value: 'AAE=' } }
  t.same(data(foreign), foreign.event, 'what nobody here knows is passed on as bytes')
  t.equal(publicationOf(told(foreign)).type, 'T')
  const broken = { ...published, event: { ...published.event, value: '//8=' } }
  t.same(data(broken), broken.event)
  t.equal(data({ ...published, event: null }), null)
})
