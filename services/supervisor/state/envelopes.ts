// Durable events as containerd's clients know them: topic, payload, envelope. Pure.
import type { Envelope } from '../../../proto/gen/containerd/types/event.js'
import { formatNanos } from '../domain/time.js'
import type { Exit } from '../domain/values.js'
import { anyFromSmall, mountToProto, timestampToProto } from './convert.js'
import { type Payload, payloads } from './payloads.js'
import type { Told } from './store.js'

/** The envelope that subscribers get; undefined for what containerd has no event for. */
export function envelopeOf(told: Told): Envelope | undefined {
  const { event, record } = told
  const now = timestampToProto(formatNanos(record.timeUnixNano))
  if (event.type === 'EventPublished') {
    const timestamp = event.at === null ? now : timestampToProto(event.at)
    const any = event.event ? anyFromSmall(event.event) : undefined
    return { timestamp, namespace: record.namespace, topic: event.topic, event: any, sequence: 0n }
  }
  const subject = subjectOf(told)
  // containerd tells of images and snapshots that its collection removes, not of content.
  if (!subject || (event.type === 'ContentDeleted' && record.causation === collection)) return undefined
  return {
    timestamp: now,
    namespace: record.namespace,
    topic: subject.topic,
    event: subject.payload.toAny(),
    sequence: 0n,
  }
}

/** What the journal names as the cause of what a collection of garbage removes. */
export const collection = 'gc'

/** An event in containerd's words. */
export interface Subject {
  topic: string
  /** What it is about: a container's id, an image's name, a digest. */
  id: string
  payload: Payload
}

/**
 * undefined for events that containerd does not have, and for published ones, which bring their own payload.
 * There is no /content/create on purpose: `ctr events` of Debian's 1.6 does not know its type and warns at each.
 */
export function subjectOf({ event }: Told): Subject | undefined {
  switch (event.type) {
    case 'ContainerCreated': {
      const { id, image, runtime } = event.container
      const options = runtime.options ? anyFromSmall(runtime.options) : undefined
      const payload = payloads.ContainerCreate.of({ id, image, runtime: { name: runtime.name, options } })
      return { topic: '/containers/create', id, payload }
    }
    case 'ContainerUpdated': {
      const { id, image, labels, snapshotKey } = event.container
      const payload = payloads.ContainerUpdate.of({ id, image, labels: { ...labels }, snapshotKey })
      return { topic: '/containers/update', id, payload }
    }
    case 'ContainerDeleted':
      return { topic: '/containers/delete', id: event.id, payload: payloads.ContainerDelete.of({ id: event.id }) }
    case 'ImageCreated':
    case 'ImageUpdated': {
      const { name, labels } = event.image
      const [topic, type] =
        event.type === 'ImageCreated'
          ? ['/images/create', payloads.ImageCreate]
          : ['/images/update', payloads.ImageUpdate]
      return { topic, id: name, payload: type.of({ name, labels: { ...labels } }) }
    }
    case 'ImageDeleted':
      return { topic: '/images/delete', id: event.name, payload: payloads.ImageDelete.of({ name: event.name }) }
    case 'NamespaceCreated':
    case 'NamespaceUpdated': {
      const { name, labels } = event
      const [topic, type] =
        event.type === 'NamespaceCreated'
          ? ['/namespaces/create', payloads.NamespaceCreate]
          : ['/namespaces/update', payloads.NamespaceUpdate]
      return { topic, id: name, payload: type.of({ name, labels: { ...labels } }) }
    }
    case 'NamespaceDeleted':
      return { topic: '/namespaces/delete', id: event.name, payload: payloads.NamespaceDelete.of({ name: event.name }) }
    case 'ContentDeleted': {
      const { digest } = event
      return { topic: '/content/delete', id: digest, payload: payloads.ContentDelete.of({ digest }) }
    }
    case 'SnapshotPrepared': {
      // View publishes nothing.
      if (event.kind === 'view') return undefined
      const { key, parent, snapshotter } = event
      return { topic: '/snapshot/prepare', id: key, payload: payloads.SnapshotPrepare.of({ key, parent, snapshotter }) }
    }
    case 'SnapshotCommitted': {
      const { key, name, snapshotter } = event
      return { topic: '/snapshot/commit', id: key, payload: payloads.SnapshotCommit.of({ key, name, snapshotter }) }
    }
    case 'SnapshotRemoved': {
      const { key, snapshotter } = event
      return { topic: '/snapshot/remove', id: key, payload: payloads.SnapshotRemove.of({ key, snapshotter }) }
    }
    case 'SandboxCreated': {
      const { sandboxId } = event
      return { topic: '/sandboxes/create', id: sandboxId, payload: payloads.SandboxCreate.of({ sandboxId }) }
    }
    case 'SandboxStarted': {
      const { sandboxId } = event
      return { topic: '/sandboxes/start', id: sandboxId, payload: payloads.SandboxStart.of({ sandboxId }) }
    }
    case 'SandboxExited': {
      const { sandboxId } = event
      const payload = payloads.SandboxExit.of({ sandboxId, ...exitFields(event.exit) })
      return { topic: '/sandboxes/exit', id: sandboxId, payload }
    }
    default:
      return taskSubject(event)
  }
}

