// What shims tell on their own: exits and out-of-memory kills go on to the supervisor; the rest it knows from replies.
// A shim is answered when the supervisor's journal has the event, or it is written down: until then it sends it again.
import { TaskExit, TaskOOM } from '../../proto/gen/containerd/events/task.js'
import { ForwardRequest } from '../../proto/gen/containerd/services/events/ttrpc/v1/events.js'
import type { Envelope } from '../../proto/gen/containerd/types/event.js'
import { Empty } from '../../proto/gen/google/protobuf/empty.js'
import { invalidArgument } from '../kit/errors.js'
import type { RuntimeContext } from './context.js'
import { printTime } from './entry.js'
import type { Tasks } from './tasks.js'
import type { TtrpcHandler } from './ttrpc/server.js'

/** The ttrpc methods that shims call. */
export function eventMethods(tasks: Tasks, context: RuntimeContext): Map<string, TtrpcHandler> {
  const forward: TtrpcHandler = async payload => {
    const { envelope } = decode(() => ForwardRequest.decode(payload))
    if (envelope) await accept(envelope, tasks, context)
    return Empty.encode({}).finish()
  }
  return new Map([['containerd.services.events.ttrpc.v1.Events/Forward', forward]])
}

async function accept(envelope: Envelope, tasks: Tasks, context: RuntimeContext): Promise<void> {
  const { namespace, topic, event } = envelope
  context.log.trace({ namespace, topic }, 'a shim tells an event')
  if (topic === '/tasks/exit' && event) await acceptExit(namespace, event.value, tasks, context)
  if (topic === '/tasks/oom' && event) await acceptOutOfMemory(envelope, event.value, tasks, context)
}

async function acceptExit(namespace: string, value: Uint8Array, tasks: Tasks, context: RuntimeContext): Promise<void> {
  const { containerId, id, pid, exitStatus, exitedAt } = decode(() => TaskExit.decode(value))
  const task = tasks.find({ namespace, id: containerId })
  if (!task || !exitedAt) {
    context.log.debug({ namespace, id: containerId, execId: id }, 'an exit came for a task that is deleted already')
    return
  }
  await task.exits.hear(id === containerId ? '' : id, { pid, status: exitStatus, at: exitedAt })
}

async function acceptOutOfMemory(
  { namespace, topic, event, timestamp }: Envelope,
  value: Uint8Array,
  tasks: Tasks,
  context: RuntimeContext,
): Promise<void> {
  const { containerId } = decode(() => TaskOOM.decode(value))
  if (!event || !timestamp || !tasks.find({ namespace, id: containerId })) return
  // When it is sent again it bears the same time, and so the same id.
  await context.emit({ id: `oom/${namespace}/${containerId}/${printTime(timestamp)}`, namespace, topic, event })
}

function decode<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw invalidArgument(`the event cannot be decoded (${error instanceof Error ? error.message : error})`)
  }
}
