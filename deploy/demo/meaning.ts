// What an event means, in a few words. An event without an entry is counted, not shown.
import type { FeedEvent } from './feed.js'

const meanings: Record<string, (data: Record<string, unknown>) => string> = {
  '/images/create': () => 'the image is complete',
  '/snapshot/commit': () => 'a layer of it is unpacked',
  '/containers/create': () => 'the container is described, nothing runs yet',
  '/containers/delete': () => 'the container is forgotten',
  '/purser/networks/attached': ({ network, addresses }) => `has ${text(addresses)} in the network "${text(network)}"`,
  '/purser/networks/detached': () => 'its address is free again',
  '/tasks/create': () => 'a shim and runc have made the container',
  '/tasks/start': ({ pid }) => `its program runs as process ${text(pid)}`,
  '/tasks/exec-started': ({ pid }) => `a second program runs in it as process ${text(pid)}`,
  '/tasks/exit': ({ exitStatus, pid }) => `process ${text(pid)} ended with status ${text(exitStatus ?? 0)}`,
  '/tasks/delete': () => 'the shim is gone',
}

/** undefined: nothing that a first look needs. */
export function meaningOf({ topic, data }: FeedEvent): string | undefined {
  return meanings[topic]?.(data)
}

const text = (value: unknown) => (Array.isArray(value) ? value.join(', ') : String(value))
