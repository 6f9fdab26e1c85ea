// Searches the processes of this machine: for those that a shim has left, and for what they hold.
import { readdirSync, readlinkSync } from 'node:fs'
import { identify, type ProcessIdentity, readStat, readText } from '../kit/identity.js'

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