function taskSubject(event: Told['event']): Subject | undefined {
  switch (event.type) {
    case 'TaskCreated': {
      const { containerId, bundle, rootfs, stdio, checkpoint, pid } = event
      const message = { containerId, bundle, rootfs: rootfs.map(mountToProto), io: { ...stdio }, checkpoint, pid }
      return { topic: '/tasks/create', id: containerId, payload: payloads.TaskCreate.of(message) }
    }
    case 'TaskStarted': {
      const { containerId, pid } = event
      return { topic: '/tasks/start', id: containerId, payload: payloads.TaskStart.of({ containerId, pid }) }
    }
    // The init process goes by its container's id.
    case 'TaskExited':
      return exit(event.containerId, event.containerId, event.pid, event.exit)
    case 'ExecExited':
      return exit(event.containerId, event.execId, event.pid, event.exit)
    case 'TaskDeleted': {
      const { containerId, pid } = event
      // The shim leaves the id of an init process empty here.
      const message = { containerId, pid, ...exitFields(event.exit), id: '' }
      return { topic: '/tasks/delete', id: containerId, payload: payloads.TaskDelete.of(message) }
    }
    case 'TaskOutOfMemory': {
      const { containerId } = event
      return { topic: '/tasks/oom', id: containerId, payload: payloads.TaskOOM.of({ containerId }) }
    }
    case 'TaskPaused': {
      const { containerId } = event
      return { topic: '/tasks/paused', id: containerId, payload: payloads.TaskPaused.of({ containerId }) }
    }
    case 'TaskCheckpointed': {
      const { containerId, imagePath, descriptors } = event
      const checkpoint = descriptors[0]?.digest ?? imagePath
      const payload = payloads.TaskCheckpointed.of({ containerId, checkpoint })
      return { topic: '/tasks/checkpointed', id: containerId, payload }
    }
    case 'TaskResumed': {
      const { containerId } = event
      return { topic: '/tasks/resumed', id: containerId, payload: payloads.TaskResumed.of({ containerId }) }
    }
    case 'ExecAdded': {
      const { containerId, execId } = event
      return {
        topic: '/tasks/exec-added',
        id: containerId,
        payload: payloads.TaskExecAdded.of({ containerId, execId }),
      }
    }
    case 'ExecStarted': {
      const { containerId, execId, pid } = event
      const payload = payloads.TaskExecStarted.of({ containerId, execId, pid })
      return { topic: '/tasks/exec-started', id: containerId, payload }
    }
    default:
      return undefined
  }
}

function exit(containerId: string, id: string, pid: number, at: Exit): Subject {
  const payload = payloads.TaskExit.of({ containerId, id, pid, ...exitFields(at) })
  return { topic: '/tasks/exit', id: containerId, payload }
}

const exitFields = ({ status, at }: Exit) => ({ exitStatus: status, exitedAt: timestampToProto(at) })
