// A registry with its directory and a ledger in memory, and plugins as real processes beside it.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { credentials } from '@grpc/grpc-js'
import { build } from 'esbuild'
import { pino } from 'pino'
import type { Config } from '../../../plugins/kit/plugin.js'
import { DiffService } from '../../../proto/gen/containerd/services/diff/v1/diff.js'
import {
  type Emit,
  type RegisterRequest,
  type RegisterResponse,
  RegistryClient,
} from '../../../proto/gen/purser/plugins/v1/registry.js'
import type { DiffCalls } from '../../../services/supervisor/effects/ports.js'
import { call, pluginClient, pluginSource } from '../../../services/supervisor/plugins/clients.js'
import { PluginDirectory } from '../../../services/supervisor/plugins/directory.js'
import type { CallObservation, LivePlugin } from '../../../services/supervisor/plugins/live.js'
import {
  type PluginLedger,
  type PluginRef,
  type Registry,
  type RegistryOptions,
  serveRegistry,
} from '../../../services/supervisor/plugins/registry.js'
import { Arrivals, type Scope, until, withDeadline } from '../../harness/wait.js'

export const log = pino({ level: process.env.PURSER_TEST_LOG ?? 'silent' })

const repository = fileURLToPath(new URL('../../..', import.meta.url))

/** Bundles a program as the project's own bundle does, into a directory from which its packages are found. */
export async function bundleProgram(scope: Scope, source: string): Promise<string> {
  const directory = temporaryDirectory(scope)
  symlinkSync(`${repository}/node_modules`, `${directory}/node_modules`)
  const outfile = `${directory}/program.mjs`
  await build({
    entryPoints: [`${repository}/${source}`],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    packages: 'external',
    logLevel: 'silent',
  })
  return outfile
}

