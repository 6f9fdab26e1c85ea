// The machine's process table, as far as a test has to know it: who belongs to a directory, who is dead.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { until } from './wait.js'

export interface ProcessEntry {
  pid: number
  parent: number
  /** As in /proc/PID/stat; 'Z' is dead and not yet collected by its parent. */
  state: string
  /** Clock ticks since boot: with the pid it names a process for good, since pids come round again. */
  startTime: string
  command: string[]
}

/** The process, or undefined when it is gone or a zombie: a machine's PID 1 may collect the dead seconds later. */
export function alive(pid: number): ProcessEntry | undefined {
  const entry = read(pid)
  return entry === undefined || entry.state === 'Z' || entry.state === 'X' ? undefined : entry
}

export function processes(): ProcessEntry[] {
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .map(name => alive(Number(name)))
    .filter(entry => entry !== undefined)
}

/**
 * Every process that has to do with a directory: named in its command line or environment, its working directory, or
 * (for a container's processes) mounted in its own mount namespace.
 */
export function processesOf(directory: string): ProcessEntry[] {
  const ourMounts = namespaceOf('self')
  return processes().filter(({ pid, command }) => {
    if (pid === process.pid) return false
    if (command.some(argument => argument.includes(directory))) return true
    if (readProc(pid, 'environ').includes(directory)) return true
    if (workingDirectory(pid).startsWith(directory)) return true
    const mounts = namespaceOf(String(pid))
    return mounts !== '' && mounts !== ourMounts && rootMountOf(pid).includes(directory)
  })
}

export async function gone(entry: ProcessEntry, timeoutMs = 10_000): Promise<void> {
  await until(`process ${entry.pid} (${entry.command.join(' ')}) to end`, () => !isSame(entry), { timeoutMs })
}

/** Sends the signal if this very process still lives. */
export function signal(entry: ProcessEntry, name: NodeJS.Signals): void {
  if (!isSame(entry)) return
  try {
    process.kill(entry.pid, name)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error
  }
}

/** Resident and proportional set size in KiB. */
export function memoryOf(pid: number): { rssKiB: number; pssKiB: number } {
  const rollup = readProc(pid, 'smaps_rollup')
  const field = (name: string) => Number(rollup.match(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm'))?.[1] ?? 0)
  return { rssKiB: field('Rss'), pssKiB: field('Pss') }
}

function isSame(entry: ProcessEntry): boolean {
  return alive(entry.pid)?.startTime === entry.startTime
}

function read(pid: number): ProcessEntry | undefined {
  const stat = readProc(pid, 'stat')
  // The name stands in parentheses and may itself hold spaces and parentheses: count from the last one.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const [state, parent] = fields
  const startTime = fields[19]
  if (state === undefined || parent === undefined || startTime === undefined) return undefined
  const command = readProc(pid, 'cmdline').split('\0').filter(Boolean)
  return { pid, parent: Number(parent), state, startTime, command }
}

/** '' when the process has gone meanwhile. */
function readProc(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8')
  } catch {
    return ''
  }
}

function workingDirectory(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/cwd`)
  } catch {
    return ''
  }
}

function namespaceOf(pid: string): string {
  try {
    return readlinkSync(`/proc/${pid}/ns/mnt`)
  } catch {
    return ''
  }
}

/** The line of its own root. A container that is being made still has all mounts of the host, other tests' too. */
function rootMountOf(pid: number): string {
  const lines = readProc(pid, 'mountinfo').split('\n')
  return lines.find(line => line.split(' ')[4] === '/') ?? ''
}
