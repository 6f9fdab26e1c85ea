// A machine of its own as far as networks go: one network namespace in which the plugin runs, so that bridges and
// iptables rules of a test meet nobody else's and vanish with it.
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { build } from 'esbuild'
import { type Attachment, NetworkService, type PortMapping } from '../../../proto/gen/purser/network/v1/network.js'
import { Rpc } from '../../harness/rpc.js'
import { pause, type Scope, withDeadline } from '../../harness/wait.js'

const run = promisify(execFile)
const here = dirname(fileURLToPath(import.meta.url))
const namespace = 'default'

export interface SandboxOptions {
  /** Network lists by file name; text is written as it is. */
  files?: Record<string, object | string>
  /** CNI plugins of the test's own, by name: shell scripts. */
  plugins?: Record<string, string>
  config?: Record<string, unknown>
}

export interface BridgedOptions {
  chained?: object[]
  ipMasq?: boolean
}

export class Sandbox {
  readonly netns: string
  readonly confDir: string
  readonly leases: string
  readonly state: string
  #log = ''
  #host: ChildProcess | undefined
  #rpc: Rpc | undefined

  private constructor(
    readonly directory: string,
    private readonly program: string,
    private readonly options: SandboxOptions,
  ) {
    this.netns = join(directory, 'machine')
    this.confDir = join(directory, 'net.d')
    this.leases = join(directory, 'leases')
    this.state = join(directory, 'state')
  }

  static async open(t: Scope, program: string, options: SandboxOptions = {}): Promise<Sandbox> {
    const sandbox = new Sandbox(mkdtempSync(join(tmpdir(), 'purser-network-')), program, options)
    t.teardown(() => sandbox.close())
    writeFileSync(sandbox.netns, '')
    await run('unshare', [`--net=${sandbox.netns}`, 'ip', 'link', 'set', 'lo', 'up'])
    for (const directory of [sandbox.confDir, join(sandbox.directory, 'bin')]) mkdirSync(directory)
    for (const [name, content] of Object.entries(options.files ?? {})) sandbox.configure(name, content)
    for (const [name, script] of Object.entries(options.plugins ?? {})) sandbox.install(name, script)
    await sandbox.start()
    return sandbox
  }

  configure(name: string, content: object | string): void {
    writeFileSync(join(this.confDir, name), typeof content === 'string' ? content : JSON.stringify(content))
  }

  /** The script finds its directory as $TEST. */
  install(name: string, script: string): void {
    const path = join(this.directory, 'bin', name)
    writeFileSync(path, `#!/bin/sh\nTEST=${this.directory}\n${script}\n`)
    chmodSync(path, 0o755)
  }

  /** bridge + host-local in a subnet of its own, then the plugins given. */
  bridged(name: string, subnet: string, { chained = [], ipMasq = false }: BridgedOptions = {}): object {
    const routes = [{ dst: '0.0.0.0/0' }]
    const ipam = { type: 'host-local', ranges: [[{ subnet }]], routes, dataDir: this.leases }
    const bridge = { type: 'bridge', bridge: `ptest-${name}`, isGateway: true, ipMasq, ipam }
    return { cniVersion: '1.0.0', name, plugins: [bridge, ...chained] }
  }