export function temporaryDirectory(scope: Scope): string {
  const directory = mkdtempSync('/tmp/plugins-')
  scope.teardown(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

/** What a registry told the journal, a line each, and emissions as the domain takes them: each id once. */
export class MemoryLedger implements PluginLedger {
  readonly facts = new Arrivals<string>()
  readonly events: Emit[] = []
  /** Called before an emission is journaled; throwing refuses it. */
  beforeEmission: (emission: Emit) => void | Promise<void> = () => {}
  #epoch = 0n

  async registered({ kind, id, version }: { kind: string; id: string; version: string }) {
    this.#epoch++
    this.facts.push(`registered ${kind}/${id} ${version} ${this.#epoch}`)
    return { epoch: this.#epoch }
  }
  async ready({ epoch }: PluginRef) {
    this.facts.push(`ready ${epoch}`)
  }
  async draining({ epoch }: PluginRef, reason: string) {
    this.facts.push(`draining ${epoch}: ${reason}`)
  }
  async lost({ epoch }: PluginRef, reason: string) {
    this.facts.push(`lost ${epoch}: ${reason}`)
  }
  async left({ epoch }: PluginRef, reason: string) {
    this.facts.push(`left ${epoch}: ${reason}`)
  }
  async emitted(_plugin: PluginRef, emission: Emit) {
    await this.beforeEmission(emission)
    const known = this.events.findIndex(({ id }) => id === emission.id)
    return BigInt(known >= 0 ? known + 1 : this.events.push(emission))
  }

  fact(pattern: RegExp, from = 0): Promise<string> {
    return this.facts.first(`the ledger to hear ${pattern}`, fact => pattern.test(fact), { from })
  }
}

export interface House {
  readonly state: string
  readonly directory: PluginDirectory
  readonly ledger: MemoryLedger
  readonly calls: CallObservation[]
  /** The obedient plugin's client. */
  readonly obedient: DiffCalls
  config: Config
  /** Sends an order to the obedient plugin and answers what it said. */
  order(ref: string, options?: { deadlineMs?: number }): Promise<string>
  /** As after the supervisor's death: nobody serves the registry until it is opened again. */
  closeRegistry(): Promise<void>
  openRegistry(): Promise<void>
  readonly registry: Registry
}

/** A supervisor as plugins see it. */
export async function house(scope: Scope, options: Partial<RegistryOptions> = {}): Promise<House> {
  const state = `${temporaryDirectory(scope)}/plugins`
  const ledger = new MemoryLedger()
  const calls: CallObservation[] = []
  const directory = new PluginDirectory({
    log,
    expected: [{ kind: 'differ', id: 'obedient' }],
    onCall: observation => calls.push(observation),
  })
  let registry: Registry | undefined
  const obedient = pluginClient(pluginSource(directory, 'differ', 'obedient'), DiffService)
  const made: House = {
    state,
    directory,
    ledger,
    calls,
    obedient,
    config: {},
    async order(ref, callOptions) {
      const request = { left: [], right: [], mediaType: '', ref, labels: {}, sourceDateEpoch: undefined }
      const { diff } = await obedient.diff(request, callOptions)
      return diff?.digest ?? ''
    },
    async openRegistry() {
      registry = await serveRegistry({
        path: `${state}/registry.sock`,
        ledger,
        directory,
        configFor: () => made.config,
        log,
        ...options,
      })
    },
    async closeRegistry() {
      await registry?.close()
      registry = undefined
    },
    get registry() {
      if (!registry) throw new Error('the registry is closed')
      return registry
    },
  }
  await made.openRegistry()
  scope.teardown(async () => {
    await made.closeRegistry()
    directory.close()
  })
  return made
}

/** A plugin process; its end belongs to the scope. */
export class PluginProcess {
  readonly log = new Arrivals<string>()
  readonly #child: ChildProcess
  readonly #ended: Promise<number | string>

  constructor(
    scope: Scope,
    script: string,
    at: { state: string },
    env: Record<string, string> = {},
    args: string[] = [],
  ) {
    const flags = ['--registry', `unix://${at.state}/registry.sock`, '--endpoint-dir', at.state, ...args]
    this.#child = spawn(process.execPath, [script, ...flags], {
      stdio: ['pipe', 'ignore', 'pipe'],
      env: { ...process.env, ...env },
    })
    this.#ended = new Promise(resolve =>
      this.#child.once('close', (code, signal) => resolve(signal ?? code ?? 'unknown')),
    )
    if (this.#child.stderr) createInterface({ input: this.#child.stderr }).on('line', line => this.log.push(line))
    scope.teardown(async () => {
      this.signal('SIGKILL')
      await this.ended()
    })
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  /** Exit code, or the signal that ended it. */
  ended(): Promise<number | string> {
    return withDeadline(this.#ended, 20_000, `the plugin process to end; it said:\n${this.log.items.join('\n')}`)
  }

  /** What a parent says to a process that was started with `--with-parent`. */
  begin(): void {
    this.#child.stdin?.write('\n')
  }

  closeStdin(): void {
    this.#child.stdin?.end()
  }
}

/** Asks in a loop from several callers at once until stopped; answers what came back, failures included. */
export function load(ask: () => Promise<string>, callers = 8): { stop(): Promise<Map<string, number>> } {
  const answers = new Map<string, number>()
  let running = true
  const count = (answer: string) => answers.set(answer, (answers.get(answer) ?? 0) + 1)
  const loops = Array.from({ length: callers }, async () => {
    while (running) await ask().then(count, error => count(`failed: ${error}`))
  })
  return {
    async stop() {
      running = false
      await Promise.all(loops)
      return answers
    },
  }
}

export { until }

/** An emission on a given registration, whatever becomes of it meanwhile. */
export async function emitThrough(plugin: LivePlugin, id: string): Promise<string> {
  const request = { left: [], right: [], mediaType: '', ref: `emit:${id}`, labels: {}, sourceDateEpoch: undefined }
  const { diff } = await call(plugin, DiffService.diff, request, { deadlineMs: 20_000 })
  return diff?.digest ?? ''
}

export const hello = {
  kind: 'differ',
  id: 'foreign',
  version: '7',
  endpoint: 'unix:///nowhere.sock',
  capabilities: [],
  protocolMin: 1,
  protocolMax: 1,
}

/** A message of a plugin that was written without the kit. */
export function say(message: NonNullable<RegisterRequest['message']>): RegisterRequest {
  return { message }
}

/** A Register stream by hand: what came, and how it ended. */
export function register(scope: Scope, at: { state: string }) {
  const client = new RegistryClient(`unix://${at.state}/registry.sock`, credentials.createInsecure())
  const stream = client.register()
  const heard = new Arrivals<RegisterResponse>()
  stream.on('data', (response: RegisterResponse) => heard.push(response))
  const failed = new Promise<Error>(resolve => stream.once('error', resolve))
  stream.on('error', () => {})
  scope.teardown(() => {
    stream.cancel()
    client.close()
  })
  return { stream, heard, failed }
}
