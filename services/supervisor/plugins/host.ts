// The bundled plugins' process: loads while the supervisor opens, begins when the registry serves, and is started again
// when it dies. It outlives a supervisor that crashes, for a while: the next one finds it with all its connections to
// shims, and takes it up.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import { isAlive, type ProcessIdentity, signalProcess, waitGone } from '../../../plugins/kit/identity.js'
import { readIntroduction } from '../../../plugins/kit/introduction.js'

export interface PluginHostOptions {
  /** The script to run with our own node. */
  script: string
  /** Its command line, see plugins/kit/main.ts; `--with-parent` and what `survival` says are added. */
  args: readonly string[]
  /** Absent: it ends with us, however we end. */
  survival?: {
    /** Where it says who it is. */
    identityFile: string
    /** How long it waits for our successor. */
    seconds: number
    /** False when the one that may be found there still has its supervisor: then it is left alone. */
    takeUp: boolean
  }
  log: Logger
  env?: NodeJS.ProcessEnv
}

export type PluginHostState = 'running' | 'waiting' | 'stopping' | 'stopped'

export interface PluginHost {
  readonly state: PluginHostState
  readonly pid: number | undefined
  /** How often it was started again. */
  readonly restarts: number
  /** The registry serves: the plugins may open and register, in this process and in those that follow it. */
  begin(): void
  /** Its plugins finish their calls and leave; after `graceMs` the process is killed. */
  stop(graceMs?: number): Promise<void>
}

/** A process that hosts the plugins. */
interface HostProcess {
  readonly pid: number | undefined
  begin(): void
  kill(signal: NodeJS.Signals): void
  /** How it ended; undefined for a way that asks for no other to be started. */
  readonly ended: Promise<string | undefined>
}

/** Every plugin in it was replaced by another process, or asked to leave; see plugins/kit/main.ts. */
const exitReplaced = 3
const firstDelayMs = 100
const lastDelayMs = 5000
/** After so long without a crash, the next one is met with the shortest delay again. */
const healthyMs = 30_000
/** Four slow syncs must not keep reads and decompression waiting; node's default is four. */
const hostThreads = 8
/** One that was found is nobody's child here: it is looked at that often. */
const lookMs = 250
const soonMs = 10
/** One that cannot be taken up has so long to leave before it is killed. */
const leaveMs = 2000

/** Node and the plugins' code are loaded at once; nothing is opened or touched before `begin`. */
export function startPluginHost(options: PluginHostOptions): PluginHost {
  return new Supervised(options)
}

