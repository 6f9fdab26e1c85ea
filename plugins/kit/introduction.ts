// What a plugin process leaves behind for a supervisor that finds it without having started it.
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { identify, type ProcessIdentity } from './identity.js'

export interface Introduction {
  process: ProcessIdentity
  /** The script and its command line. */
  command: string[]
}

/** A crash leaves it: whoever reads it looks whether the process is still there. */
export function introduce(file: string): void {
  const own = identify(process.pid)
  if (!own) return // without proc(5) there is nobody to be found
  const introduction: Introduction = { process: own, command: process.argv.slice(1) }
  const draft = `${file}~${process.pid}`
  writeFileSync(draft, JSON.stringify(introduction), { mode: 0o600 })
  renameSync(draft, file)
}

/** An orderly end: nobody has to be started in our place. */
export function withdraw(file: string): void {
  if (readIntroduction(file)?.process.pid === process.pid) rmSync(file, { force: true })
}

/** Undefined when there is none that can be read. */
export function readIntroduction(file: string): Introduction | undefined {
  try {
    const { process, command } = JSON.parse(readFileSync(file, 'utf8'))
    const { pid, startTime, bootId } = process
    if (typeof pid !== 'number' || typeof startTime !== 'string' || typeof bootId !== 'string') return undefined
    if (!Array.isArray(command)) return undefined
    return { process: { pid, startTime, bootId }, command: command.map(String) }
  } catch {
    return undefined
  }
}