  async start(): Promise<void> {
    const socket = join(this.directory, 'network.sock')
    const config = {
      state: this.state,
      confDirs: [this.confDir],
      binDirs: [join(this.directory, 'bin'), '/usr/lib/cni'],
      ...this.options.config,
    }
    const args = [`--net=${this.netns}`, process.execPath, this.program, socket, JSON.stringify(config)]
    const host = spawn('nsenter', args, { stdio: ['ignore', 'pipe', 'pipe'], env: { PATH: process.env.PATH } })
    this.#host = host
    host.stderr.on('data', chunk => {
      this.#log += chunk
    })
    const serving = new Promise<void>((resolve, reject) => {
      host.stdout.once('data', () => resolve())
      host.once('error', reject)
      host.once('exit', () => reject(new Error(`the plugin ended: ${this.#log}`)))
    })
    await withDeadline(serving, 10_000, 'the network plugin to serve')
    this.#rpc = new Rpc(socket)
  }

  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    const host = this.#host
    if (!host || host.exitCode !== null || host.signalCode !== null) return
    const ended = new Promise(resolve => host.once('exit', resolve))
    this.#rpc?.close()
    host.kill(signal)
    await withDeadline(ended, 15_000, 'the network plugin to end')
  }

  /** What the plugin has logged, without the fields. */
  get messages(): string {
    const lines = this.#log.split('\n').filter(line => line.startsWith('{'))
    return lines.map(line => JSON.parse(line).msg).join('\n')
  }

  get rpc(): Rpc {
    if (!this.#rpc) throw new Error('the plugin was never started')
    return this.#rpc
  }

  async attach(id: string, network: string, ports: PortMapping[] = []): Promise<Attachment> {
    const { attachment } = await this.rpc.call(NetworkService.attach, { namespace, id, network, ports })
    if (!attachment) throw new Error('the answer holds no attachment')
    return attachment
  }

  async check(id: string, network = ''): Promise<void> {
    await this.rpc.call(NetworkService.check, { namespace, id, network })
  }

  async detach(id: string, network = ''): Promise<void> {
    await this.rpc.call(NetworkService.detach, { namespace, id, network })
  }

  async list(): Promise<Attachment[]> {
    return (await this.rpc.call(NetworkService.list, {})).attachments
  }

  async networks(): Promise<string[]> {
    return (await this.rpc.call(NetworkService.networks, {})).names
  }

  /** Runs a command where the plugin runs, or in the namespace given, and answers its output. */
  async run(command: string, netns = this.netns): Promise<string> {
    const { stdout } = await run('nsenter', [`--net=${netns}`, ...command.split(' ')], { timeout: 10_000 })
    return stdout
  }

  /** As `run`, in the background until the test ends. */
  background(t: Scope, command: string, netns = this.netns): void {
    const child = spawn('nsenter', [`--net=${netns}`, ...command.split(' ')], { stdio: 'ignore' })
    t.teardown(() => void child.kill('SIGKILL'))
  }

  /** Addresses that host-local holds reserved in a network. */
  reserved(network: string): string[] {
    const directory = join(this.leases, network)
    if (!existsSync(directory)) return []
    return readdirSync(directory).filter(name => /^\d+\.\d+\.\d+\.\d+$/.test(name))
  }

  /** Everything that an attachment leaves on the machine while it exists. */
  async traces(network: string): Promise<string[]> {
    const links = (await this.run('ip -br link')).split('\n').filter(line => line.startsWith('veth'))
    const rules = `${await this.run('iptables -S')}${await this.run('iptables -t nat -S')}`
    const files = ['attachments', 'netns', 'claims'].flatMap(name => {
      const directory = join(this.state, name)
      return existsSync(directory) ? readdirSync(directory).map(file => join(name, file)) : []
    })
    return [
      ...this.reserved(network),
      ...links,
      ...rules.split('\n').filter(rule => rule.includes('default--')),
      ...files,
    ]
  }

  /** The kernel takes a namespace down, and with it the veth pairs, a moment after its last user has gone. */
  async settled(network: string): Promise<string[]> {
    for (let attempt = 0; attempt < 100; attempt++) {
      const traces = await this.traces(network)
      if (traces.length === 0) return []
      await pause(20)
    }
    return this.traces(network)
  }

  private async close(): Promise<void> {
    await this.stop('SIGKILL')
    const pinned = join(this.state, 'netns')
    const mounts = existsSync(pinned) ? readdirSync(pinned).map(name => join(pinned, name)) : []
    for (const path of [...mounts, this.netns]) await run('umount', ['-l', path]).catch(() => undefined)
    rmSync(this.directory, { recursive: true, force: true })
  }
}

/** Compiles the plugin's host below the project, where it finds its packages; `directory` is a tap fixture. */
export async function compileHost(directory: string): Promise<string> {
  const outfile = join(directory, 'host.mjs')
  await build({
    entryPoints: [join(here, 'host.ts')],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    packages: 'external',
    logLevel: 'error',
  })
  return outfile
}
