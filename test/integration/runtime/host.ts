// The runtime plugin over real shims and runc, without a supervisor: its own directory, a client, what it emits.
import { chmodSync, mkdtempSync, readdirSync, rmdirSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import type { Config, Emission } from '../../../plugins/kit/plugin.js'
import { TaskExit } from '../../../proto/gen/containerd/events/task.js'
import { Options } from '../../../proto/gen/containerd/runc/v1/options.js'
import {
  CreateRequest,
  ExecRequest,
  type ListResponse,
  RuntimeService,
  type StatsResponse,
  type Task,
} from '../../../proto/gen/purser/runtime/v1/runtime.js'
import { leftovers, removeByForce, type Traces } from '../../harness/machine.js'
import { Rpc, type UnaryMethod } from '../../harness/rpc.js'
import { Arrivals, type Scope, until } from '../../harness/wait.js'
import { type Served, serveHere } from './served.js'
import { makeRootfs, processSpec, type SpecChange, shellSpec } from './spec.js'

export interface SeenExit {
  namespace: string
  containerId: string
  /** The container's id for its init process. */
  id: string
  pid: number
  exitStatus: number
  emissionId: string
}

export interface TaskWish {
  namespace?: string
  command?: string
  change?: SpecChange
  request?: Partial<CreateRequest>
}

/** One runtime plugin, opened and closed at will. Fails its test when something is left on the machine at the end. */
export class RuntimeHost {
  readonly directory = mkdtempSync('/tmp/purser-rt-')
  /** Its own, since cgroups are shared with everybody else on the machine. */
  readonly namespace = basename(this.directory)
  readonly state = join(this.directory, 'state')
  readonly emissions = new Arrivals<Emission>()
  /** While false nothing that is emitted is acknowledged. */
  acknowledges = true
  readonly #config: Config
  readonly #traces: Traces
  #open: { served: Served; rpc: Rpc } | undefined

  readonly #serve: typeof serveHere
  #opened = 0

  private constructor(config: Config, serve: typeof serveHere) {
    this.#serve = serve
    const address = join(this.directory, 'purser.sock')
    this.#config = { state: this.state, address, ...config }
    this.#traces = { directory: this.directory, address, containers: [], interfaces: [] }
    makeRootfs(this.rootfs)
  }

  static async open(scope: Scope, config: Config = {}, serve = serveHere): Promise<RuntimeHost> {
    const host = new RuntimeHost(config, serve)
    scope.teardown(async () => {
      await host.close()
      await removeByForce(host.#traces)
      const namespaces = host.#traces.containers.map(({ namespace }) => namespace)
      for (const namespace of new Set(namespaces)) removeCgroups(namespace)
    })
    await host.open()
    return host
  }

  get rootfs(): string {
    return join(this.directory, 'rootfs')
  }

  /** The names of containers whose traces belong to this host. */
  knows(namespace: string, id: string): void {
    this.#traces.containers.push({ namespace, id })
  }

  call<Request, Response>(method: UnaryMethod<Request, Response>, request: Request): Promise<Response> {
    if (!this.#open) throw new Error('the plugin is closed')
    return this.#open.rpc.call(method, request, { timeoutMs: 60_000 })
  }

  /** A container that runs `command` in a shell; only created. */
  async create(id: string, { namespace = this.namespace, command = 'true', change, request }: TaskWish = {}) {
    this.knows(namespace, id)
    const spec = shellSpec({ namespace, id, command, rootfs: this.rootfs }, change)
    return this.call(
      RuntimeService.create,
      CreateRequest.fromPartial({
        namespace,
        id,
        runtime: 'io.containerd.runc.v2',
        spec: { typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/Spec', value: spec },
        ...request,
      }),
    )
  }

  async run(id: string, wish: TaskWish = {}): Promise<number> {
    await this.create(id, wish)
    return this.start(id, '', wish.namespace)
  }

  async start(id: string, execId = '', namespace = this.namespace): Promise<number> {
    return (await this.call(RuntimeService.start, { namespace, id, execId })).pid
  }

  /** Adds a shell command to a running container and starts it. */
  async exec(id: string, execId: string, command: string, request: Partial<ExecRequest> = {}): Promise<number> {
    const spec = {
      typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/Process',
      value: json(processSpec(command)),
    }
    const { namespace } = this
    await this.call(RuntimeService.exec, ExecRequest.fromPartial({ namespace, id, execId, spec, ...request }))
    return this.start(id, execId)
  }

  kill(id: string, { namespace = this.namespace, execId = '', signal = 9, all = false } = {}) {
    return this.call(RuntimeService.kill, { namespace, id, execId, signal, all })
  }

  delete(id: string, execId = '', namespace = this.namespace) {
    return this.call(RuntimeService.delete, { namespace, id, execId })
  }

  destroy(id: string, namespace = this.namespace) {
    return this.call(RuntimeService.destroy, { namespace, id })
  }

  taskState(id: string, execId = '', namespace = this.namespace) {
    return this.call(RuntimeService.state, { namespace, id, execId })
  }

  stats(ids: string[]): AsyncIterable<StatsResponse> {
    if (!this.#open) throw new Error('the plugin is closed')
    return this.#open.rpc.stream(RuntimeService.stats, { namespace: this.namespace, ids }, { timeoutMs: 60_000 })
  }

  listing(): AsyncIterable<ListResponse> {
    if (!this.#open) throw new Error('the plugin is closed')
    return this.#open.rpc.stream(RuntimeService.list, {}, { timeoutMs: 60_000 })
  }

  async list(): Promise<Task[]> {
    const told: Task[] = []
    for await (const { tasks } of this.listing()) told.push(...tasks)
    return told
  }

  get exits(): SeenExit[] {
    return this.emissions.items.flatMap(emission => toExit(emission) ?? [])
  }

  async exit(id: string, process = id, namespace = this.namespace): Promise<SeenExit> {
    const isIt = (emission: Emission) => {
      const exit = toExit(emission)
      return exit?.namespace === namespace && exit.containerId === id && exit.id === process
    }
    const seen = toExit(await this.emissions.first(`the exit of ${namespace}/${id} ${process}`, isIt))
    if (!seen) throw new Error('unreachable')
    return seen
  }

  /** Resolves when neither shim, mount, socket, cgroup nor bundle of this host is left. */
  async nothingLeft(): Promise<void> {
    const found = () => [...leftovers(this.#traces), ...this.bundles()]
    await until('everything to be cleaned up', () => found().length === 0).catch(() => {
      throw new Error(`left behind:\n${found().join('\n')}`)
    })
  }

  /** Bundles, of deleted tasks too, and the OCI runtime's state. */
  bundles(): string[] {
    const below = (directory: string) => list(directory).flatMap(name => list(join(directory, name)).map(id => id))
    return [
      ...below(join(this.state, 'bundles')),
      ...list(join(this.state, 'ended')),
      ...below(join(this.state, 'runc')),
    ]
  }

  async open(): Promise<void> {
    const emit = (emission: Emission): Promise<bigint> => {
      this.emissions.push(emission)
      return this.acknowledges ? Promise.resolve(BigInt(this.emissions.items.length)) : new Promise(() => undefined)
    }
    // A name for each time: grpc-js remembers that nobody listened at the old one, and waits.
    this.#opened += 1
    const socket = join(this.directory, `plugin-${this.#opened}.sock`)
    const served = await this.#serve(this.#config, socket, emit)
    this.#open = { served, rpc: new Rpc(socket) }
  }

  /** As on SIGTERM: shims and containers run on. */
  async close(): Promise<void> {
    const open = this.#open
    this.#open = undefined
    open?.rpc.close()
    await open?.served.close()
  }

  /** As on kill -9; only for a host with a process of its own. */
  async crash(): Promise<void> {
    const open = this.#open
    this.#open = undefined
    open?.rpc.close()
    await open?.served.crash()
  }
}

function toExit({ namespace, topic, event, id = '' }: Emission): SeenExit | undefined {
  if (topic !== '/tasks/exit') return undefined
  const { exitedAt: _, ...exit } = TaskExit.decode(event.value)
  return { namespace, ...exit, emissionId: id }
}

/** A runtime binary that runs `line` before it becomes runc, with runc's arguments in "$@". */
export function wrappedRuntime(host: RuntimeHost, line: string) {
  const path = join(host.directory, 'runc-wrapper')
  writeFileSync(path, `#!/bin/sh\n${line}\nexec runc "$@"\n`)
  chmodSync(path, 0o755)
  const value = Buffer.from(Options.encode(Options.create({ binaryName: path })).finish())
  return { options: { typeUrl: 'containerd.runc.v1.Options', value } }
}

/** A runtime that never comes to an end of this command of runc's. */
export const hangingIn = (host: RuntimeHost, command: string) =>
  wrappedRuntime(host, `case "$*" in *" ${command} "*) sleep 100;; esac`)

export const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value))

function list(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch {
    return []
  }
}

/** The parents that the OCI runtime made and left, in every hierarchy. */
function removeCgroups(namespace: string): void {
  for (const hierarchy of ['', ...list('/sys/fs/cgroup')]) {
    try {
      rmdirSync(join('/sys/fs/cgroup', hierarchy, namespace))
    } catch {
      // Not there.
    }
  }
}
