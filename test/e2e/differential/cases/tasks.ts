// Tasks: what is refused in each state, by tasks that stand; and what processes do, by tasks of each case's own.
import { ContainersService } from '../../../../proto/gen/containerd/services/containers/v1/containers.js'
import { TasksService } from '../../../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { Any } from '../../../../proto/gen/google/protobuf/any.js'
import type { Case, Stage } from '../stage.js'
import { createRequest, processOf, shell, specOf, states } from '../standing.js'

/** A call about a container of the standing ones: once for each state, and for one that there is not. */
function inEach(name: string, act: (at: Stage, containerId: string, of: { namespace: string }) => Promise<unknown>) {
  return [...states, 'none'].map(
    (state): Case => ({
      name: `tasks: ${name} when it is ${state}`,
      steps: at => act(at, state, { namespace: at.standing.namespace }),
    }),
  )
}

/** The same for the states in which it changes nothing. */
const inThese = (which: string[], ...[name, act]: Parameters<typeof inEach>) =>
  inEach(name, act).filter(({ name }) => which.some(state => name.endsWith(` ${state}`)))

const none = { containerId: 'none' }
const exec = (execId: string, args: string[]) => ({ execId, spec: specOf('Process', processOf(args)) })

async function make(at: Stage, id: string, script: string, extra?: object): Promise<void> {
  const container = shell(id, at.scene.rootfs, at.namespace, script, extra)
  await at.do(ContainersService.create, { container })
  await at.do(TasksService.create, { ...createRequest, containerId: id })
}

async function run(at: Stage, id: string, script: string, extra?: object): Promise<void> {
  await make(at, id, script, extra)
  await at.do(TasksService.start, { containerId: id })
}

const exited = (at: Stage, containerId: string, execId = '') => at.call(TasksService.wait, { containerId, execId })

async function ran(at: Stage, id: string, script: string): Promise<void> {
  await make(at, id, script)
  const ended = at.do(TasksService.wait, { containerId: id })
  await at.do(TasksService.start, { containerId: id })
  await ended
}

const ending = (name: string, script: string, signal?: number): Case => ({
  name: `tasks: ${name}`,
  heavy: true,
  async steps(at) {
    await make(at, 'c', script)
    const ended = exited(at, 'c')
    await at.call(TasksService.start, { containerId: 'c' })
    if (signal !== undefined) await at.call(TasksService.kill, { containerId: 'c', signal })
    await ended
    await at.call(TasksService.get, { containerId: 'c' })
    await at.call(TasksService.delete, { containerId: 'c' })
    await at.call(TasksService.get, { containerId: 'c' })
  },
})

