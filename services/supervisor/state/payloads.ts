// The messages that containerd's events carry, by the name that their type URLs say.
import { ContainerCreate, ContainerDelete, ContainerUpdate } from '../../../proto/gen/containerd/events/container.js'
import { ContentCreate, ContentDelete } from '../../../proto/gen/containerd/events/content.js'
import { NamespaceCreate, NamespaceDelete, NamespaceUpdate } from '../../../proto/gen/containerd/events/namespace.js'
import { SandboxCreate, SandboxExit, SandboxStart } from '../../../proto/gen/containerd/events/sandbox.js'
import { SnapshotCommit, SnapshotPrepare, SnapshotRemove } from '../../../proto/gen/containerd/events/snapshot.js'
import {
  TaskCheckpointed,
  TaskCreate,
  TaskDelete,
  TaskExecAdded,
  TaskExecStarted,
  TaskExit,
  TaskOOM,
  TaskPaused,
  TaskResumed,
  TaskStart,
} from '../../../proto/gen/containerd/events/task.js'
import { Options } from '../../../proto/gen/containerd/runc/v1/options.js'
import { ImageCreate, ImageDelete, ImageUpdate } from '../../../proto/gen/containerd/services/images/v1/events.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'
import type { Timestamp } from '../../../proto/gen/google/protobuf/timestamp.js'
import { formatInstant } from '../domain/time.js'

/** What is needed of a generated message type. */
interface MessageType<Message> {
  encode(message: Message): { finish(): Uint8Array }
  decode(bytes: Uint8Array): Message
  toJSON(message: Message): unknown
}

/** A message with its name. */
export interface Payload {
  /** Its full name: "containerd.events.TaskExit". */
  readonly type: string
  readonly message: object
  /** As events carry it. containerd's type URLs have no host in front. */
  toAny(): Any
  toJSON(): unknown
}

interface PayloadType<Message> {
  readonly name: string
  of(message: Message): Payload
  /** Throws when the bytes are no such message. */
  read(bytes: Uint8Array): Payload
}

function payloadType<Message extends object>(name: string, type: MessageType<Message>): PayloadType<Message> {
  const of = (message: Message): Payload => ({
    type: name,
    message,
    toAny: () => ({ typeUrl: name, value: Buffer.from(type.encode(message).finish()) }),
    toJSON: () => exactTimes(type.toJSON(message), message),
  })
  return { name, of, read: bytes => of(type.decode(bytes)) }
}

export const payloads = {
  ContainerCreate: payloadType('containerd.events.ContainerCreate', ContainerCreate),
  ContainerDelete: payloadType('containerd.events.ContainerDelete', ContainerDelete),
  ContainerUpdate: payloadType('containerd.events.ContainerUpdate', ContainerUpdate),
  ContentCreate: payloadType('containerd.events.ContentCreate', ContentCreate),
  ContentDelete: payloadType('containerd.events.ContentDelete', ContentDelete),
  NamespaceCreate: payloadType('containerd.events.NamespaceCreate', NamespaceCreate),
  NamespaceDelete: payloadType('containerd.events.NamespaceDelete', NamespaceDelete),
  NamespaceUpdate: payloadType('containerd.events.NamespaceUpdate', NamespaceUpdate),
  SandboxCreate: payloadType('containerd.events.SandboxCreate', SandboxCreate),
  SandboxExit: payloadType('containerd.events.SandboxExit', SandboxExit),
  SandboxStart: payloadType('containerd.events.SandboxStart', SandboxStart),
  SnapshotCommit: payloadType('containerd.events.SnapshotCommit', SnapshotCommit),
  SnapshotPrepare: payloadType('containerd.events.SnapshotPrepare', SnapshotPrepare),
  SnapshotRemove: payloadType('containerd.events.SnapshotRemove', SnapshotRemove),
  TaskCheckpointed: payloadType('containerd.events.TaskCheckpointed', TaskCheckpointed),
  TaskCreate: payloadType('containerd.events.TaskCreate', TaskCreate),
  TaskDelete: payloadType('containerd.events.TaskDelete', TaskDelete),
  TaskExecAdded: payloadType('containerd.events.TaskExecAdded', TaskExecAdded),
  TaskExecStarted: payloadType('containerd.events.TaskExecStarted', TaskExecStarted),
  TaskExit: payloadType('containerd.events.TaskExit', TaskExit),
  TaskOOM: payloadType('containerd.events.TaskOOM', TaskOOM),
  TaskPaused: payloadType('containerd.events.TaskPaused', TaskPaused),
  TaskResumed: payloadType('containerd.events.TaskResumed', TaskResumed),
  TaskStart: payloadType('containerd.events.TaskStart', TaskStart),
  ImageCreate: payloadType('containerd.services.images.v1.ImageCreate', ImageCreate),
  ImageDelete: payloadType('containerd.services.images.v1.ImageDelete', ImageDelete),
  ImageUpdate: payloadType('containerd.services.images.v1.ImageUpdate', ImageUpdate),
  /** No event, but what a container's runtime options usually are. */
  RuncOptions: payloadType('containerd.runc.v1.Options', Options),
} as const

const byName = new Map<string, Pick<PayloadType<never>, 'read'>>(
  Object.values(payloads).map(payload => [payload.name, payload]),
)

/** The name at the end of a type URL; others than containerd put a host in front. */
export const messageName = (typeUrl: string): string => typeUrl.slice(typeUrl.lastIndexOf('/') + 1)

/** undefined for a message that nobody here knows, or that is broken. */
export function readPayload({ typeUrl, value }: Any): Payload | undefined {
  try {
    return byName.get(messageName(typeUrl))?.read(value)
  } catch {
    return undefined // whoever published it sent other bytes than it said: it is passed on as it is
  }
}

/** The generated JSON cuts times to milliseconds. */
function exactTimes(json: unknown, message: object): unknown {
  const times = Object.entries(message).flatMap(([name, value]) =>
    isTimestamp(value) ? [[name, formatInstant(value)] as const] : [],
  )
  return { ...Object(json), ...Object.fromEntries(times) }
}

const isTimestamp = (value: unknown): value is Timestamp =>
  typeof value === 'object' && value !== null && 'seconds' in value && 'nanos' in value
