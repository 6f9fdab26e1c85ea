// How the tests repair: a fixed time, small segments, and a lost record that says which one it was.
import type { Disk } from '../../../services/supervisor/journal/disk.js'
import type { RepairOptions } from '../../../services/supervisor/journal/offline/repair.js'
import { encodeFact } from '../../../services/supervisor/state/codec.js'
import { versions } from '../../../services/supervisor/state/upcast.js'

export const writtenBy = { program: 'purserd test', events: versions }

export function repairing(dir: string, disk: Disk): RepairOptions {
  const lost = (sequence: bigint) =>
    encodeFact({ namespace: '', stream: 'loss', event: { type: 'RecordLost', reason: `${sequence}` }, ends: true })
  return { disk, dir, writtenBy, lost, node: 'n', timeUnixNano: 1_790_000_000_000_000_000n, segmentBytes: 8192 }
}
