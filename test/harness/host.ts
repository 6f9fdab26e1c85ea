// One supervisor under test in directories of its own: started, killed, asked through ctr and gRPC, and cleared away.
import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { NamespaceCreate } from '../../proto/gen/containerd/events/namespace.js'
import { EventsService, PublishRequest } from '../../proto/gen/containerd/services/events/v1/events.js'
import { VersionService } from '../../proto/gen/containerd/services/version/v1/version.js'
import { type CtrResult, cleanEnvironment, type Running, run, runOnTerminal } from './ctr.js'
import { ownDirectory } from './directory.js'
import { EventLog } from './events.js'
import { busyboxImage, type Image, writeArchive } from './image.js'
import { bundlesBelow, leftovers, removeByForce, type Traces } from './machine.js'
import { alive, gone, type ProcessEntry, processesOf, signal } from './process.js'
import { type CallSettings, Rpc, type UnaryMethod } from './rpc.js'
import { Arrivals, endWith, pause, type Scope, until, withDeadline } from './wait.js'

/** How a kind of supervisor is started. */
export interface Launch {
  kind: 'purserd' | 'containerd'
  command: string
  args: string[]
  env?: Record<string, string>
  /** The line on stderr that says that it serves; absent: it is asked until it answers. */
  servingLine?: RegExp
  metricsUrl?: string
}

/** What a kind of supervisor needs to know to be launched. */
export interface Places {
  directory: string
  root: string
  state: string
  address: string
}

/** A line of the supervisor's log. Purser's are JSON; others' are kept as text in `msg`. */
export interface LogLine {
  msg: string
  level?: number
  [field: string]: unknown
}

export class Host implements Places {
  readonly log = new Arrivals<LogLine>()
  readonly rpc: Rpc
  readonly networkInterfaces: string[] = []
  readonly #ids: string[] = []
  readonly #running: Running[] = []
  #process: Pick<ChildProcess, 'pid' | 'kill'> | undefined
  #ended: () => Promise<void> = () => Promise.resolve()

  constructor(
    readonly directory: string,
    readonly root: string,
    readonly state: string,
    readonly address: string,
    readonly launch: Launch,
    /** containerd's namespace, of ctr and of calls. Cgroups lie below a directory of this name. */
    readonly namespace = 'default',
  ) {
    this.rpc = new Rpc(address)
  }

  get kind(): Launch['kind'] {
    return this.launch.kind
  }

  get pid(): number {
    if (this.#process?.pid === undefined) throw new Error(`${this.kind} is not running`)
    return this.#process.pid
  }

  /** Resolves once the supervisor serves. */
  async start(timeoutMs = 15_000): Promise<void> {
    const from = this.log.items.length
    const { command, args, kind, servingLine } = this.launch
    const environment = { ...cleanEnvironment, PURSER_TEST_DIRECTORY: this.directory, ...this.launch.env }
    // By way of env(1), which ends in the command itself: tap makes every node that a test starts load its own code.
    const pairs = Object.entries(environment).map(([name, value]) => `${name}=${value}`)
    const child = spawn('env', ['-i', ...pairs, command, ...args], {
      stdio: ['ignore', 'ignore', 'pipe'],
      // A process group of its own: an interrupt at the terminal reaches the test, which then ends this in order.
      detached: true,
    })
    this.#process = child
    const failed = new Promise<never>((_, reject) => {
      child.once('error', reject)
      child.once('exit', (code, signal) => {
        reject(new Error(`${kind} ended with ${signal ?? `status ${code}`} instead of serving:\n${this.logTail(from)}`))
      })
    })
    failed.catch(() => undefined)
    const closed = new Promise<void>(resolve => child.once('close', () => resolve()))
    const exited = new Promise<void>(resolve => child.once('exit', () => resolve()))
    // A plugin host that outlives it holds the pipe of its log.
    const ended = exited.then(() => Promise.race([closed, pause(50)]))
    this.#ended = () => ended
    createInterface({ input: child.stderr }).on('line', line => this.log.push(parseLogLine(line)))
    const serving =
      servingLine === undefined
        ? until(`${kind} to answer`, () => this.answers(), { timeoutMs })
        : this.log.first(`${kind} to serve`, ({ msg }) => servingLine.test(msg), { timeoutMs, from })
    await Promise.race([serving, failed])
    await this.rpc.connected(timeoutMs)
  }

  /** SIGKILL: the supervisor has no chance to say or save anything. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL')
  }

  /** SIGTERM, as a service manager stops it. */
  async stop(): Promise<void> {
    await this.#end('SIGTERM')
  }

  /** Another process has taken over from the one that was started: that one is meant from now on. */
  succeededBy(pid: number): void {
    const entry = alive(pid)
    if (entry === undefined) throw new Error(`there is no process ${pid}`)
    this.#process = {
      pid,
      kill: name => {
        signal(entry, typeof name === 'string' ? name : 'SIGTERM')
        return true
      },
    }
    this.#ended = () => gone(entry)
  }

