// A shim that serves containerd.runtime.sandbox.v1, and version 3 of the Task API for any number of containers: Debian
// has none, so this stands in for one. A sandbox is a process, and so is each container; what they run is a sleep.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { pino } from 'pino'
import { TtrpcClient } from '../../../plugins/runtime/ttrpc/client.js'
import { type TtrpcHandler, TtrpcServer } from '../../../plugins/runtime/ttrpc/server.js'
import { TaskExit } from '../../../proto/gen/containerd/events/task.js'
import { SandboxService } from '../../../proto/gen/containerd/runtime/sandbox/v1/sandbox.js'
import { ForwardRequest } from '../../../proto/gen/containerd/services/events/ttrpc/v1/events.js'
import { TaskService } from '../../../proto/gen/containerd/task/v2/shim.js'
import { Status } from '../../../proto/gen/containerd/v1/types/task.js'

const action = process.argv.at(-1)
const bundle = process.cwd()
const option = (name: string) => process.argv[process.argv.indexOf(name) + 1] ?? ''
const namespace = option('-namespace')
const address = join(bundle, '..', '..', '..', `${option('-id')}.sock`)
const log = pino({ level: 'silent' })

interface Codec<Request, Response> {
  requestDeserialize(bytes: Buffer): Request
  responseSerialize(response: Response): Buffer
}

const handle =
  <Request, Response>(codec: Codec<Request, Response>, answer: (request: Request) => Response | Promise<Response>) =>
  async (payload: Uint8Array) =>
    codec.responseSerialize(await answer(codec.requestDeserialize(Buffer.from(payload))))

if (action === 'start') {
  const shim = spawn(process.execPath, [...process.argv.slice(1, -1), 'serve'], {
    detached: true,
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  })
  await once(shim, 'message')
  shim.disconnect()
  shim.unref()
  process.stdout.write(JSON.stringify({ version: 3, address: `unix://${address}`, protocol: 'ttrpc' }))
}

