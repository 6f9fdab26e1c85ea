// What clients do at once to one task: each host may let another win, but what came of it has to be one of a few things.
import { ContainersService } from '../../../../proto/gen/containerd/services/containers/v1/containers.js'
import { TasksService } from '../../../../proto/gen/containerd/services/tasks/v1/tasks.js'
import type { Case, Stage } from '../stage.js'
import { createRequest, processOf, shell, specOf } from '../standing.js'

const c = { containerId: 'c' }
const record = (at: Stage, script: string) =>
  at.do(ContainersService.create, { container: shell('c', at.scene.rootfs, at.namespace, script) })
const make = async (at: Stage, script: string) => {
  await record(at, script)
  await at.do(TasksService.create, { ...createRequest, ...c })
}
const start = (at: Stage) => at.do(TasksService.start, c)
const times = <T>(count: number, act: (n: number) => Promise<T>) => Array.from({ length: count }, (_, n) => act(n))

/** The task is over, whatever came first. */
async function over(at: Stage): Promise<void> {
  const { tasks } = await at.do(TasksService.list, {})
  if (tasks.length === 0) return
  await at.do(TasksService.kill, { ...c, signal: 9 }).catch(() => undefined)
}

const isOneOf = (outcome: string, allowed: string[]) => (allowed.includes(outcome) ? 'one of them' : outcome)
const outcome = (call: Promise<unknown>) =>
  call.then(
    () => 'OK',
    (error: { code: number; details: string }) => `${error.code} ${error.details}`.replace(/^(\d+) .*/s, '$1'),
  )

/** Started at once: 100 are the full proof. */
const starts = Number(process.env.PURSER_RACE_STARTS ?? 16)

const all: Case[] = [
  {
    name: 'races: many tasks are created and started at once',
    heavy: true,
    async steps(at) {
      const outcomes = await Promise.all(
        times(starts, async n => {
          const of = { containerId: `c${n}` }
          const container = shell(of.containerId, at.scene.rootfs, at.namespace, `exit ${n}`)
          await at.do(ContainersService.create, { container })
          await at.do(TasksService.create, { ...createRequest, ...of }, { timeoutMs: 60_000 })
          const ended = at.do(TasksService.wait, of, { timeoutMs: 60_000 })
          await at.do(TasksService.start, of, { timeoutMs: 60_000 })
          const { exitStatus } = await ended
          await at.do(TasksService.delete, of, { timeoutMs: 60_000 })
          return exitStatus
        }),
      )
      at.see('statuses', outcomes)
    },
  },
  {
    name: 'races: 20 create one task',
    heavy: true,
    async steps(at) {
      await record(at, 'exec sleep 60')
      const creates = times(20, () => outcome(at.do(TasksService.create, { ...createRequest, ...c })))
      at.see('one created', (await Promise.all(creates)).filter(code => code === 'OK').length)
    },
  },
  {
    name: 'races: 20 start one task',
    heavy: true,
    async steps(at) {
      await make(at, 'exec sleep 60')
      const starts = await Promise.all(times(20, () => outcome(start(at))))
      at.see('one started', starts.filter(code => code === 'OK').length)
    },
  },
  {
    name: 'races: 20 delete one task',
    heavy: true,
    async steps(at) {
      await make(at, 'exit 0')
      const ended = at.do(TasksService.wait, c)
      await start(at)
      await ended
      const deletes = await Promise.all(times(20, () => outcome(at.do(TasksService.delete, c))))
      at.see(
        'outcomes',
        deletes.map(code => isOneOf(code, ['OK', '2', '5', '9'])),
      )
      at.see('it is gone', await outcome(at.do(TasksService.get, c)))
    },
  },
  {
    name: 'races: 20 kill one task',
    heavy: true,
    async steps(at) {
      await make(at, 'exec sleep 60')
      await start(at)
      const ended = at.do(TasksService.wait, c)
      const kills = await Promise.all(times(20, () => outcome(at.do(TasksService.kill, { ...c, signal: 9 }))))
      at.see('at least one', kills.includes('OK'))
      at.see(
        'others',
        kills.filter(code => code !== 'OK' && code !== '5'),
      )
      await ended
    },
  },
  {
    name: 'races: 10 add one exec',
    heavy: true,
    async steps(at) {
      await make(at, 'exec sleep 60')
      await start(at)
      const spec = specOf('Process', processOf(['true']))
      await at.race(
        'adds',
        times(10, () => at.do(TasksService.exec, { ...c, execId: 'e', spec })),
      )
    },
  },
  {
    name: 'races: delete with start',
    heavy: true,
    async steps(at) {
      await make(at, 'exec sleep 60')
      const [started, deleted] = await Promise.all([outcome(start(at)), outcome(at.do(TasksService.delete, c))])
      at.see('start', isOneOf(started, ['OK', '5', '9', '2']))
      at.see('delete', isOneOf(deleted, ['OK', '2', '5', '9']))
      at.see('not both', !(started === 'OK' && deleted === 'OK'))
      await over(at)
    },
  },
  {
    name: 'races: kill with exit',
    heavy: true,
    async steps(at) {
      await make(at, 'exit 3')
      const ended = at.do(TasksService.wait, c)
      await start(at)
      const kill = await outcome(at.do(TasksService.kill, { ...c, signal: 15 }))
      at.see('kill', isOneOf(kill, ['OK', '5']))
      const { exitStatus } = await ended
      at.see('status', isOneOf(String(exitStatus), ['3', '143']))
    },
  },
  {
    name: 'races: exec with exit',
    heavy: true,
    async steps(at) {
      await make(at, 'sleep 0.1; exit 3')
      const ended = at.do(TasksService.wait, c)
      await start(at)
      const spec = specOf('Process', processOf(['true']))
      const outcomes = await Promise.all(
        times(5, async n => {
          const added = await outcome(at.do(TasksService.exec, { ...c, execId: `e${n}`, spec }))
          if (added !== 'OK') return added
          return outcome(at.do(TasksService.start, { ...c, execId: `e${n}` }))
        }),
      )
      at.see(
        'outcomes',
        outcomes.map(code => isOneOf(code, ['OK', '2', '5', '9'])),
      )
      at.see('status', (await ended).exitStatus)
    },
  },
  {
    name: 'races: wait with delete',
    heavy: true,
    async steps(at) {
      await make(at, 'exit 5')
      const waits = times(5, () => at.do(TasksService.wait, c))
      await start(at)
      const statuses = (await Promise.all(waits)).map(({ exitStatus }) => exitStatus)
      await at.do(TasksService.delete, c)
      at.see('statuses', statuses)
    },
  },
]

export const races: Case[] = all.map(({ steps, ...one }) => ({
  ...one,
  steps(at) {
    at.order = 'chance'
    return steps(at)
  },
}))