class Supervised implements PluginHost {
  state: PluginHostState = 'waiting'
  restarts = 0
  readonly #options: PluginHostOptions
  #process: HostProcess | undefined
  #delayMs = firstDelayMs
  #timer: NodeJS.Timeout | undefined
  #begun = false
  /** Settles when no other host is in the way any more. */
  #clear: Promise<void> = Promise.resolve()
  #ended: () => void = () => {}
  readonly #end = new Promise<void>(resolve => {
    this.#ended = resolve
  })

  constructor(options: PluginHostOptions) {
    this.#options = options
    const found = this.#find()
    if (found && this.#isAsWeWouldStartIt(found.command)) {
      this.#takeUp(found.process)
    } else {
      if (found) this.#clear = this.#endOther(found.process)
      this.#start()
    }
  }

  get pid(): number | undefined {
    return this.#process?.pid
  }

  begin(): void {
    this.#begun = true
    this.#beginSoon()
  }

  async stop(graceMs = 10_000): Promise<void> {
    if (this.state === 'waiting') this.#stopped()
    if (this.state === 'running') {
      this.state = 'stopping'
      this.#process?.kill('SIGTERM')
      this.#timer = setTimeout(() => {
        this.#options.log.warn({ pid: this.pid }, 'the plugin host did not stop in time: killed')
        this.#process?.kill('SIGKILL')
      }, graceMs)
    }
    await this.#end
  }

  #find() {
    const { survival } = this.#options
    const found = survival?.takeUp ? readIntroduction(survival.identityFile) : undefined
    return found && isAlive(found.process) ? found : undefined
  }

  /** The same program, and told the same: a later version, or one with other settings, has to begin anew. */
  #isAsWeWouldStartIt(command: readonly string[]): boolean {
    const ours = [this.#options.script, ...this.#args()]
    return command.length === ours.length && command.every((word, index) => word === ours[index])
  }

  #args(): string[] {
    const { args, survival } = this.#options
    const lingers = survival ? ['--linger', String(survival.seconds), '--identity', survival.identityFile] : []
    return [...args, '--with-parent', ...lingers]
  }

  #takeUp(identity: ProcessIdentity): void {
    const { log, survival } = this.#options
    log.info({ pid: identity.pid }, 'the plugin host of before is still there, and is taken up')
    this.#watch(foundProcess(identity, survival?.identityFile ?? ''))
  }

  async #endOther(identity: ProcessIdentity): Promise<void> {
    this.#options.log.info({ pid: identity.pid }, 'a plugin host of before was started in another way: it has to leave')
    signalProcess(identity, 'SIGTERM')
    if (await waitGone(identity, leaveMs)) return
    signalProcess(identity, 'SIGKILL')
    await waitGone(identity, leaveMs)
  }

  #start(): void {
    const { script, log, env } = this.#options
    const started = startProcess([script, ...this.#args()], env ?? process.env)
    failpoint('host.started')
    log.info({ pid: started.pid, script }, 'the plugin host starts')
    this.#watch(started)
  }

  #watch(host: HostProcess): void {
    const { log } = this.#options
    const startedMs = Date.now()
    this.#process = host
    this.state = 'running'
    if (this.#begun) this.#beginSoon()
    void host.ended.then(outcome => {
      this.#process = undefined
      if (this.state === 'stopping' || outcome === undefined) {
        log.info('the plugin host ended')
        return this.#stopped()
      }
      if (Date.now() - startedMs >= healthyMs) this.#delayMs = firstDelayMs
      log.error({ outcome, retryMs: this.#delayMs }, 'the plugin host died: it is started again')
      this.state = 'waiting'
      this.#timer = setTimeout(() => {
        this.restarts++
        this.#start()
      }, this.#delayMs)
      this.#delayMs = Math.min(this.#delayMs * 2, lastDelayMs)
    })
  }

  #beginSoon(): void {
    const host = this.#process
    void this.#clear.then(() => host?.begin())
  }

  #stopped(): void {
    clearTimeout(this.#timer)
    this.state = 'stopped'
    this.#ended()
  }
}

/** Its log goes where ours goes, so that it is not lost when we are. */
function startProcess(command: string[], env: NodeJS.ProcessEnv): HostProcess {
  // One line on its standard input lets it begin. The pipe closes when we die, however we die.
  const child = spawn(process.execPath, command, {
    stdio: ['pipe', 'ignore', 'inherit'],
    env: { ...env, UV_THREADPOOL_SIZE: String(hostThreads) },
  })
  child.stdin.on('error', () => {}) // it exited before us
  const failed = once(child, 'error').then(([error]) => String(error.message))
  const closed = once(child, 'close').then(([code, signal]) => {
    if (code === exitReplaced) return undefined
    return signal ? `killed by ${signal}` : `exit code ${code}`
  })
  return {
    pid: child.pid,
    begin: () => void child.stdin.write('\n'),
    kill: signal => void child.kill(signal),
    ended: Promise.race([failed, closed]),
  }
}

/** It has begun, and registers again as soon as it sees the registry's socket. */
function foundProcess(identity: ProcessIdentity, identityFile: string): HostProcess {
  let pauseMs = lookMs
  const end = async () => {
    while (isAlive(identity)) await sleep(pauseMs, undefined, { ref: false })
    // Who leaves in order withdraws what it said of itself.
    return readIntroduction(identityFile)?.process.pid === identity.pid ? 'gone' : undefined
  }
  return {
    pid: identity.pid,
    begin: () => {},
    kill(signal) {
      pauseMs = soonMs
      signalProcess(identity, signal)
    },
    ended: end(),
  }
}
