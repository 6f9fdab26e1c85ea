// A shim of the newer kind, as small as it gets: it prints JSON and serves version 3 of the Task API for one process.
// Debian has none, so this stands in for one; what it runs is real.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pino } from 'pino'
import { TtrpcClient } from '../../../plugins/runtime/ttrpc/client.js'
import { type TtrpcHandler, TtrpcServer } from '../../../plugins/runtime/ttrpc/server.js'
import { TaskExit } from '../../../proto/gen/containerd/events/task.js'
import { ForwardRequest } from '../../../proto/gen/containerd/services/events/ttrpc/v1/events.js'
import { TaskService } from '../../../proto/gen/containerd/task/v2/shim.js'
import { Status } from '../../../proto/gen/containerd/v1/types/task.js'

const log = pino({ level: 'silent' })
const argument = (name: string) => process.argv[process.argv.indexOf(name) + 1] ?? ''
const action = process.argv.at(-1)
const bundle = process.cwd()
const address = join(bundle, '..', '..', `${process.argv[process.argv.indexOf('-id') + 1]}.sock`)

/** The version that it announces, whatever it serves; 0 for one that never answers. */
const announced = Number(process.argv[2])

interface Codec<Request, Response> {
  requestDeserialize(bytes: Buffer): Request
  responseSerialize(response: Response): Buffer
}

const handle =
  <Request, Response>(codec: Codec<Request, Response>, answer: (request: Request) => Response | Promise<Response>) =>
  async (payload: Uint8Array) =>
    codec.responseSerialize(await answer(codec.requestDeserialize(Buffer.from(payload))))

if (action === 'start') {
  appendFileSync(join(bundle, 'asked'), process.env.MAX_SHIM_VERSION ?? '')
  const shim = spawn(process.execPath, [...process.argv.slice(1, -1), 'serve'], {
    detached: true,
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  })
  await once(shim, 'message')
  shim.disconnect()
  shim.unref()
  process.stdout.write(JSON.stringify({ version: announced || 3, address: `unix://${address}`, protocol: 'ttrpc' }))
}

if (action === 'serve') {
  let main: ChildProcess | undefined
  let ended: Promise<unknown> = Promise.resolve()
  /** The directory that it is restored from. */
  let image = ''
  let isFrozen = false
  const exit = () => ({
    exitStatus: main?.signalCode ? 137 : (main?.exitCode ?? 0),
    exitedAt: { seconds: 1n, nanos: 0 },
  })
  const isOver = () => main !== undefined && (main.exitCode !== null || main.signalCode !== null)
  const state = () => {
    if (isOver()) return Status.STOPPED
    if (!main) return Status.CREATED
    return isFrozen ? Status.PAUSED : Status.RUNNING
  }
  const pid = () => main?.pid ?? process.pid
  const methods: Record<string, TtrpcHandler> = {
    Connect: handle(TaskService.connect, () => ({ shimPid: process.pid, taskPid: pid(), version: '3' })),
    // As the runc shim: what is restored gets its process when it is started.
    Create: handle(TaskService.create, ({ checkpoint }) => {
      image = checkpoint
      return { pid: image === '' ? pid() : 0 }
    }),
    Start: handle(TaskService.start, () => {
      if (image !== '') writeFileSync(join(bundle, 'restored'), readFileSync(join(image, 'pages-1.img')))
      main = spawn('sleep', ['100'])
      ended = once(main, 'exit')
      void ended.then(() => tellExit(pid(), exit()))
      return { pid: pid() }
    }),
    Checkpoint: handle(TaskService.checkpoint, async ({ path }) => {
      isFrozen = true
      if (existsSync(join(bundle, 'hangs'))) await new Promise(() => undefined)
      if (existsSync(join(bundle, 'refuses'))) throw new Error('criu failed: type NOTIFY errno 0')
      writeFileSync(join(path, 'pages-1.img'), `the memory of ${pid()}`)
      if (existsSync(join(bundle, 'exits'))) main?.kill('SIGKILL')
      isFrozen = false
      return {}
    }),
    Resume: handle(TaskService.resume, () => {
      isFrozen = false
      return {}
    }),
    Kill: handle(TaskService.kill, () => {
      main?.kill('SIGKILL')
      return {}
    }),
    Wait: handle(TaskService.wait, async () => {
      await ended
      return exit()
    }),
    State: handle(TaskService.state, ({ id }) => ({
      ...{
        id,
        bundle,
        pid: image !== '' && !main ? 0 : pid(),
        status: state(),
        stdin: '',
        stdout: '',
        stderr: '',
        terminal: false,
        execId: '',
      },
      ...(isOver() ? exit() : { exitStatus: 0, exitedAt: undefined }),
    })),
    Delete: handle(TaskService.delete, () => ({ pid: pid(), ...exit() })),
    Shutdown: handle(TaskService.shutdown, () => {
      setImmediate(() => process.exit(0))
      return {}
    }),
  }
  if (announced === 0) methods.Connect = () => new Promise(() => undefined)
  const served = Object.entries(methods).map(([name, handler]) => [`containerd.task.v3.Task/${name}`, handler] as const)
  await TtrpcServer.listen({ path: address, methods: new Map(served), log })
  process.send?.('serving')
}

/** Whoever does not hear it asks when it is back. */
async function tellExit(pid: number, { exitStatus, exitedAt }: Pick<TaskExit, 'exitStatus' | 'exitedAt'>) {
  const [namespace, id] = [argument('-namespace'), argument('-id')]
  const value = Buffer.from(TaskExit.encode({ containerId: id, id, pid, exitStatus, exitedAt }).finish())
  const event = { typeUrl: 'containerd.events.TaskExit', value }
  const envelope = { timestamp: exitedAt, namespace, topic: '/tasks/exit', event, sequence: 0n }
  try {
    const client = await TtrpcClient.connect(process.env.TTRPC_ADDRESS ?? '', { deadlineMs: 1000, namespace, log })
    const payload = ForwardRequest.encode({ envelope }).finish()
    await client.call('containerd.services.events.ttrpc.v1.Events', 'Forward', payload, { deadlineMs: 5000 })
    client.close()
  } catch {
    // Nobody is there.
  }
}
