// A process of this machine, named so that a reused pid is never mistaken for the one that was meant.
import { readFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'

/** A process for good: the pid alone comes round again, and after a reboot so does the start time. */
export interface ProcessIdentity {
  pid: number
  /** Clock ticks since boot (proc(5), stat field 22). */
  startTime: string
  bootId: string
}

const bootId = readText('/proc/sys/kernel/random/boot_id').trim()

/** Undefined when there is no such process, or only its zombie: PID 1 may take seconds to collect the dead. */
export function identify(pid: number): ProcessIdentity | undefined {
  return readStat(pid)?.identity
}

export function isAlive(identity: ProcessIdentity): boolean {
  const now = identify(identity.pid)
  return now?.startTime === identity.startTime && now.bootId === identity.bootId
}

/** Signals that very process; one that has gone meanwhile is fine. */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals | number): void {
  if (!isAlive(identity)) return
  try {
    process.kill(identity.pid, signal)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error
  }
}

/** Answers whether it was gone in time; rejects when aborted. It is polled, since it is nobody's child here. */
export async function waitGone(identity: ProcessIdentity, deadlineMs: number, signal?: AbortSignal): Promise<boolean> {
  const expiry = performance.now() + deadlineMs
  for (let intervalMs = 1; isAlive(identity); intervalMs = Math.min(intervalMs * 2, 50)) {
    if (performance.now() > expiry) return false
    await pause(intervalMs, undefined, { signal })
  }
  return true
}

/** Undefined when there is no such process, or only its zombie. */
export function readStat(pid: number): { identity: ProcessIdentity; parent: number } | undefined {
  const stat = readText(`/proc/${pid}/stat`)
  // The name stands in parentheses and may itself hold spaces and parentheses: count from the last one.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const startTime = fields[19]
  if (startTime === undefined || fields[0] === 'Z' || fields[0] === 'X') return undefined
  return { identity: { pid, startTime, bootId }, parent: Number(fields[1]) }
}

/** '' when there is nothing to read (any more). */
export function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
