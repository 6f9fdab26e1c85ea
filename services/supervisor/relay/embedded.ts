// A private nats-server under the supervisor's care: on loopback, behind a password of its own, restarted when it dies.
import type { ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { chmod, mkdir, readdir, readFile, realpath, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ConnectionOptions } from 'nats'
import type { Logger } from 'pino'
import type { Broker, Problem } from './broker.js'
import { end, endLeftovers, spawnBound } from './process.js'

export interface EmbeddedOptions {
  /** The messages lie in `<root>/nats`. */
  root: string
  /** Configuration, port and passwords lie in `<state>/nats`, what clients need in `<state>/nats.json`. */
  state: string
  log: Logger
  program?: string
}

/** How the demo, the CLI and others may listen; they can read the stream and publish nothing. */
export interface ClientAccess {
  url: string
  user: string
  password: string
}

export interface EmbeddedBroker extends Broker {
  /** `<state>/nats.json`, mode 0600: holds ClientAccess. */
  readonly accessPath: string
  /** While the server runs. */
  pid(): number | undefined
}

const readyTimeoutMs = 15_000
const pauseMinMs = 200
const pauseMaxMs = 10_000
/** A server that ran that long has earned a quick restart. */
const steadyMs = 10_000
const payloadBytesMax = 8 << 20
const storeBytesMax = 4 * 2 ** 30

/** The server starts when it is first asked for. Never rejects: what is wrong, `problem()` tells. */
export function embeddedBroker(options: EmbeddedOptions): EmbeddedBroker {
  return new Embedded(options)
}

class Embedded implements EmbeddedBroker {
  readonly name = 'the embedded nats-server'
  readonly exclusive = true
  readonly accessPath: string
  readonly #program: string
  readonly #directory: string
  readonly #passwords = { relay: secret(), reader: secret() }
  readonly #stop = new AbortController()
  #running: Promise<void> | undefined
  #child: ChildProcess | undefined
  /** Kept over restarts, so that clients find the server again. */
  #port: number | undefined
  #waiting: (() => void)[] = []
  #problem: Problem | undefined
  #pauseMs = pauseMinMs
  #renewed: ChildProcess | undefined

  constructor(readonly options: EmbeddedOptions) {
    this.accessPath = join(options.state, 'nats.json')
    this.#program = options.program ?? 'nats-server'
    this.#directory = join(options.state, 'nats')
  }

  async endpoint(signal: AbortSignal): Promise<ConnectionOptions> {
    this.#running ??= this.#run()
    const wake = () => this.#wake()
    signal.addEventListener('abort', wake)
    try {
      while (this.#child === undefined || this.#port === undefined) {
        signal.throwIfAborted()
        await new Promise<void>(resolve => this.#waiting.push(resolve))
      }
      const servers = [`127.0.0.1:${this.#port}`]
      // Its answers go where readers cannot listen.
      return { servers, user: 'relay', pass: this.#passwords.relay, inboxPrefix: '_RELAY' }
    } finally {
      signal.removeEventListener('abort', wake)
    }
  }

  problem(): Problem | undefined {
    return this.#problem
  }

  pid(): number | undefined {
    return this.#child?.pid
  }

  /** nats-server 2.9 does not answer, or not all that is asked, once a write has failed (a full disk), whatever room there is later. */
  renew(): void {
    const child = this.#child
    if (child === undefined || child === this.#renewed) return
    this.#renewed = child
    child.kill('SIGKILL') // it does not hear SIGTERM either
  }

  async close(): Promise<void> {
    this.#stop.abort()
    await this.#running
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop
    while (!signal.aborted) {
      const startedAt = performance.now()
      const why = await this.#life(signal).catch((error: unknown) =>
        error instanceof Error ? error.message : `${error}`,
      )
      if (signal.aborted) break
      this.#report(why)
      if (performance.now() - startedAt > steadyMs) this.#pauseMs = pauseMinMs
      await sleep(this.#pauseMs, undefined, { signal }).catch(() => undefined)
      this.#pauseMs = Math.min(this.#pauseMs * 2, pauseMaxMs)
    }
  }

  /** One life of the server; answers why it ended. */
  async #life(signal: AbortSignal): Promise<string> {
    const { log } = this.options
    const store = await this.#prepare()
    const storeArgs = ['-sd', store]
    // Two servers on one store would destroy it.
    const ended = await endLeftovers(this.#program, storeArgs, signal)
    if (ended.length > 0) log.info({ pids: ended }, 'ended a nats-server that an earlier supervisor left')
    const configPath = await this.#writeConfig()
    signal.throwIfAborted()

    const child = spawnBound(this.#program, ['-js', ...storeArgs, '-c', configPath])
    const exit = once(child, 'close') // rejects when setpriv itself cannot be started
    const lastWords = this.#listen(child)
    try {
      await Promise.race([this.#becomeReady(child, signal), exit])
      if (child.exitCode === null && child.signalCode === null) {
        this.#child = child
        this.#problem = undefined
        log.info({ pid: child.pid, port: this.#port, store }, 'the embedded nats-server runs')
        this.#wake()
        await Promise.race([exit, aborted(signal)])
      }
    } finally {
      this.#child = undefined
      await end(child)
    }
    if (child === this.#renewed) return 'it served no more (is the disk below root full?)'
    const why = lastWords() || (child.signalCode ? `killed by ${child.signalCode}` : `exit code ${child.exitCode}`)
    if (why.includes('address already in use')) await this.#forgetPort()
    return why
  }

  /** Somebody else took it meanwhile. */
  async #forgetPort(): Promise<void> {
    this.#port = undefined
    await rm(this.accessPath, { force: true })
  }

  /** Makes the directories; answers the store's real path, by which a leftover is known. */
  async #prepare(): Promise<string> {
    const { root, state } = this.options
    for (const directory of [join(root, 'nats'), this.#directory]) {
      await mkdir(directory, { recursive: true, mode: 0o700 })
      await chmod(directory, 0o700)
    }
    await mkdir(state, { recursive: true })
    for (const name of await readdir(this.#directory))
      if (name.endsWith('.ports')) await rm(join(this.#directory, name), { force: true })
    return realpath(join(root, 'nats'))
  }

  async #writeConfig(): Promise<string> {
    this.#port ??= await rememberedPort(this.accessPath)
    const path = join(this.#directory, 'nats.conf')
    await writePrivately(path, configuration(this.#port ?? -1, this.#directory, this.#passwords))
    return path
  }

  /** The server tells its port in a file named by its pid. */
  async #becomeReady(child: ChildProcess, signal: AbortSignal): Promise<void> {
    const path = join(this.#directory, `nats-server_${child.pid}.ports`)
    const deadline = performance.now() + readyTimeoutMs
    while (child.pid !== undefined && child.exitCode === null && child.signalCode === null) {
      const port = parsePort(await readFile(path, 'utf8').catch(() => ''))
      if (port !== undefined) {
        this.#port = port
        const access: ClientAccess = {
          url: `nats://127.0.0.1:${port}`,
          user: 'reader',
          password: this.#passwords.reader,
        }
        return writePrivately(this.accessPath, `${JSON.stringify(access)}\n`)
      }
      if (performance.now() > deadline) throw new Error(`it was not ready within ${readyTimeoutMs / 1000} s`)
      await sleep(20, undefined, { signal })
    }
  }

  /** Passes the server's log on; the answer gives its last complaint. */
  #listen(child: ChildProcess): () => string {
    const log = this.options.log.child({ component: 'nats-server' })
    let complaint = ''
    for (const stream of [child.stdout, child.stderr]) {
      if (!stream) continue
      createInterface({ input: stream }).on('line', line => {
        const [, level, text = line] = /\[(INF|WRN|ERR|FTL)\] (.*)$/.exec(line) ?? []
        if (level !== 'INF' && level !== 'WRN') complaint = text
        log.debug(text)
      })
    }
    return () => complaint
  }

  #report(why: string): void {
    const isNews = this.#problem === undefined
    const missing = /failed to execute|ENOENT/.test(why)
    this.#problem = missing
      ? {
          message: `${why.includes('setpriv') && why.includes('ENOENT') ? 'setpriv' : this.#program} is not installed`,
          advice: 'install it (Debian: apt install nats-server util-linux), or start with --nats URL or --nats off',
        }
      : {
          message: `the embedded nats-server ended: ${why}`,
          advice: 'it is started again; if this goes on, see its lines at log level debug',
        }
    const facts = { advice: this.#problem.advice }
    if (isNews) this.options.log.warn(facts, `${this.#problem.message}; events wait in the journal`)
    else this.options.log.debug(facts, this.#problem.message)
  }

  #wake(): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const resolve of waiting) resolve()
  }
}

/** The readers may follow the stream with consumers of their own; publishing is the relay's alone. */
function configuration(port: number, portsDirectory: string, passwords: { relay: string; reader: string }): string {
  const readerMayAsk = [
    '$JS.API.INFO',
    '$JS.API.STREAM.INFO.*',
    '$JS.API.STREAM.NAMES',
    '$JS.API.STREAM.LIST',
    '$JS.API.STREAM.MSG.GET.*',
    '$JS.API.DIRECT.GET.>',
    '$JS.API.CONSUMER.>',
    '$JS.ACK.>',
    '$JS.FC.>',
  ]
  const quoted = JSON.stringify
  return `# Written by purserd at every start of its nats-server.
listen: ${quoted(`127.0.0.1:${port}`)}
ports_file_dir: ${quoted(portsDirectory)}
logtime: false
max_payload: ${payloadBytesMax}
jetstream: { max_file_store: ${storeBytesMax}, max_memory_store: ${32 << 20} }
authorization: {
  users: [
    { user: relay, password: ${quoted(passwords.relay)} }
    { user: reader, password: ${quoted(passwords.reader)}, permissions: {
      publish: { allow: ${quoted(readerMayAsk)} }
      subscribe: { allow: ["purser.>", "_INBOX.>"] }
    } }
  ]
}
`
}

const secret = (): string => randomBytes(24).toString('base64url')

async function rememberedPort(accessPath: string): Promise<number | undefined> {
  return parsePort(await readFile(accessPath, 'utf8').catch(() => ''))
}

function parsePort(text: string): number | undefined {
  const match = /nats:\/\/127\.0\.0\.1:(\d{1,5})"/.exec(text)
  return match?.[1] === undefined ? undefined : Number(match[1])
}

/** Whole or not at all, and never readable by others. */
async function writePrivately(path: string, text: string): Promise<void> {
  await rm(`${path}.new`, { force: true })
  await writeFile(`${path}.new`, text, { mode: 0o600, flag: 'wx' })
  await rename(`${path}.new`, path)
}

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise(resolve => {
    if (signal.aborted) resolve()
    signal.addEventListener('abort', () => resolve(), { once: true })
  })
