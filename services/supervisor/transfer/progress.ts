// How far a transfer has come, told on a stream; a client that reads slowly hears the newest of each piece of work.
import { Progress } from '../../../proto/gen/containerd/types/transfer/progress.js'
import { packed } from './bytes.js'
import type { Descriptor } from './oci.js'
import type { Stream } from './streams.js'

export interface Step {
  event: string
  name?: string
  parents?: string[]
  progress?: number
  total?: number
  descriptor?: Descriptor
}

export type Tell = (step: Step) => void

export interface Telling {
  tell: Tell
  /** Resolves when the client has heard all, or has left. Ends the stream. */
  close(): Promise<void>
}

export function tellOn(stream: Stream | undefined): Telling {
  if (!stream) return { tell: () => {}, close: async () => {} }
  const waiting = new Map<string, Step>()
  let sending: Promise<void> | undefined
  const send = async () => {
    for (const [key, step] of waiting) {
      waiting.delete(key)
      await stream.send(packed('Progress', encode(step)))
    }
  }
  return {
    tell(step) {
      const key = step.name ? `${step.name}` : `${step.event}`
      waiting.delete(key)
      waiting.set(key, step)
      sending ??= send()
        .catch(() => waiting.clear()) // who does not want to hear of it may still want the image
        .finally(() => {
          sending = undefined
        })
    },
    async close() {
      while (sending) await sending
      stream.close()
    },
  }
}

const encode = ({ event, name = '', parents = [], progress = 0, total = 0, descriptor }: Step) =>
  Progress.encode({
    event,
    name,
    parents,
    progress: BigInt(progress),
    total: BigInt(total),
    desc: descriptor && { ...descriptor, size: BigInt(descriptor.size) },
  }).finish()
