// A child process that dies with the supervisor, and the leftovers of one that did not.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'

const killAfterMs = 5_000

/**
 * Starts a program that gets SIGTERM when this process dies, however it dies.
 * Source: prctl(2), PR_SET_PDEATHSIG, by way of setpriv of util-linux, which becomes the program.
 */
export function spawnBound(program: string, args: string[]): ChildProcess {
  const child = spawn('setpriv', ['--pdeathsig', 'TERM', '--', program, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  // Whoever waits for the end of the child hears of it; this keeps it from ending the supervisor.
  child.on('error', () => undefined)
  return child
}

/** Ends a child of ours: SIGTERM, then SIGKILL. Resolves when it is gone. */
export async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return
  const gone = once(child, 'exit')
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), killAfterMs)
  await gone.finally(() => clearTimeout(timer))
}

/** A process that may be no child of ours. `startTime` tells it from a later one with the same pid. */
interface Leftover {
  pid: number
  startTime: string
}

/**
 * Ends the processes whose command line holds `args` in this order, side by side. Answers the pids that it ended;
 * throws when one of them will not go.
 */
export async function endLeftovers(program: string, args: string[], signal: AbortSignal): Promise<number[]> {
  const leftovers = await find(program, args)
  for (const leftover of leftovers) {
    kill(leftover.pid, 'SIGTERM')
    if (await gone(leftover, killAfterMs, signal)) continue
    if (await isAlive(leftover)) kill(leftover.pid, 'SIGKILL')
    if (await gone(leftover, killAfterMs, signal)) continue
    throw new Error(`an old ${program}, pid ${leftover.pid}, does not end`)
  }
  return leftovers.map(leftover => leftover.pid)
}

async function find(program: string, args: string[]): Promise<Leftover[]> {
  const wanted = `\0${args.join('\0')}\0`
  const leftovers: Leftover[] = []
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue
    const command = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '')
    const [executable] = command.split('\0', 1)
    if (!executable || !(executable === program || executable.endsWith(`/${program}`))) continue
    const startTime = await readStartTime(Number(name))
    if (startTime !== undefined && command.includes(wanted)) leftovers.push({ pid: Number(name), startTime })
  }
  return leftovers
}

async function gone(leftover: Leftover, waitMs: number, signal: AbortSignal): Promise<boolean> {
  for (let waited = 0; waited < waitMs; waited += 20) {
    if (!(await isAlive(leftover))) return true
    await sleep(20, undefined, { signal })
  }
  return false
}

const isAlive = async ({ pid, startTime }: Leftover): Promise<boolean> => (await readStartTime(pid)) === startTime

/** In clock ticks since boot; undefined when there is no such process, or only its zombie. */
async function readStartTime(pid: number): Promise<string | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
  // The name, in brackets, may hold anything; the fields count from behind it. Source: proc(5).
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return fields[0] === 'Z' ? undefined : fields[19]
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    // Gone since it was found.
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error
  }
}
