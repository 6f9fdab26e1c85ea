// Purser's events from the beginning of its journal: Events.Subscribe with the metadata `purser-since`.
import { randomBytes } from 'node:crypto'
import { TaskExit, TaskOOM } from '../../proto/gen/containerd/events/task.js'
import {
  EventsService,
  PublishRequest,
  SubscribeRequest,
} from '../../proto/gen/containerd/services/events/v1/events.js'
import type { Envelope } from '../../proto/gen/containerd/types/event.js'
import type { Host } from './host.js'

/** Every event so far, oldest first. `filters` as containerd's: `topic=="/tasks/exit"`. */
export async function history(host: Host, filters: string[] = []): Promise<Envelope[]> {
  // An event of our own marks the end: what was published before it comes before it.
  const topic = `/harness/${randomBytes(6).toString('hex')}`
  const event = { typeUrl: 'containerd.events.NamespaceCreate', value: Buffer.alloc(0) }
  await host.call(EventsService.publish, PublishRequest.fromPartial({ topic, event }))
  const wanted = filters.length === 0 ? [] : [...filters, `topic==${JSON.stringify(topic)}`]
  const stream = host.rpc.stream(EventsService.subscribe, SubscribeRequest.fromPartial({ filters: wanted }), {
    metadata: { 'purser-since': '0' },
  })
  const events: Envelope[] = []
  for await (const envelope of stream) {
    if (envelope.topic === topic) break
    events.push(envelope)
  }
  return events.filter(envelope => !envelope.topic.startsWith('/harness/'))
}

export interface Exit {
  container: string
  /** The container's id again for its init process. */
  process: string
  status: number
}

/** The exits of one container's processes, as often as they are told. */
export async function exitsOf(host: Host, id: string): Promise<Exit[]> {
  const envelopes = await history(host, ['topic=="/tasks/exit"'])
  return envelopes
    .map(({ event }) => TaskExit.decode(event?.value ?? Buffer.alloc(0)))
    .filter(({ containerId }) => containerId === id)
    .map(exit => ({ container: exit.containerId, process: exit.id, status: exit.exitStatus }))
}

/** How often it is told that the kernel killed something in this container for want of memory. */
export async function outOfMemoryOf(host: Host, id: string): Promise<number> {
  const envelopes = await history(host, ['topic=="/tasks/oom"'])
  return envelopes.filter(({ event }) => TaskOOM.decode(event?.value ?? Buffer.alloc(0)).containerId === id).length
}
