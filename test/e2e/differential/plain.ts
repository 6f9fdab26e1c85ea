// What two hosts say, made comparable: without times, process ids and places, and failures by the words that count.
import * as container from '../../../proto/gen/containerd/events/container.js'
import * as content from '../../../proto/gen/containerd/events/content.js'
import * as namespace from '../../../proto/gen/containerd/events/namespace.js'
import * as snapshot from '../../../proto/gen/containerd/events/snapshot.js'
import * as task from '../../../proto/gen/containerd/events/task.js'
import * as image from '../../../proto/gen/containerd/services/images/v1/events.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'

export type Plain = string | number | boolean | null | Plain[] | { [field: string]: Plain }

/** Fields whose value is the host's own; that there is one is compared. */
const own = new Set(['pid', 'ioPid', 'pidns', 'uuid', 'size_', 'bundle', 'inodes'])

export function plain(value: unknown, unnamed: (text: string) => string, field = ''): Plain {
  if (value === undefined || value === null) return /(At|timestamp)$/.test(field) ? '<no time>' : null
  if (Buffer.isBuffer(value)) return bytes(value, unnamed)
  if (typeof value === 'string') return own.has(field) && value !== '' ? `<${field}>` : unnamed(value)
  if (typeof value === 'bigint' || typeof value === 'number')
    return own.has(field) && Number(value) > 0 ? `<${field}>` : Number(value)
  if (typeof value === 'boolean') return value
  if (Array.isArray(value)) return value.map(item => plain(item, unnamed))
  if (typeof value !== 'object') return String(value)
  if ('seconds' in value && 'nanos' in value) return Number(value.seconds) > 0 ? '<time>' : '<no time>'
  const entries = Object.entries(value).map(([name, item]): [string, Plain] => [
    unnamed(name),
    plain(item, unnamed, name),
  ])
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)))
}

const bytes = (value: Buffer, unnamed: (text: string) => string) =>
  unnamed(value.length > 200 ? `${value.length} bytes` : value.toString('latin1'))

interface Codec {
  decode(bytes: Uint8Array): object
}
const codecs: Record<string, Codec> = {
  ContainerCreate: container.ContainerCreate,
  ContainerUpdate: container.ContainerUpdate,
  ContainerDelete: container.ContainerDelete,
  ContentCreate: content.ContentCreate,
  ContentDelete: content.ContentDelete,
  NamespaceCreate: namespace.NamespaceCreate,
  NamespaceUpdate: namespace.NamespaceUpdate,
  NamespaceDelete: namespace.NamespaceDelete,
  SnapshotPrepare: snapshot.SnapshotPrepare,
  SnapshotCommit: snapshot.SnapshotCommit,
  SnapshotRemove: snapshot.SnapshotRemove,
  TaskCreate: task.TaskCreate,
  TaskStart: task.TaskStart,
  TaskDelete: task.TaskDelete,
  TaskExit: task.TaskExit,
  TaskOOM: task.TaskOOM,
  TaskExecAdded: task.TaskExecAdded,
  TaskExecStarted: task.TaskExecStarted,
  TaskPaused: task.TaskPaused,
  TaskResumed: task.TaskResumed,
  TaskCheckpointed: task.TaskCheckpointed,
  ImageCreate: image.ImageCreate,
  ImageUpdate: image.ImageUpdate,
  ImageDelete: image.ImageDelete,
}

/** An event's payload, and the name of what it is about. */
export function decoded(event: Any | undefined): { subject: string; value: unknown } {
  if (!event) return { subject: '', value: null }
  const codec = codecs[event.typeUrl.split('.').at(-1) ?? '']
  if (!codec) return { subject: event.typeUrl, value: event }
  const value = codec.decode(event.value)
  const subject = Object.entries(value).find(([field]) =>
    ['containerId', 'id', 'key', 'name', 'digest'].includes(field),
  )
  return { subject: String(subject?.[1] ?? ''), value }
}

/** What clients and people look for in an error. The class of it is its code. */
const phrases = [
  ...['not found', 'already exists', 'already finished', 'must be empty', 'immutable', 'namespace is required'],
  ...['must match', 'greater than maximum', 'parse error', ' field', 'not committed', 'cannot remove snapshot'],
  ...['locked', 'must occur at current offset', 'unexpected commit digest', 'no such file'],
  ...['runc did not terminate', 'oci runtime', 'unable to signal', 'invalid resource type', 'not supported yet'],
]

export function gist(text: string): string {
  return phrases.filter(phrase => text.toLowerCase().includes(phrase)).join(', ')
}
