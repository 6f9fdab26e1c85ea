// Directories of a test, marked with the process that they belong to, so that a later run clears what a dead one left.
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { bundlesBelow, removeByForce } from './machine.js'
import { alive } from './process.js'

const mark = '.owner'
let swept = false

/** A new directory below the system's temporary one. Whoever asks removes it; if that fails, the next run does. */
export function ownDirectory(prefix: string): string {
  if (!swept) sweep()
  const directory = mkdtempSync(join(tmpdir(), prefix))
  writeFileSync(join(directory, mark), `${process.pid} ${alive(process.pid)?.startTime}`)
  return directory
}

/** A test that was killed, by a timeout for example, leaves supervisors, containers and mounts. */
function sweep(): void {
  swept = true
  for (const name of readdirSync(tmpdir()).filter(name => name.startsWith('purser-'))) {
    const directory = join(tmpdir(), name)
    if (!isOrphan(directory)) continue
    const containers = bundlesBelow(join(directory, 'state'))
    removeByForce({ directory, address: join(directory, 'purser.sock'), containers, interfaces: [] })
  }
}

function isOrphan(directory: string): boolean {
  try {
    const [pid, startTime] = readFileSync(join(directory, mark), 'utf8').split(' ')
    return alive(Number(pid))?.startTime !== startTime
  } catch {
    return false // No mark: not ours.
  }
}
