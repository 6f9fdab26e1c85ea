// Debian's dockerd and docker on a supervisor under test: in its directory, in its network namespace.
import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type CtrResult, cleanEnvironment, type Running, run, runOnTerminal } from './ctr.js'
import type { Host } from './host.js'
import { busyboxImage, writeDockerArchive } from './image.js'
import { alive, signal } from './process.js'
import { ownNetworkOf } from './supervisor.js'
import { endWith, type Scope, until } from './wait.js'

export class Docker {
  /** Cgroups of its containers lie below it, in each hierarchy. */
  readonly cgroupParent = `purser-docker-${randomBytes(3).toString('hex')}`
  readonly #socket: string
  readonly #client: string
  #daemon: ChildProcess | undefined
  #log = ''

  /** `host` was started with `ownNetwork`. */
  constructor(
    scope: Scope,
    readonly host: Host,
  ) {
    this.#socket = join(host.directory, 'docker.sock')
    // The client of the daemon's package, also where another stands before it in the path.
    this.#client = existsSync('/usr/bin/docker') ? '/usr/bin/docker' : 'docker'
    endWith(scope, () => {
      if (scope.passed?.() === false) console.error(`dockerd's log ends with:\n${this.#log.slice(-4000)}`)
      this.#daemon?.kill('SIGKILL')
      this.#endContainers()
    })
  }

  /** Resolves once it answers. */
  async start(): Promise<void> {
    const { directory, address } = this.host
    const place = (name: string) => join(directory, name)
    rmSync(place('docker.pid'), { force: true })
    writeFileSync(place('daemon.json'), JSON.stringify({ 'deprecated-key-path': place('key.json') }))
    const args = [
      ...['--containerd', address, '--host', `unix://${this.#socket}`, '--config-file', place('daemon.json')],
      ...['--data-root', place('docker'), '--exec-root', place('docker-exec'), '--pidfile', place('docker.pid')],
      ...['--live-restore', '--bip', '172.30.7.1/24', '--cgroup-parent', `/${this.cgroupParent}`],
    ]
    const daemon = spawn('nsenter', [`--net=${ownNetworkOf(this.host)}`, 'dockerd', ...args], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: cleanEnvironment,
      detached: true,
    })
    daemon.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#log += text
    })
    this.#daemon = daemon
    const answers = async () => (await this.run('version')).code === 0
    await until('dockerd to answer', answers, { timeoutMs: 30_000, intervalMs: 100, detail: () => `; ${this.#log}` })
  }

  async end(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    const daemon = this.#daemon
    if (daemon === undefined) return
    const exited = new Promise(resolve => daemon.once('exit', resolve))
    daemon.kill(signal)
    await exited
    this.#daemon = undefined
  }

  /** Makes the small busybox image known, and answers its name. */
  async load(): Promise<string> {
    const path = join(this.host.directory, 'docker-image.tar')
    await writeDockerArchive(path, 'busybox:test', await busyboxImage({ compression: 'none' }))
    await this.ok('load', '--quiet', '--input', path)
    return 'busybox:test'
  }

  async run(...args: string[]): Promise<CtrResult> {
    return this.spawn(...args).end(60_000)
  }

  /** Expects success; answers what it printed, without the last newline. */
  async ok(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.run(...args)
    if (code !== 0) throw new Error(`docker ${args.join(' ')}: status ${code}: ${stderr.trim()}`)
    return stdout.trimEnd()
  }

  spawn(...args: string[]): Running {
    // The builder in the daemon, whose steps are containers; BuildKit runs runc itself.
    const env = { DOCKER_CONFIG: join(this.host.directory, 'docker-config'), DOCKER_BUILDKIT: '0' }
    return run(this.#client, ['--host', `unix://${this.#socket}`, ...args], { env })
  }

  onTerminal(...args: string[]): Running {
    return runOnTerminal(this.#client, ['--host', `unix://${this.#socket}`, ...args])
  }

  inspect(container: string, field: string): Promise<string> {
    return this.ok('inspect', '--format', `{{${field}}}`, container)
  }

  /** Cgroups of containers, in all hierarchies; their parent goes when it has none. */
  cgroupsLeft(): string[] {
    const root = '/sys/fs/cgroup'
    const parents = ['', ...readdirSync(root)].map(name => join(root, name, this.cgroupParent)).filter(existsSync)
    return parents.flatMap(parent => {
      const left = readdirSync(parent, { withFileTypes: true }).filter(entry => entry.isDirectory())
      if (left.length === 0) rmdirSync(parent)
      return left.map(({ name }) => join(parent, name))
    })
  }

  /** By force, after a test that failed. Their cgroups go once their processes have. */
  #endContainers(): void {
    for (let round = 0; round < 200; round++) {
      const left = this.cgroupsLeft()
      if (left.length === 0) return
      for (const path of left) {
        const pids = readFileSync(join(path, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number)
        const found = pids.map(alive).filter(entry => entry !== undefined)
        for (const entry of found) signal(entry, 'SIGKILL')
        if (pids.length === 0) rmdirSync(path)
      }
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10)
    }
  }
}
