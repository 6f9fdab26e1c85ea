// How a process or a sandbox ended, as containerd's messages say it, and waiting for that.
import type { CallContext } from '../../../plugins/kit/serve.js'
import type { DomainEvent } from '../domain/decision.js'
import { parseTimestamp } from '../domain/time.js'
import type { Exit } from '../domain/values.js'
import type { Store } from '../state/store.js'

export function exitToProto(exit: Exit | null) {
  const at = exit ? parseTimestamp(exit.at) : undefined
  // Go's zero time is what clients take for "has not ended".
  const zero = { seconds: -62_135_596_800n, nanos: 0 }
  return { exitStatus: exit?.status ?? 0, exitedAt: at ?? zero }
}

/** Waits on the fold, not on the shim: an exit counts once it is durable. */
export function nextExit(store: Store, stream: string, context: CallContext): Promise<Exit> {
  return new Promise((resolve, reject) => {
    const unsubscribe = store.subscribeStream(stream, ({ event }) => {
      const exit = exitOf(event)
      if (!exit) return
      finish()
      resolve(exit)
    })
    const cancelled = () => {
      finish()
      reject(context.signal.reason)
    }
    const finish = () => {
      unsubscribe()
      context.signal.removeEventListener('abort', cancelled)
    }
    if (context.signal.aborted) cancelled()
    else context.signal.addEventListener('abort', cancelled)
  })
}

export const exitOf = (event: DomainEvent) => ('exit' in event ? event.exit : undefined)
