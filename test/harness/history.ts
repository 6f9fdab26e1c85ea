// Everything that Purser has told since its journal began, as JetStream holds it.
import { randomBytes } from 'node:crypto'
import { EventsService, PublishRequest } from '../../proto/gen/containerd/services/events/v1/events.js'
import type { Host } from './host.js'
import { listen, type RelayedEvent } from './jetstream.js'
import { OpenScope } from './wait.js'

/** Every event so far, oldest first. The host needs `nats: 'embedded'`. */
export async function history(host: Host): Promise<RelayedEvent[]> {
  const scope = new OpenScope()
  try {
    const events = await listen(scope, host)
    // An event of our own marks the end: what was told before it comes before it.
    const mark = randomBytes(6).toString('hex')
    const event = { typeUrl: 'containerd.events.NamespaceCreate', value: Buffer.alloc(0) }
    await host.call(EventsService.publish, PublishRequest.fromPartial({ topic: `/harness/${mark}`, event }))
    const isMark = ({ subject }: RelayedEvent) => subject.includes(`.harness.${mark}.`)
    await events.first('the mark in JetStream', isMark)
    return events.items.filter(({ subject }) => !subject.includes('.harness.'))
  } finally {
    await scope.close()
  }
}

export interface Exit {
  /** The container's id for its init process, the exec id for one that was added. */
  process: string
  status: number
}

/** The exits of one container's processes, as often as they are told. */
export async function exitsOf(host: Host, id: string): Promise<Exit[]> {
  const events = await history(host)
  return events
    .filter(({ subject }) => subject.endsWith(`.default.tasks.exit.${id}`))
    .map(({ data }) => ({ process: String(data.id), status: Number(data.exit_status ?? data.exitStatus ?? 0) }))
}
