// Processes of this machine, named so that a reused pid is never mistaken for the one that was meant.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
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

/** Answers whether it was gone in time. It is polled, since it is nobody's child here. */
export async function waitGone(identity: ProcessIdentity, deadlineMs: number): Promise<boolean> {
  const expiry = performance.now() + deadlineMs
  for (let intervalMs = 1; isAlive(identity); intervalMs = Math.min(intervalMs * 2, 50)) {
    if (performance.now() > expiry) return false
    await pause(intervalMs)
  }
  return true
}

/** Every process that this says true of, ours excepted. Reads the whole process table: for clean-ups only. */
export function findProcesses(matches: (environment: string[], command: string[]) => boolean): ProcessIdentity[] {
  return readdirSync('/proc').flatMap(name => {
    const pid = Number(name)
    const identity = Number.isInteger(pid) && pid !== process.pid ? identify(pid) : undefined
    const words = (file: string) => readText(`/proc/${pid}/${file}`).split('\0')
    return identity && matches(words('environ'), words('cmdline')) ? [identity] : []
  })
}

/** A variable of its environment, as it was when it started. */
export function variableOf(pid: number, name: string): string | undefined {
  const entries = readText(`/proc/${pid}/environ`).split('\0')
  return entries.find(entry => entry.startsWith(`${name}=`))?.slice(name.length + 1)
}

/** Where these processes listen: paths of unix sockets, which a killed process leaves behind. */
export function socketsOf(processes: ProcessIdentity[]): string[] {
  const held = new Set(processes.flatMap(({ pid }) => descriptorsOf(pid)))
  const listening = '00010000' // __SO_ACCEPTCON among the flags of /proc/net/unix
  return readText('/proc/net/unix')
    .split('\n')
    .map(line => line.split(/\s+/))
    .flatMap(([, , , flags, , , inode, path]) =>
      flags === listening && path?.startsWith('/') && held.has(`socket:[${inode}]`) ? [path] : [],
    )
}

function descriptorsOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map(fd => readlinkSync(`/proc/${pid}/fd/${fd}`))
  } catch {
    return [] // it has gone meanwhile
  }
}

/** These and all that they have started, as far as it still has its parents. */
export function withDescendants(roots: ProcessIdentity[]): ProcessIdentity[] {
  const byParent = new Map<number, ProcessIdentity[]>()
  for (const name of readdirSync('/proc')) {
    const entry = /^\d+$/.test(name) ? readStat(Number(name)) : undefined
    if (entry) byParent.set(entry.parent, [...(byParent.get(entry.parent) ?? []), entry.identity])
  }
  const found = [...roots]
  for (const { pid } of found) found.push(...(byParent.get(pid) ?? [])) // also walks what it appends
  return found
}

function readStat(pid: number): { identity: ProcessIdentity; parent: number } | undefined {
  const stat = readText(`/proc/${pid}/stat`)
  // The name stands in parentheses and may itself hold spaces and parentheses: count from the last one.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const startTime = fields[19]
  if (startTime === undefined || fields[0] === 'Z' || fields[0] === 'X') return undefined
  return { identity: { pid, startTime, bootId }, parent: Number(fields[1]) }
}

/** '' when there is nothing to read (any more). */
function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
