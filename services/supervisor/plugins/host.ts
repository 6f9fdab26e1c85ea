// The bundled plugins' process: loads while the supervisor opens, begins when the registry serves, is started again when
// it dies, and is gone when the supervisor is.
import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import type { Logger } from 'pino'
import { failpoint } from '../../../plugins/kit/failpoint.js'

export interface PluginHostOptions {
  /** The script to run with our own node. */
  script: string
  /** Its command line, see plugins/kit/main.ts; `--with-parent` is added. */
  args: readonly string[]
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

/** Every plugin in it was replaced by another process, or asked to leave; see plugins/kit/main.ts. */
const exitReplaced = 3
const firstDelayMs = 100
const lastDelayMs = 5000
/** After so long without a crash, the next one is met with the shortest delay again. */
const healthyMs = 30_000
/** Four slow syncs must not keep reads and decompression waiting; node's default is four. */
const hostThreads = 8
/** Holds resident memory down under load at the same throughput (measured: 80 instead of 112 MB). */
const nodeFlags = ['--max-semi-space-size=1']

/** Node and the plugins' code are loaded at once; nothing is opened or touched before `begin`. */
export function startPluginHost(options: PluginHostOptions): PluginHost {
  return new Supervised(options)
}

class Supervised implements PluginHost {
  state: PluginHostState = 'waiting'
  restarts = 0
  readonly #options: PluginHostOptions
  #child: ChildProcess | undefined
  #delayMs = firstDelayMs
  #timer: NodeJS.Timeout | undefined
  #begun = false
  #ended: () => void = () => {}
  readonly #end = new Promise<void>(resolve => {
    this.#ended = resolve
  })

  constructor(options: PluginHostOptions) {
    this.#options = options
    this.#start()
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  begin(): void {
    this.#begun = true
    this.#child?.stdin?.write('\n')
  }

  async stop(graceMs = 10_000): Promise<void> {
    if (this.state === 'waiting') this.#stopped()
    if (this.state === 'running') {
      this.state = 'stopping'
      this.#child?.kill('SIGTERM')
      this.#timer = setTimeout(() => {
        this.#options.log.warn({ pid: this.pid }, 'the plugin host did not stop in time: killed')
        this.#child?.kill('SIGKILL')
      }, graceMs)
    }
    await this.#end
  }

  #start(): void {
    const { script, args, log, env } = this.#options
    const startedMs = Date.now()
    // One line on its standard input lets it begin. The pipe closes when we die, however we die, and ends it.
    const child = spawn(process.execPath, [...nodeFlags, script, ...args, '--with-parent'], {
      stdio: ['pipe', 'ignore', 'pipe'],
      env: { ...(env ?? process.env), UV_THREADPOOL_SIZE: String(hostThreads) },
    })
    failpoint('host.started')
    this.#child = child
    this.state = 'running'
    child.stdin.on('error', () => {}) // it exited before us
    if (this.#begun) this.begin()
    forwardLog(child.stderr, log)
    let failure: string | undefined
    child.once('error', error => {
      failure = error.message
    })
    child.once('close', (code, signal) => {
      this.#child = undefined
      const outcome = failure ?? (signal ? `killed by ${signal}` : `exit code ${code}`)
      if (this.state === 'stopping' || code === exitReplaced) {
        log.info({ outcome }, 'the plugin host ended')
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
    log.info({ pid: child.pid, script }, 'the plugin host starts')
  }

  #stopped(): void {
    clearTimeout(this.#timer)
    this.state = 'stopped'
    this.#ended()
  }
}

/** Lines of pino's JSON keep their level and fields; anything else (a crash of node) is logged as text. */
function forwardLog(stderr: Readable, log: Logger): void {
  const lines = createInterface({ input: stderr })
  lines.on('line', line => {
    const { level, msg, time: _, pid, ...fields } = parse(line)
    const write = levelOf(level)
    log[write]({ ...fields, hostPid: pid }, String(msg))
  })
}

type Line = Record<string, unknown>

function parse(line: string): Line {
  try {
    const parsed: unknown = JSON.parse(line)
    if (isObject(parsed)) return parsed
  } catch {
    // not JSON: a plain line, below
  }
  return { level: 50, msg: line }
}

const isObject = (value: unknown): value is Line => typeof value === 'object' && value !== null && !Array.isArray(value)

/** pino's numbers. */
function levelOf(level: unknown): 'debug' | 'info' | 'warn' | 'error' {
  if (typeof level !== 'number') return 'info'
  if (level >= 50) return 'error'
  if (level >= 40) return 'warn'
  return level >= 30 ? 'info' : 'debug'
}
