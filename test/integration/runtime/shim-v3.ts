// A shim of the newer kind, as small as it gets: it prints JSON and serves version 3 of the Task API for one process.
// Debian has none, so this stands in for one; what it runs is real.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync } from 'node:fs'
import { join } from 'node:path'
import { pino } from 'pino'
import { type TtrpcHandler, TtrpcServer } from '../../../plugins/runtime/ttrpc/server.js'
import { TaskService } from '../../../proto/gen/containerd/task/v2/shim.js'
import { Status } from '../../../proto/gen/containerd/v1/types/task.js'

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
  const exit = () => ({
    exitStatus: main?.signalCode ? 137 : (main?.exitCode ?? 0),
    exitedAt: { seconds: 1n, nanos: 0 },
  })
  const isOver = () => main !== undefined && (main.exitCode !== null || main.signalCode !== null)
  const state = () => (isOver() ? Status.STOPPED : main ? Status.RUNNING : Status.CREATED)
  const pid = () => main?.pid ?? process.pid
  const methods: Record<string, TtrpcHandler> = {
    Connect: handle(TaskService.connect, () => ({ shimPid: process.pid, taskPid: pid(), version: '3' })),
    Create: handle(TaskService.create, () => ({ pid: pid() })),
    Start: handle(TaskService.start, () => {
      main = spawn('sleep', ['100'])
      ended = once(main, 'exit')
      return { pid: pid() }
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
      ...{ id, bundle, pid: pid(), status: state(), stdin: '', stdout: '', stderr: '', terminal: false, execId: '' },
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
  await TtrpcServer.listen({ path: address, methods: new Map(served), log: pino({ level: 'silent' }) })
  process.send?.('serving')
}