if (action === 'serve') {
  const now = () => ({ seconds: BigInt(Math.floor(Date.now() / 1000)), nanos: 0 })
  const sleeping = new Map<string, Sleep>()
  const find = (id: string): Sleep => {
    const found = sleeping.get(id)
    if (!found) throw new Error(`no ${id} here`)
    return found
  }

  /** A process with an end. */
  class Sleep {
    #child: ChildProcess | undefined
    #isStarted = false
    exit: { exitStatus: number; exitedAt: { seconds: bigint; nanos: number } } | undefined
    readonly ended: Promise<void>
    #end = () => {}
    constructor() {
      this.ended = new Promise(resolve => {
        this.#end = resolve
      })
    }
    get pid() {
      return this.#child?.pid ?? process.pid
    }
    get status() {
      return this.exit ? Status.STOPPED : this.#isStarted ? Status.RUNNING : Status.CREATED
    }
    /** There from the beginning, as a container's init process is. */
    make() {
      this.#child = spawn('sleep', ['1000'], { stdio: 'ignore' })
      this.#child.once('exit', code => {
        this.exit = { exitStatus: code ?? 137, exitedAt: now() }
        this.#end()
      })
    }
    start() {
      this.#isStarted = true
    }
    kill() {
      this.#child?.kill('SIGKILL')
    }
  }

  const tell = async (containerId: string, { pid, exit }: Sleep) => {
    const path = process.env.TTRPC_ADDRESS ?? ''
    const event = TaskExit.create({ containerId, id: containerId, pid, ...exit })
    const any = { typeUrl: 'containerd.events.TaskExit', value: Buffer.from(TaskExit.encode(event).finish()) }
    const envelope = { timestamp: now(), namespace, topic: '/tasks/exit', event: any }
    const client = await TtrpcClient.connect(path, { deadlineMs: 5000, namespace, log })
    const payload = ForwardRequest.encode(ForwardRequest.fromPartial({ envelope })).finish()
    await client.call('containerd.services.events.ttrpc.v1.Events', 'Forward', payload, { deadlineMs: 5000 })
    client.close()
  }

  const pod = new Sleep()
  const createdAt = now()
  const sandbox: Record<string, TtrpcHandler> = {
    CreateSandbox: handle(SandboxService.createSandbox, ({ annotations }) => {
      if (annotations.refuse) throw new Error(`it shall not be: ${annotations.refuse}`)
      return {}
    }),
    StartSandbox: handle(SandboxService.startSandbox, () => {
      pod.make()
      pod.start()
      return { pid: pod.pid, createdAt, spec: undefined }
    }),
    Platform: handle(SandboxService.platform, () => ({
      platform: { os: 'linux', architecture: 'sandboxed', variant: '', osVersion: '', osFeatures: [] },
    })),
    StopSandbox: handle(SandboxService.stopSandbox, async () => {
      pod.kill()
      await pod.ended
      return {}
    }),
    WaitSandbox: handle(SandboxService.waitSandbox, async () => {
      await pod.ended
      return pod.exit ?? { exitStatus: 0, exitedAt: undefined }
    }),
    SandboxStatus: handle(SandboxService.sandboxStatus, ({ sandboxId, verbose }) => ({
      ...{ sandboxId, pid: pod.pid, state: pod.status === Status.RUNNING ? 'SANDBOX_READY' : 'SANDBOX_NOTREADY' },
      ...{ info: verbose ? { shim: String(process.pid) } : {}, createdAt, extra: undefined },
      exitedAt: pod.exit?.exitedAt,
    })),
    SandboxMetrics: handle(SandboxService.sandboxMetrics, ({ sandboxId: id }) => ({
      metrics: { timestamp: now(), id, data: { typeUrl: 'example', value: Buffer.from('7') } },
    })),
    ShutdownSandbox: handle(SandboxService.shutdownSandbox, async () => {
      if (pod.status === Status.RUNNING) pod.kill()
      for (const each of sleeping.values()) each.kill()
      setTimeout(() => process.exit(0), 50)
      return {}
    }),
  }
  const task: Record<string, TtrpcHandler> = {
    Connect: handle(TaskService.connect, () => ({ shimPid: process.pid, taskPid: process.pid, version: '3' })),
    Create: handle(TaskService.create, ({ id }) => {
      const made = new Sleep()
      made.make()
      sleeping.set(id, made)
      return { pid: made.pid }
    }),
    Start: handle(TaskService.start, ({ id }) => {
      const process = find(id)
      process.start()
      void process.ended.then(() => tell(id, process))
      return { pid: process.pid }
    }),
    Kill: handle(TaskService.kill, ({ id }) => {
      find(id).kill()
      return {}
    }),
    Wait: handle(TaskService.wait, async ({ id }) => {
      await find(id).ended
      return find(id).exit ?? { exitStatus: 0, exitedAt: undefined }
    }),
    State: handle(TaskService.state, ({ id }) => {
      const { pid, status, exit } = find(id)
      const streams = { stdin: '', stdout: '', stderr: '', terminal: false }
      return { id, bundle, pid, status, ...streams, execId: '', ...(exit ?? { exitStatus: 0, exitedAt: undefined }) }
    }),
    Delete: handle(TaskService.delete, ({ id }) => {
      const { pid, exit } = find(id)
      sleeping.delete(id)
      return { pid, ...(exit ?? { exitStatus: 0, exitedAt: undefined }) }
    }),
    Shutdown: handle(TaskService.shutdown, () => ({})),
  }
  const under = (service: string, methods: Record<string, TtrpcHandler>) =>
    Object.entries(methods).map(([name, handler]) => [`${service}/${name}`, handler] as const)
  const methods = new Map([
    ...under('containerd.runtime.sandbox.v1.Sandbox', sandbox),
    ...under('containerd.task.v3.Task', task),
  ])
  await TtrpcServer.listen({ path: address, methods, log })
  process.send?.('serving')
}
