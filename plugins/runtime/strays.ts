// What a shim leaves running when it dies: the OCI runtime's commands and whatever those have started.
// Containers are not meant here; the shim's `delete` ends those.
import { randomUUID } from 'node:crypto'
import { rmSync } from 'node:fs'
import { type ProcessIdentity, signalProcess, waitGone } from '../kit/identity.js'
import { findProcesses, socketsOf, variableOf, withDescendants } from './process.js'

/** In the environment of one shim and of what it runs on the host, but not of its containers' processes. */
const variable = 'PURSER_SHIM'

/** For the environment of a shim that is to be started. */
export const newMark = (): string => randomUUID()
export const markVariable = (mark: string): Record<string, string> => ({ [variable]: mark })

/** The mark of a running shim; '' when it has none. */
export const markOf = (pid: number): string => variableOf(pid, variable) ?? ''

/** Ends everything that bears the mark, the shim itself included. */
export async function endMarked(mark: string, deadlineMs: number): Promise<void> {
  if (mark !== '')
    await end(
      findProcesses(environment => environment.includes(`${variable}=${mark}`)),
      deadlineMs,
    )
}

/** Ends the commands of this shim that were given exactly this argument, and nothing else of it. */
export async function endCommands(mark: string, argument: string, deadlineMs: number): Promise<void> {
  if (mark === '') return
  const isIt = (environment: string[], command: string[]) =>
    environment.includes(`${variable}=${mark}`) && command.includes(argument)
  await end(findProcesses(isIt), deadlineMs)
}

async function end(roots: ProcessIdentity[], deadlineMs: number): Promise<void> {
  if (roots.length === 0) return
  const processes = withDescendants(roots) // a wrapper's or hook's children too
  const sockets = socketsOf(processes)
  for (const identity of processes) signalProcess(identity, 'SIGKILL')
  await Promise.all(processes.map(identity => waitGone(identity, deadlineMs)))
  for (const socket of sockets) rmSync(socket, { force: true })
}
