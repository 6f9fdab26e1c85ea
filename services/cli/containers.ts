// Containers with their tasks, as they are or were: asked of the supervisor, as rows and as objects.
import {
  type Bookmark,
  type Container,
  EventsClient,
  type Process,
  StateRequest,
} from '../../proto/gen/purser/events/v1/events.js'
import { listen, type Target, withClient } from './client.js'
import { printJson, printTable } from './print.js'
import { between, formatTime, type Moment, nowTimestamp } from './times.js'

/** A state of long ago is folded anew from as many records as lie behind it. */
const patienceMs = 120_000

export interface ListOptions {
  /** Of all namespaces. */
  all?: true
  json?: true
}

/** What there is now, or was at a moment. */
export async function listContainers(target: Target, { all, json }: ListOptions, at?: Moment): Promise<void> {
  const request = StateRequest.fromPartial({ namespaces: all ? [] : [target.namespace] })
  request.at = at
  const { containers, bookmark } = await ask(target, request)
  if (json) return containers.forEach(container => void printJson(objectOf(container)))
  // Ages are told as of then.
  const then = at ? bookmark?.time : nowTimestamp()
  const head = ['CONTAINER', 'IMAGE', 'TASK', 'PID', 'EXIT', 'CREATED']
  const rows = containers.map(container => {
    const age = between(container.createdAt, then)
    const row = [container.id, container.image, ...described(container.task), age === '-' ? age : `${age} ago`]
    return all ? [container.namespace, ...row] : row
  })
  if (at)
    console.error(`as of sequence ${bookmark?.sequence}${bookmark?.time ? `, ${formatTime(bookmark.time, 3)}` : ''}`)
  printTable([all ? ['NAMESPACE', ...head] : head, ...rows])
}

function ask(target: Target, request: StateRequest) {
  return withClient(EventsClient, target, async client => {
    const containers: Container[] = []
    let bookmark: Bookmark | undefined
    for await (const { message } of listen(target, client.state.bind(client), request, { withinMs: patienceMs })) {
      if (message?.$case === 'container') containers.push(message.value)
      if (message?.$case === 'bookmark') bookmark = message.value
    }
    return { containers, bookmark }
  })
}

function described(task: Process | undefined): string[] {
  if (!task) return ['-', '-', '-']
  const { state, pid, exitStatus, exitedAt, outOfMemory } = task
  const exit = exitedAt ? `${exitStatus}${outOfMemory ? ' (out of memory)' : ''}` : '-'
  return [state, pid === 0 ? '-' : String(pid), exit]
}

function objectOf({ createdAt, updatedAt, task, execs, ...about }: Container): object {
  const times = { createdAt: formatTime(createdAt), updatedAt: formatTime(updatedAt) }
  return { ...about, ...times, task: task ? processObject(task) : null, execs: execs.map(processObject) }
}

function processObject({ id, state, pid, exitStatus, exitedAt, outOfMemory }: Process): object {
  const ended = exitedAt ? { exitStatus, exitedAt: formatTime(exitedAt) } : {}
  return { id, state, pid, ...ended, outOfMemory }
}