  /** A program that it runs beside itself: "plugin-host", "nats-server". The first outlives a crash for a while. */
  daemon(program: string): ProcessEntry | undefined {
    return processesOf(this.directory).find(({ command }) => command.some(word => word.includes(program)))
  }

  /** Whether it was started and not seen to end. */
  get isRunning(): boolean {
    return this.#process !== undefined && alive(this.pid) !== undefined
  }

  /** When something else ends the supervisor. */
  async ended(timeoutMs = 60_000): Promise<void> {
    await withDeadline(this.#ended(), timeoutMs, `${this.kind} to end`)
    this.#process = undefined
  }

  async answers(): Promise<boolean> {
    try {
      await this.call(VersionService.version, {}, { timeoutMs: 1000 })
      return true
    } catch {
      return false
    }
  }

  /** Runs ctr to its end, whatever its status. */
  async ctr(...args: string[]): Promise<CtrResult> {
    return this.ctrSpawn(...args).end()
  }

  /** Runs ctr, expects success and answers what it printed, without the last newline. */
  async ok(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.ctr(...args)
    if (code !== 0) throw new Error(`ctr ${args.join(' ')}: status ${code}: ${stderr.trim()}`)
    return stdout.trimEnd()
  }

  ctrSpawn(...args: string[]): Running {
    return this.#remember(run('ctr', this.ctrArguments(args)))
  }

  ctrOnTerminal(...args: string[]): Running {
    return this.#remember(runOnTerminal('ctr', this.ctrArguments(args)))
  }

  /**
   * The FIFOs of a container's output are kept below this host's directory: by default they lie in a place that all
   * instances share, and those of a detached container stay there.
   */
  ctrArguments(args: string[]): string[] {
    const verb = args.slice(0, 4).findIndex(word => ['run', 'exec', 'start'].includes(word)) + 1
    const fifos = verb > 0 ? ['--fifo-dir', join(this.directory, 'fifo')] : []
    return [
      '--address',
      this.address,
      '--namespace',
      this.namespace,
      ...args.slice(0, verb),
      ...fifos,
      ...args.slice(verb),
    ]
  }

  /** A container id that no other test on this machine uses: cgroup paths and names of namespaces are the machine's. */
  id(name: string): string {
    const id = `${name}-${randomBytes(3).toString('hex')}`
    this.#ids.push(id)
    return id
  }

  /** Imports an image with ctr, busybox unless another is given, and answers its name. */
  async load(image?: Image, ...flags: string[]): Promise<string> {
    const made = image ?? (await busyboxImage())
    const path = join(this.directory, `${randomBytes(4).toString('hex')}.tar`)
    await writeArchive(path, made)
    await this.ok('images', 'import', ...flags, path)
    rmSync(path)
    return made.name
  }

  /** Collects what `ctr events` prints from now on; resolves once the subscription is known to be live. */
  async events(): Promise<EventLog> {
    const log = new EventLog(this.ctrSpawn('events'))
    const marker = randomBytes(6).toString('hex')
    const event = {
      typeUrl: 'containerd.events.NamespaceCreate',
      value: Buffer.from(NamespaceCreate.encode(NamespaceCreate.fromPartial({ name: marker })).finish()),
    }
    await until('the subscription of ctr events', async () => {
      await this.call(EventsService.publish, PublishRequest.fromPartial({ topic: '/harness/mark', event }))
      await pause(20)
      return log.sawMarker(marker)
    })
    return log
  }

  call<Request, Response>(
    method: UnaryMethod<Request, Response>,
    request: Request,
    settings?: CallSettings,
  ): Promise<Response> {
    return this.rpc.call(method, request, { namespace: this.namespace, ...settings })
  }

  /** The metrics page as text. */
  async metrics(): Promise<string> {
    const { metricsUrl } = this.launch
    if (metricsUrl === undefined) throw new Error('this host was started without metrics')
    const response = await fetch(metricsUrl, { signal: AbortSignal.timeout(5000) })
    if (!response.ok) throw new Error(`${metricsUrl}: ${response.status}`)
    return response.text()
  }

  /** What is on the machine because of this host, a line each. See machine.ts. */
  leftovers(): string[] {
    return leftovers(this.#traces())
  }

  /** Waits until nothing is left: what has been asked to end may take a moment to be gone. */
  async nothingLeft(timeoutMs = 5000): Promise<string[]> {
    await until('nothing to be left', () => this.leftovers().length === 0, { timeoutMs }).catch(() => undefined)
    return this.leftovers()
  }

  /** Removes everything by force, in whatever state it is. */
  clear(): void {
    for (const running of this.#running) running.kill()
    this.rpc.close()
    removeByForce(this.#traces())
  }

  logTail(from = 0, count = 40): string {
    const lines = this.log.items.slice(from).slice(-count)
    return lines.map(line => (Object.keys(line).length === 1 ? line.msg : JSON.stringify(line))).join('\n')
  }

  #traces(): Traces {
    const named = this.#ids.map(id => ({ namespace: this.namespace, id }))
    const bundles = bundlesBelow(this.state).filter(({ id }) => !this.#ids.includes(id))
    return {
      directory: this.directory,
      address: this.address,
      containers: [...named, ...bundles],
      interfaces: this.networkInterfaces,
    }
  }

  #remember(running: Running): Running {
    this.#running.push(running)
    return running
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    this.#process?.kill(signal)
    await withDeadline(this.#ended(), 15_000, `${this.kind} to end after ${signal}:\n${this.logTail()}`)
    this.#process = undefined
  }
}

export function makePlaces(): Places {
  const directory = ownDirectory('purser-')
  const [root, state] = [join(directory, 'root'), join(directory, 'state')]
  for (const path of [root, state, join(directory, 'fifo')]) mkdirSync(path, { mode: 0o700 })
  return { directory, root, state, address: join(directory, 'purser.sock') }
}

/** Ties the host's end to the scope; a failed test shows the end of its log. */
export function keepUntilEnd(scope: Scope, host: Host): Host {
  endWith(scope, () => {
    if (scope.passed?.() === false) console.error(`${host.kind}'s log ends with:\n${host.logTail()}`)
    host.clear()
  })
  return host
}

/** A TCP port on loopback that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(0, '127.0.0.1', resolve)
  })
  const bound = server.address()
  await new Promise<void>(resolve => server.close(() => resolve()))
  if (bound === null || typeof bound === 'string') throw new Error('no port could be bound on 127.0.0.1')
  return bound.port
}

function parseLogLine(line: string): LogLine {
  try {
    const parsed: unknown = JSON.parse(line)
    if (isLogLine(parsed)) return parsed
  } catch {
    // Not JSON: a reference's line, or a crash of the runtime. Kept as it is.
  }
  return { msg: line }
}

function isLogLine(value: unknown): value is LogLine {
  return typeof value === 'object' && value !== null && 'msg' in value && typeof value.msg === 'string'
}
