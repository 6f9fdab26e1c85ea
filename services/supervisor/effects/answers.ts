// From a plugin's answer to the next fact, also when there is none: what nobody knows is not recorded as a failure.
import { Code, toStatusError } from '../../../plugins/kit/errors.js'
import { execMachine } from '../domain/exec/machine.js'
import { execStream, networkStream, taskStream } from '../domain/streams.js'
import { taskMachine } from '../domain/task/machine.js'
import type { NamespaceState } from '../state/namespaceState.js'
import type { Store } from '../state/store.js'
import { messageOf } from './supervisor.js'

/** Has the plugin of a kind asked, soon, for what is true of everything that is still open. */
export type AskAgain = (kind: 'runtime' | 'network' | 'snapshotter' | 'content') => void

/** The plugin's process, not what it was asked to do, failed: nobody knows what was done. */
export function isInDoubt(error: unknown): boolean {
  return [Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED].includes(toStatusError(error).code)
}

interface Steps<Answer> {
  call(): Promise<Answer>
  /** Record what the plugin answered. */
  succeeded(answer: Answer): Promise<void>
  failed(reason: string): Promise<void>
  /** Undo whatever may have been done, should the answer be lost: then it has failed for sure. */
  takeBack?(): Promise<unknown>
}

/**
 * Calls a plugin for an intent and records the answer; rejects with the failure. When the answer is lost, or cannot be
 * recorded, the intent stays open: it is closed with what recovery finds to be true.
 */
export async function settle<Answer>(inDoubt: () => void, steps: Steps<Answer>): Promise<void> {
  let answer: Answer
  try {
    answer = await steps.call()
  } catch (error) {
    const doubtful = isInDoubt(error)
    if (!doubtful || (await takenBack(steps))) await recorded(inDoubt, steps.failed(messageOf(error)))
    // A plugin that was only slow may yet do what was taken back before.
    if (doubtful) inDoubt()
    throw error
  }
  await recorded(inDoubt, steps.succeeded(answer))
}

/** For an answer that recovery has to find: it takes 20 s for a task that is silent. */
const patienceMs = 30_000

/** Resolves when `open`, which names the stream of an intent, names none any more; or when it took too long. */
export async function answered(
  store: Store,
  open: () => string | undefined,
  { signal, withinMs = patienceMs }: { signal?: AbortSignal; withinMs?: number } = {},
): Promise<void> {
  const end = performance.now() + withinMs
  for (let stream = open(); stream !== undefined; stream = open()) {
    if (!(await store.next(stream, end - performance.now(), signal))) return
  }
}

/** The stream of what is asked for and not answered. A task is born into its network, and leaves it at its end. */
export function openIntent(here: NamespaceState, namespace: string, id: string, execId: string): string | undefined {
  if (execId !== '')
    return execMachine.awaitsAnswer(here.exec(id, execId).state) ? execStream(namespace, id, execId) : undefined
  if (taskMachine.awaitsAnswer(here.task(id).state)) return taskStream(namespace, id)
  const isUnderWay = ['attaching', 'detaching'].includes(here.network(id).state)
  return isUnderWay ? networkStream(namespace, id) : undefined
}

async function takenBack({ takeBack }: Pick<Steps<unknown>, 'takeBack'>): Promise<boolean> {
  if (!takeBack) return false
  try {
    await takeBack()
    return true
  } catch {
    return false // recovery will do it
  }
}

async function recorded(inDoubt: () => void, recording: Promise<void>): Promise<void> {
  try {
    await recording
  } catch (error) {
    inDoubt()
    throw error
  }
}
