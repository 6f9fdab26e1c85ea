// How a process ended, as containerd's messages say it.
import { parseTimestamp } from '../domain/time.js'
import type { Exit } from '../domain/values.js'

export function exitToProto(exit: Exit | null) {
  const at = exit ? parseTimestamp(exit.at) : undefined
  // Go's zero time is what clients take for "has not ended".
  const zero = { seconds: -62_135_596_800n, nanos: 0 }
  return { exitStatus: exit?.status ?? 0, exitedAt: at ?? zero }
}