export const tasks: Case[] = [
  ...inEach('get', (at, containerId, of) => at.call(TasksService.get, { containerId }, of)),
  ...inEach('get an exec that is not there', (at, containerId, of) =>
    at.call(TasksService.get, { containerId, execId: 'e' }, of),
  ),
  ...inEach('list of processes', async (at, containerId, of) => {
    const pids = at.do(TasksService.listPids, { containerId }, of)
    await at.watch(
      'Tasks/ListPids',
      pids.then(({ processes }) => processes.length),
    )
  }),
  ...inThese(['running', 'paused', 'stopped', 'none', 'bare'], 'start', (at, containerId, of) =>
    at.call(TasksService.start, { containerId }, of),
  ),
  ...inEach('start of an exec that is not there', (at, containerId, of) =>
    at.call(TasksService.start, { containerId, execId: 'e' }, of),
  ),
  ...inThese(['running', 'created', 'paused', 'stopped', 'none'], 'create', (at, containerId, of) =>
    at.call(TasksService.create, { ...createRequest, containerId }, of),
  ),
  ...inThese(['running', 'paused', 'none', 'bare'], 'delete', (at, containerId, of) =>
    at.call(TasksService.delete, { containerId }, of),
  ),
  ...inEach('delete of an exec that is not there', (at, containerId, of) =>
    at.call(TasksService.deleteProcess, { containerId, execId: 'e' }, of),
  ),
  ...inThese(['none', 'bare'], 'delete of a process without an exec id', (at, containerId, of) =>
    at.call(TasksService.deleteProcess, { containerId }, of),
  ),
  ...inEach('signal 0', (at, containerId, of) => at.call(TasksService.kill, { containerId, signal: 0 }, of)),
  ...inThese(['stopped', 'none', 'bare'], 'kill', (at, containerId, of) =>
    at.call(TasksService.kill, { containerId, signal: 9 }, of),
  ),
  ...inThese(['stopped', 'none', 'bare'], 'kill of all', (at, containerId, of) =>
    at.call(TasksService.kill, { containerId, signal: 9, all: true }, of),
  ),
  ...inThese(['running', 'paused'], 'a signal that is none', (at, containerId, of) =>
    at.call(TasksService.kill, { containerId, signal: 99 }, of),
  ),
  ...inEach('kill of an exec that is not there', (at, containerId, of) =>
    at.call(TasksService.kill, { containerId, execId: 'e', signal: 9 }, of),
  ),
  ...inThese(['created', 'paused', 'stopped', 'none', 'bare'], 'exec', (at, containerId, of) =>
    at.call(TasksService.exec, { containerId, ...exec('e', ['true']) }, of),
  ),
  ...inThese(['running'], 'exec without an id', (at, containerId, of) =>
    at.call(TasksService.exec, { containerId, ...exec('', ['true']) }, of),
  ),
  ...inThese(['running'], 'exec with a slash in the id', (at, containerId, of) =>
    at.call(TasksService.exec, { containerId, ...exec('a/b', ['true']) }, of),
  ),
  ...inEach('resize of its terminal', (at, containerId, of) =>
    at.call(TasksService.resizePty, { containerId, width: 80, height: 24 }, of),
  ),
  ...inEach('resize of an exec’s that is not there', (at, containerId, of) =>
    at.call(TasksService.resizePty, { containerId, execId: 'e', width: 80, height: 24 }, of),
  ),
  ...inEach('close of its input', (at, containerId, of) =>
    at.call(TasksService.closeIo, { containerId, stdin: true }, of),
  ),
  ...inEach('close of an exec’s input that is not there', (at, containerId, of) =>
    at.call(TasksService.closeIo, { containerId, execId: 'e', stdin: true }, of),
  ),
  ...inThese(['created', 'paused', 'stopped', 'none', 'bare'], 'pause', (at, containerId, of) =>
    at.call(TasksService.pause, { containerId }, of),
  ),
  ...inThese(['running', 'created', 'stopped', 'none', 'bare'], 'resume', (at, containerId, of) =>
    at.call(TasksService.resume, { containerId }, of),
  ),
  // Not of those that run: containerd's shim dies of it.
  ...inThese(['stopped', 'none', 'bare'], 'update without resources', (at, containerId, of) =>
    at.call(TasksService.update, { containerId }, of),
  ),
  ...inThese(['stopped', 'none', 'bare'], 'update with resources of a wrong type', (at, containerId, of) =>
    at.call(TasksService.update, { containerId, resources: Any.fromPartial({ typeUrl: 'nonsense' }) }, of),
  ),
  ...inThese(['stopped', 'none', 'bare'], 'checkpoint', (at, containerId, of) =>
    at.call(TasksService.checkpoint, { containerId }, of),
  ),
  ...inThese(['stopped', 'none', 'bare'], 'wait', (at, containerId, of) =>
    at.call(TasksService.wait, { containerId }, of),
  ),
  // Not when it is created: containerd waits for ever.
  ...inThese(
    ['running', 'paused', 'stopped', 'none', 'bare'],
    'wait for an exec that is not there',
    (at, containerId, of) => at.call(TasksService.wait, { containerId, execId: 'e' }, of),
  ),
  ...inThese(['running', 'none'], 'metrics by its id', async (at, containerId, of) => {
    const metrics = at.do(TasksService.metrics, { filters: [`id==${containerId}`] }, of)
    await at.watch(
      'Tasks/Metrics',
      metrics.then(({ metrics }) => metrics.map(({ id, data }) => [id, data?.typeUrl ?? ''])),
    )
  }),
  {
    name: 'tasks: list of those that stand',
    async steps(at) {
      const { tasks } = await at.do(TasksService.list, {}, { namespace: at.standing.namespace })
      at.see('tasks', tasks.map(({ id, status, containerId, pid }) => [id, status, containerId, pid > 0]).sort())
    },
  },
  { name: 'tasks: list of a namespace that has none', steps: at => at.call(TasksService.list, {}) },
  { name: 'tasks: metrics of a namespace that has none', steps: at => at.call(TasksService.metrics, {}) },
  {
    name: 'tasks: metrics with a filter that is none',
    steps: at => at.call(TasksService.metrics, { filters: ['id=='] }),
  },
  {
    name: 'tasks: wait until the deadline',
    async steps(at) {
      const of = { namespace: at.standing.namespace, timeoutMs: 200 }
      const wait = at.do(TasksService.wait, { containerId: 'running' }, of)
      at.see(
        'it ends with the deadline',
        await wait.then(
          () => 'answered',
          ({ code }: { code: number }) => code,
        ),
      )
    },
  },
  {
    name: 'tasks: without a namespace',
    async steps(at) {
      const of = { namespace: '' }
      await at.call(TasksService.create, none, of)
      await at.call(TasksService.start, none, of)
      await at.call(TasksService.delete, none, of)
      await at.call(TasksService.deleteProcess, none, of)
      await at.call(TasksService.get, none, of)
      await at.call(TasksService.list, {}, of)
      await at.call(TasksService.kill, none, of)
      await at.call(TasksService.exec, none, of)
      await at.call(TasksService.resizePty, none, of)
      await at.call(TasksService.closeIo, none, of)
      await at.call(TasksService.pause, none, of)
      await at.call(TasksService.resume, none, of)
      await at.call(TasksService.listPids, none, of)
      await at.call(TasksService.checkpoint, none, of)
      await at.call(TasksService.update, none, of)
      await at.call(TasksService.metrics, {}, of)
      await at.call(TasksService.wait, none, of)
    },
  },
  {
    name: 'tasks: without an id',
    async steps(at) {
      await at.call(TasksService.create, {})
      await at.call(TasksService.start, {})
      await at.call(TasksService.get, {})
      await at.call(TasksService.delete, {})
      await at.call(TasksService.kill, {})
      await at.call(TasksService.wait, {})
    },
  },
  ending('a process that ends with 0', 'exit 0'),
  ending('a process that ends with 7', 'exit 7'),
  ending('a process that a signal ends', 'exec sleep 60', 9),
  {
    name: 'tasks: a program that is not there',
    heavy: true,
    async steps(at) {
      const container = shell('c', at.scene.rootfs, at.namespace, '')
      const spec = JSON.parse(container.spec?.value.toString() ?? '')
      spec.process.args = ['/no/such/program']
      await at.do(ContainersService.create, { container: { ...container, spec: specOf('Spec', spec) } })
      await at.call(TasksService.create, { ...createRequest, containerId: 'c' })
      await at.call(TasksService.get, { containerId: 'c' })
      await at.call(TasksService.start, { containerId: 'c' })
    },
  },
  {
    name: 'tasks: a runtime that is not there',
    heavy: true,
    async steps(at) {
      const container = shell('c', at.scene.rootfs, at.namespace, '')
      const runtime = { name: 'io.containerd.nobody.v1', options: undefined }
      await at.do(ContainersService.create, { container: { ...container, runtime } })
      await at.call(TasksService.create, { ...createRequest, containerId: 'c' })
    },
  },
  {
    name: 'tasks: a spec that is no spec',
    heavy: true,
    async steps(at) {
      const container = shell('c', at.scene.rootfs, at.namespace, '')
      const spec = Any.fromPartial({ typeUrl: container.spec?.typeUrl ?? '', value: Buffer.from('nonsense') })
      await at.do(ContainersService.create, { container: { ...container, spec } })
      await at.call(TasksService.create, { ...createRequest, containerId: 'c' })
      await at.call(TasksService.get, { containerId: 'c' })
    },
  },
  {
    name: 'tasks: a root filesystem that cannot be mounted',
    heavy: true,
    async steps(at) {
      await at.do(ContainersService.create, { container: shell('c', at.scene.rootfs, at.namespace, '') })
      const rootfs = [{ type: 'bind', source: '/no/such/place', target: '', options: ['rbind'] }]
      await at.call(TasksService.create, { ...createRequest, containerId: 'c', rootfs })
      await at.call(TasksService.get, { containerId: 'c' })
    },
  },
  {
    name: 'tasks: output to a place that is not there',
    heavy: true,
    async steps(at) {
      await at.do(ContainersService.create, { container: shell('c', at.scene.rootfs, at.namespace, '') })
      await at.call(TasksService.create, { ...createRequest, containerId: 'c', stdout: 'nonsense://x' })
      await at.call(TasksService.get, { containerId: 'c' })
    },
  },
  {
    name: 'tasks: deleted before it was started',
    heavy: true,
    async steps(at) {
      // Whether the SIGKILL of the waiting process is told as an exit is a matter of moments.
      at.order = 'chance'
      await make(at, 'c', 'exec sleep 60')
      await at.do(TasksService.delete, { containerId: 'c' })
      await at.call(TasksService.get, { containerId: 'c' })
    },
  },
  {
    name: 'tasks: killed before it was started',
    heavy: true,
    async steps(at) {
      await make(at, 'c', 'exec sleep 60')
      const ended = exited(at, 'c')
      await at.call(TasksService.kill, { containerId: 'c', signal: 9 })
      await ended
      await at.call(TasksService.start, { containerId: 'c' })
      await at.call(TasksService.delete, { containerId: 'c' })
    },
  },
  {
    name: 'tasks: paused, refused, resumed',
    heavy: true,
    async steps(at) {
      await run(at, 'c', 'exec sleep 60')
      await at.call(TasksService.pause, { containerId: 'c' })
      await at.call(TasksService.get, { containerId: 'c' })
      await at.call(TasksService.pause, { containerId: 'c' })
      await at.call(TasksService.exec, { containerId: 'c', ...exec('e', ['true']) })
      await at.call(TasksService.resume, { containerId: 'c' })
      await at.call(TasksService.resume, { containerId: 'c' })
    },
  },
  {
    name: 'tasks: resources of a running one are changed',
    heavy: true,
    async steps(at) {
      await run(at, 'c', 'exec sleep 60')
      const update = (value: object) =>
        at.call(TasksService.update, { containerId: 'c', resources: specOf('LinuxResources', value) })
      await update({ pids: { limit: 50 } })
      await update({ memory: { limit: 64 << 20 } })
      await update({ cpu: { shares: 512 } })
      await update({ memory: { limit: 1 } })
    },
  },
  {
    name: 'tasks: several wait for one exit',
    heavy: true,
    async steps(at) {
      await run(at, 'c', 'exec sleep 60')
      const waits = Array.from({ length: 5 }, () => at.do(TasksService.wait, { containerId: 'c' }))
      await at.do(TasksService.kill, { containerId: 'c', signal: 9 })
      at.see('exits', await Promise.all(waits))
    },
  },
  {
    name: 'tasks: the record of a container outlives its task, and makes another',
    heavy: true,
    async steps(at) {
      await ran(at, 'c', 'exit 1')
      await at.call(TasksService.create, { ...createRequest, containerId: 'c' })
      await at.do(TasksService.delete, { containerId: 'c' })
      await at.call(TasksService.create, { ...createRequest, containerId: 'c' })
    },
  },
  {
    name: 'tasks: the container’s record goes while its task runs',
    heavy: true,
    async steps(at) {
      await run(at, 'c', 'exec sleep 60')
      await at.call(ContainersService.delete, { id: 'c' })
      await at.call(ContainersService.get, { id: 'c' })
      await at.call(TasksService.get, { containerId: 'c' })
      // With it containerd finds the task again.
      const container = shell('c', at.scene.rootfs, at.namespace, 'exec sleep 60')
      await at.call(ContainersService.create, { container })
    },
  },
  {
    name: 'tasks: kill of what has exited',
    heavy: true,
    async steps(at) {
      await ran(at, 'c', 'exit 0')
      for (const signal of [0, 9, 15, 99]) await at.call(TasksService.kill, { containerId: 'c', signal })
      await at.call(TasksService.kill, { containerId: 'c', signal: 9, all: true })
    },
  },
  {
    name: 'execs: added, started, ended, deleted',
    heavy: true,
    async steps(at) {
      await run(at, 'c', 'exec sleep 60')
      const of = { containerId: 'c', execId: 'e' }
      await at.call(TasksService.exec, { containerId: 'c', ...exec('e', ['sh', '-c', 'exit 4']) })
      await at.call(TasksService.get, of)
      await at.call(TasksService.exec, { containerId: 'c', ...exec('e', ['true']) })
      const ended = exited(at, 'c', 'e')
      await at.call(TasksService.start, of)
      await ended
      await at.call(TasksService.get, of)
      await at.call(TasksService.start, of)
      await at.call(TasksService.kill, { ...of, signal: 9 })
      await exited(at, 'c', 'e')
      await at.call(TasksService.deleteProcess, of)
      await at.call(TasksService.deleteProcess, of)
      await at.call(TasksService.get, of)
    },
  },
  {
    name: 'execs: one that runs',
    heavy: true,
    async steps(at) {
      await run(at, 'c', 'exec sleep 60')
      const of = { containerId: 'c', execId: 'e' }
      await at.call(TasksService.exec, { containerId: 'c', ...exec('e', ['sleep', '60']) })
      await at.call(TasksService.start, of)
      await at.call(TasksService.start, of)
      await at.call(TasksService.deleteProcess, of)
      await at.call(TasksService.resizePty, { ...of, width: 80, height: 24 })
      await at.call(TasksService.closeIo, { ...of, stdin: true })
      await at.call(TasksService.kill, { ...of, signal: 0 })
      await at.call(TasksService.kill, { ...of, signal: 99 })
      const ended = exited(at, 'c', 'e')
      await at.call(TasksService.kill, { ...of, signal: 9 })
      await ended
    },
  },
  {
    name: 'execs: deleted before it was started',
    heavy: true,
    async steps(at) {
      await run(at, 'c', 'exec sleep 60')
      await at.call(TasksService.exec, { containerId: 'c', ...exec('e', ['true']) })
      await at.call(TasksService.kill, { containerId: 'c', execId: 'e', signal: 9 })
      await at.call(TasksService.deleteProcess, { containerId: 'c', execId: 'e' })
      await at.call(TasksService.get, { containerId: 'c', execId: 'e' })
    },
  },
  {
    name: 'execs: a program that is not there',
    heavy: true,
    async steps(at) {
      await run(at, 'c', 'exec sleep 60')
      const of = { containerId: 'c', execId: 'e' }
      await at.call(TasksService.exec, { containerId: 'c', ...exec('e', ['/no/such/program']) })
      await at.call(TasksService.start, of)
      await at.call(TasksService.get, of)
      await at.call(TasksService.deleteProcess, of)
    },
  },
  {
    name: 'execs: with a spec that is none',
    heavy: true,
    async steps(at) {
      await run(at, 'c', 'exec sleep 60')
      const { typeUrl } = specOf('Process', {})
      await at.call(TasksService.exec, { containerId: 'c', execId: 'b', spec: { typeUrl, value: Buffer.from('{') } })
    },
  },
  {
    name: 'execs: end with the task',
    heavy: true,
    async steps(at) {
      await run(at, 'c', 'exec sleep 60')
      await at.do(TasksService.exec, { containerId: 'c', ...exec('e', ['sleep', '60']) })
      await at.do(TasksService.start, { containerId: 'c', execId: 'e' })
      const both = [exited(at, 'c', 'e')]
      const init = at.do(TasksService.wait, { containerId: 'c' })
      await at.call(TasksService.kill, { containerId: 'c', signal: 9 })
      await Promise.all(both)
      await init
      await at.call(TasksService.deleteProcess, { containerId: 'c', execId: 'e' })
    },
  },
  {
    name: 'execs: on a task that was stopped',
    heavy: true,
    async steps(at) {
      await run(at, 'c', 'exec sleep 60')
      await at.do(TasksService.exec, { containerId: 'c', ...exec('e', ['true']) })
      const ended = at.do(TasksService.wait, { containerId: 'c' })
      await at.do(TasksService.kill, { containerId: 'c', signal: 9 })
      await ended
      await at.call(TasksService.start, { containerId: 'c', execId: 'e' })
      await at.call(TasksService.exec, { containerId: 'c', ...exec('f', ['true']) })
    },
  },
]
