// The processes of a supervisor, by the parts that they are, with their memory and processor time.
import { readFileSync } from 'node:fs'
import type { Host } from '../harness/host.js'
import { memoryOf, type ProcessEntry, processes, processesOf } from '../harness/process.js'

export interface Daemon {
  /** "purserd", "plugin host", "nats-server", "containerd" */
  part: string
  pid: number
}

export interface Memory {
  rssKiB: number
  pssKiB: number
}

/** Milliseconds of processor time since it began: its own, and of its children that have ended. */
export interface Processor {
  own: number
  children: number
}

/** The supervisor and the processes below it. Shims are none: they have left their parent. */
export function daemonsOf(host: Host): Daemon[] {
  const all = processes()
  const below = (parent: number): ProcessEntry[] =>
    all.filter(entry => entry.parent === parent).flatMap(entry => [entry, ...below(entry.pid)])
  return [
    { part: host.kind, pid: host.pid },
    ...below(host.pid).map(entry => ({ part: partOf(entry), pid: entry.pid })),
  ]
}

export function shimsOf(host: Host): ProcessEntry[] {
  return processesOf(host.directory).filter(({ command: [program = ''] }) => program.includes('containerd-shim'))
}

export function memoryByPart(host: Host): Record<string, Memory> {
  const parts: Record<string, Memory> = {}
  for (const { part, pid } of daemonsOf(host)) parts[part] = add(parts[part], memoryOf(pid))
  return parts
}

export function add(a: Memory = { rssKiB: 0, pssKiB: 0 }, b: Memory): Memory {
  return { rssKiB: a.rssKiB + b.rssKiB, pssKiB: a.pssKiB + b.pssKiB }
}

export function processorByPart(host: Host): Record<string, Processor> {
  const parts: Record<string, Processor> = {}
  for (const { part, pid } of daemonsOf(host)) {
    const { own, children } = processorOf(pid)
    const before = parts[part] ?? { own: 0, children: 0 }
    parts[part] = { own: before.own + own, children: before.children + children }
  }
  return parts
}

function partOf({ command }: ProcessEntry): string {
  const words = command.join(' ')
  if (words.includes('plugin-host')) return 'plugin host'
  if (words.includes('nats-server')) return 'nats-server'
  return command[0]?.split('/').at(-1) ?? 'unknown'
}

/** proc(5), /proc/PID/stat: fields 14 to 17, in ticks of 10 ms (USER_HZ, fixed by Linux' interface to programs). */
function processorOf(pid: number): Processor {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const ms = (field: number) => Number(fields[field - 3]) * 10
  return { own: ms(14) + ms(15), children: ms(16) + ms(17) }
}
