// Durable events as the world outside hears of them (NATS): every record has one. Pure.

import type { DomainEvent } from '../domain/decision.js'
import { anyFromSmall } from './convert.js'
import { subjectOf } from './envelopes.js'
import { messageName, readPayload } from './payloads.js'
import type { Told } from './store.js'

export interface Publication {
  /** containerd's, or `/purser/<lifecycle>/<event>` for what containerd has no event for. */
  topic: string
  /** What it is about: a container's id, an image's name, a digest. '' when that is not known. */
  id: string
  /** The payload's full message name, or `io.purser.<lifecycle>.<event>`. */
  type: string
  contentType: 'application/json'
  data: Uint8Array
}

/**
 * With an event of containerd's, `data` is its payload as protobuf's JSON; otherwise the fact as the journal has it.
 * Heavy attachments stay in the journal: the fact names their place.
 */
export function publicationOf(told: Told): Publication {
  const { event, record } = told
  if (event.type === 'EventPublished' || event.type === 'PluginEmitted') return published(event)
  const subject = subjectOf(told)
  if (subject) {
    const { topic, id, payload } = subject
    return { topic, id, type: payload.type, contentType: 'application/json', data: json(payload) }
  }
  const [lifecycle, happened] = split(event.type)
  return {
    topic: `/purser/${lifecycle}/${happened}`,
    id: idOf(event),
    type: `io.purser.${lifecycle}.${happened}`,
    contentType: 'application/json',
    data: record.payload,
  }
}

/** What a client or a plugin published: readable when its type is known, else its bytes as base64. */
function published({ topic, event }: Extract<DomainEvent, { type: 'EventPublished' | 'PluginEmitted' }>): Publication {
  const payload = event ? readPayload(anyFromSmall(event)) : undefined
  const type = event && event.typeUrl !== '' ? messageName(event.typeUrl) : 'google.protobuf.Any'
  return {
    topic,
    id: payload ? named(payload.message) : '',
    type,
    contentType: 'application/json',
    data: json(payload ?? event),
  }
}

const json = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value))

/** The field by which a payload names its subject. */
function named(message: object): string {
  for (const [name, value] of Object.entries(message)) {
    if (['containerId', 'id', 'name', 'digest', 'key', 'sandboxId'].includes(name) && typeof value === 'string')
      return value
  }
  return ''
}

const lifecycles = {
  Container: 'containers',
  Content: 'content',
  Exec: 'execs',
  Image: 'images',
  Lease: 'leases',
  Namespace: 'namespaces',
  Network: 'networks',
  Plugin: 'plugins',
  Record: 'records',
  Request: 'requests',
  Restart: 'restarts',
  Sandbox: 'sandboxes',
  Snapshot: 'snapshots',
  Task: 'tasks',
} as const
type Lifecycle = keyof typeof lifecycles
type Ordinary = Exclude<DomainEvent, { type: 'EventPublished' }>

/** "TaskStartRequested" → tasks, start-requested. */
function split(type: Ordinary['type'] & `${Lifecycle}${string}`): [lifecycle: string, happened: string] {
  const [, first = '', rest = ''] = /^([A-Z][a-z]+)(.*)$/.exec(type) ?? []
  const lifecycle = isLifecycle(first) ? lifecycles[first] : first.toLowerCase()
  return [lifecycle, rest.replace(/(?<=.)[A-Z]/g, letter => `-${letter}`).toLowerCase()]
}

const isLifecycle = (word: string): word is Lifecycle => Object.hasOwn(lifecycles, word)

function idOf(event: Ordinary): string {
  switch (event.type) {
    case 'ContainerCreated':
    case 'ContainerUpdated':
      return event.container.id
    case 'ImageCreated':
    case 'ImageUpdated':
      return event.image.name
    case 'SandboxRecordCreated':
    case 'SandboxRecordUpdated':
      return event.sandbox.id
    case 'PluginRegistered':
    case 'PluginReady':
    case 'PluginDraining':
    case 'PluginLost':
    case 'PluginLeft':
    case 'PluginEmitted':
      return `${event.kind}/${event.id}`
    case 'RecordLost':
    case 'RecordLossAccepted':
      return ''
    default:
      if ('containerId' in event) return event.containerId
      if ('sandboxId' in event) return event.sandboxId
      if ('digest' in event) return event.digest
      if ('key' in event) return event.key
      if ('name' in event) return event.name
      return event.id
  }
}
