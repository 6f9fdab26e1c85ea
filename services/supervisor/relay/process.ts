// A child process that dies with the supervisor, and the leftovers of one that did not.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readFile } from 'node:fs/promises'
import { identify, type ProcessIdentity, signalProcess, waitGone } from '../../../plugins/kit/identity.js'

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

/**
 * Ends the processes whose command line holds `args` in this order, side by side. Answers the pids that it ended;
 * throws when one of them will not go.
 */
export async function endLeftovers(program: string, args: string[], signal: AbortSignal): Promise<number[]> {
  const leftovers = await find(program, args)
  for (const leftover of leftovers) {
    signalProcess(leftover, 'SIGTERM')
    if (await waitGone(leftover, killAfterMs, signal)) continue
    signalProcess(leftover, 'SIGKILL')
    if (await waitGone(leftover, killAfterMs, signal)) continue
    throw new Error(`an old ${program}, pid ${leftover.pid}, does not end`)
  }
  return leftovers.map(leftover => leftover.pid)
}

async function find(program: string, args: string[]): Promise<ProcessIdentity[]> {
  const wanted = `\0${args.join('\0')}\0`
  const leftovers: ProcessIdentity[] = []
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue
    // In this order: of a pid that was given away meanwhile, the later identity would be another's.
    const identity = identify(Number(name))
    const command = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '')
    const [executable] = command.split('\0', 1)
    if (!executable || !(executable === program || executable.endsWith(`/${program}`))) continue
    if (identity && command.includes(wanted)) leftovers.push(identity)
  }
  return leftovers
}
