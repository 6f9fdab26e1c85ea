// A successor as a process: started with the listening sockets, spoken to, and put an end to when it fails.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { Code, StatusError } from '../../../plugins/kit/errors.js'
import type { Descriptors } from '../supervisor.js'
import {
  type FromIncumbent,
  type FromSuccessor,
  type Invitation,
  invitationVariable,
  isFromSuccessor,
  type Places,
} from './messages.js'

type Said<Is> = Extract<FromSuccessor, { is: Is }>

export class SuccessorProcess {
  private readonly said: FromSuccessor[] = []
  private over: string | undefined
  private changed = (): void => {}

  private constructor(private readonly child: ChildProcess) {
    const change = () => this.changed()
    child.on('message', message => {
      if (isFromSuccessor(message)) this.said.push(message)
      change()
    })
    child.once('error', error => {
      this.over ??= `it cannot be started: ${error.message}`
      change()
    })
    child.once('exit', (code, signal) => {
      this.over ??= signal ? `it was killed by ${signal}` : `it ended with status ${code}`
      // What it said last may still be on its way.
      setImmediate(change)
    })
  }

  /** With our own arguments; its log goes where ours goes. */
  static start(program: string, places: Places, { api, metrics }: Descriptors): SuccessorProcess {
    const invitation: Invitation = { places, descriptors: { api: 4, metrics: metrics === undefined ? null : 5 } }
    const [command, ...args] = commandLine(program)
    return new SuccessorProcess(
      spawn(command, args, {
        stdio: ['ignore', 'inherit', 'inherit', 'ipc', api, ...(metrics === undefined ? [] : [metrics])],
        env: { ...process.env, [invitationVariable]: JSON.stringify(invitation) },
      }),
    )
  }

  get pid(): number {
    return this.child.pid ?? 0
  }

  say(message: FromIncumbent): void {
    this.child.send(message, () => {}) // when it is gone, `hear` tells
  }

  /** Throws FAILED_PRECONDITION when it refuses, ends, or says nothing for too long. */
  async hear<Is extends FromSuccessor['is']>(wanted: Is, withinMs: number): Promise<Said<Is>> {
    const deadline = performance.now() + withinMs
    for (;;) {
      const refusal = this.said.find(message => message.is === 'refused')
      if (refusal) throw notTakenOver(refusal.reason)
      const found = this.said.find((message): message is Said<Is> => message.is === wanted)
      if (found) return found
      if (this.over !== undefined) throw notTakenOver(`${this.over} before it was ${wanted}`)
      const left = deadline - performance.now()
      if (left <= 0) throw notTakenOver(`it was not ${wanted} within ${withinMs / 1000} s`)
      await this.change(left)
    }
  }

  /** Resolves when it is gone. */
  async end(): Promise<void> {
    if (this.child.pid === undefined || this.child.exitCode !== null || this.child.signalCode !== null) return
    const gone = once(this.child, 'exit')
    this.child.kill('SIGKILL')
    await gone
  }

  /** It is on its own now, and must not keep us. */
  release(): void {
    this.child.unref()
  }

  private change(withinMs: number): Promise<void> {
    return new Promise(resolve => {
      const timer = setTimeout(() => this.changed(), withinMs)
      this.changed = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }
}

/** A script is run by our node with our flags, anything else by itself. */
function commandLine(program: string): [string, ...string[]] {
  const own = process.argv[1] ?? ''
  const path = program === '' ? own : program
  const args = process.argv.slice(2)
  return /\.[cm]?js$/.test(path) ? [process.execPath, ...process.execArgv, path, ...args] : [path, ...args]
}

export const notTakenOver = (why: string) =>
  new StatusError(Code.FAILED_PRECONDITION, `the new version does not take over: ${why}: the old one goes on`)
