// Sandboxes by gRPC, whose shim serves containerd.runtime.sandbox.v1: stored, made, run in, found again after a crash.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { status } from '@grpc/grpc-js'
import t from 'tap'
import {
  Container,
  ContainersService as Containers,
} from '../../proto/gen/containerd/services/containers/v1/containers.js'
import {
  ControllerService as Controller,
  ControllerCreateRequest,
  ControllerUpdateRequest,
  StoreService as Store,
} from '../../proto/gen/containerd/services/sandbox/v1/sandbox.js'
import {
  CreateTaskRequest,
  DeleteTaskRequest,
  GetRequest,
  KillRequest,
  StartRequest,
  TasksService as Tasks,
  WaitRequest,
} from '../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { Sandbox } from '../../proto/gen/containerd/types/sandbox.js'
import { HistoryRequest, EventsService as PurserEvents } from '../../proto/gen/purser/events/v1/events.js'
import { alive, processes, signal } from '../harness/process.js'
import { purserOnly, supervisor } from '../harness/supervisor.js'
import { until } from '../harness/wait.js'
import { compileSandboxStandIn } from '../integration/runtime/standIn.js'

// containerd has these services since 1.7.
if (purserOnly !== false) t.pass('containerd 1.6 has no sandboxes')
else {
  const runtime = await compileSandboxStandIn(t.testdir({}))
  const host = await supervisor(t)
  const spec = {
    typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/Spec',
    value: Buffer.from('{"process":{}}'),
  }
  const sandboxer = 'shim'

  const topics = async (id: string) => {
    const { events } = await host.call(PurserEvents.history, HistoryRequest.fromPartial({ container: id }))
    return events.flatMap(({ topic }) => (topic.startsWith('/sandboxes/') ? [topic] : []))
  }
  const create = (sandboxId: string, change: Partial<ControllerCreateRequest> = {}) =>
    host.call(Controller.create, ControllerCreateRequest.fromPartial({ sandboxId, sandboxer, ...change }))
  const start = (sandboxId: string) => host.call(Controller.start, { sandboxId, sandboxer })
  const state = (sandboxId: string) => host.call(Controller.status, { sandboxId, sandboxer, verbose: true })
  const wait = (sandboxId: string) => host.call(Controller.wait, { sandboxId, sandboxer })
  const stop = (sandboxId: string) => host.call(Controller.stop, { sandboxId, sandboxer, timeoutSecs: 5 })
  const shutdown = (sandboxId: string) => host.call(Controller.shutdown, { sandboxId, sandboxer })
  const bundleOf = (id: string) => join(host.state, 'sandboxes', 'bundles', 'default', id)
  const stored = (sandboxId: string) => ({
    sandbox: Sandbox.fromPartial({ sandboxId, sandboxer, spec, runtime: { name: runtime } }),
  })
  const shimOf = (id: string) => {
    const shim = processes().find(
      ({ command }) => command.includes(id) && command.at(-1) === 'serve' && command.includes(host.address),
    )
    if (!shim) throw new Error(`${id} has no shim`)
    return shim
  }

  t.test('a sandbox is stored, made, started, asked, stopped and shut down', async t => {
    const id = host.id('pod')
    await host.call(Store.create, stored(id))
    t.same(await create(id), { sandboxId: id })
    await t.rejects(create(id), { code: status.ALREADY_EXISTS })
    const started = await start(id)
    t.match(started, { sandboxId: id, pid: Number, createdAt: { seconds: BigInt }, address: /\.sock$/, version: 3 })
    t.ok(alive(started.pid))
    t.match(await state(id), { pid: started.pid, state: 'SANDBOX_READY', info: { shim: /\d+/ }, version: 3 })
    t.match(await host.call(Controller.platform, { sandboxId: id, sandboxer }), {
      platform: { architecture: 'sandboxed' },
    })
    t.match(await host.call(Controller.metrics, { sandboxId: id, sandboxer }), { metrics: { id } })
    await host.call(Controller.update, ControllerUpdateRequest.fromPartial({ sandboxId: id, sandboxer }))
    const ended = wait(id)
    await stop(id)
    t.match(await ended, { exitStatus: 137, exitedAt: { seconds: BigInt } })
    t.match(await wait(id), { exitStatus: 137 }, 'also for who asks later')
    t.match(await state(id), { pid: started.pid, state: 'SANDBOX_NOTREADY' })
    await shutdown(id)
    await t.rejects(state(id), { code: status.NOT_FOUND })
    t.notOk(existsSync(bundleOf(id)))
    await host.call(Store.delete, { sandboxId: id })
    t.same(await topics(id), ['/sandboxes/create', '/sandboxes/start', '/sandboxes/exit'])
  })

  t.test('a controller that is not there, a sandbox that is not, and one that is refused, say so', async t => {
    const id = host.id('refused')
    await t.rejects(create(id, { sandboxer: '' }), { code: status.INVALID_ARGUMENT })
    await t.rejects(create(id, { sandboxer: 'x' }), { code: status.NOT_FOUND, details: /sandbox controller by x/ })
    await t.rejects(create(id), { code: status.INVALID_ARGUMENT, details: /has no runtime/ })
    await t.rejects(create(id, { sandbox: Sandbox.fromPartial({ runtime: { name: 'io.no.such.v1' } }) }), {
      code: status.NOT_FOUND,
      details: /containerd-shim-such-v1/,
    })
    await t.rejects(create(id, { ...stored(id), annotations: { refuse: 'because' } }), {
      code: status.INTERNAL,
      details: /it shall not be: because/,
    })
    t.notOk(existsSync(bundleOf(id)), 'nothing is left of it')
    for (const call of [start, state, wait, stop, shutdown]) await t.rejects(call(id), { code: status.NOT_FOUND })
  })

  t.test('containers run in the shim of their sandbox, and with it are found again after a kill -9', async t => {
    const id = host.id('shared')
    const inside = host.id('inside')
    await create(id, stored(id))
    const { pid } = await start(id)
    const shim = shimOf(id)
    const container = { id: inside, runtime: { name: 'io.containerd.runc.v2' }, spec, sandbox: id }
    await host.call(Containers.create, { container: Container.fromPartial(container) })
    await host.call(Tasks.create, CreateTaskRequest.fromPartial({ containerId: inside }))
    const task = await host.call(Tasks.start, StartRequest.fromPartial({ containerId: inside }))
    t.same(
      processes()
        .filter(({ command }) => command.at(-1) === 'serve' && command.includes(host.address))
        .map(({ pid }) => pid),
      [shim.pid],
      'no other shim was started',
    )
    // The plugin host outlives the supervisor for a while; both are ended in turn.
    for (const both of [false, true]) {
      const plugins = host.daemon('plugin-host')
      await host.kill()
      if (both && plugins) signal(plugins, 'SIGKILL')
      await host.start()
      t.match(await state(id), { pid, state: 'SANDBOX_READY', info: { shim: String(shim.pid) } })
      t.match(await host.call(Tasks.get, GetRequest.fromPartial({ containerId: inside })), {
        process: { pid: task.pid, status: 2 },
      })
    }
    await host.call(Tasks.kill, KillRequest.fromPartial({ containerId: inside, signal: 9 }))
    t.match(await host.call(Tasks.wait, WaitRequest.fromPartial({ containerId: inside })), { exitStatus: 137 })
    await host.call(Tasks.delete, DeleteTaskRequest.fromPartial({ containerId: inside }))
    await host.call(Containers.delete, { id: inside })
    t.match(await state(id), { state: 'SANDBOX_READY' }, 'the shim lives on for its sandbox')
    await shutdown(id)
    t.notOk(alive(shim.pid))
    t.same(await topics(id), ['/sandboxes/create', '/sandboxes/start', '/sandboxes/exit'])
  })

  t.test('a sandbox whose shim dies has ended, also when nobody watched', async t => {
    for (const watched of [true, false]) {
      const id = host.id(`dies-${watched}`)
      await create(id, stored(id))
      const { pid } = await start(id)
      const shim = shimOf(id)
      const plugins = host.daemon('plugin-host')
      if (!watched) {
        await host.kill()
        if (plugins) signal(plugins, 'SIGKILL')
      }
      signal(shim, 'SIGKILL')
      if (!watched) await host.start()
      t.match(await wait(id), { exitStatus: 255 })
      t.match(await state(id), { state: 'SANDBOX_NOTREADY' })
      await until('what the shim ran to be ended', () => !alive(pid))
      await t.rejects(start(id), { code: status.FAILED_PRECONDITION, details: /it is stopped/ })
      await shutdown(id)
      t.notOk(existsSync(bundleOf(id)))
    }
  })

  t.test('nothing is left on the machine', async t => {
    await host.stop()
    t.same(await host.nothingLeft(), [])
  })
}
