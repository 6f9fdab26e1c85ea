// In which order the exits of one task's processes are told.
import { setImmediate } from 'node:timers/promises'
import pino from 'pino'
import t, { type Test } from 'tap'
import type { Emission } from '../../../plugins/kit/plugin.js'
import { Exits } from '../../../plugins/runtime/exits.js'
import { History } from '../../../plugins/runtime/history.js'

const stdio = { stdin: '', stdout: '', stderr: '', terminal: false }
const exit = (pid: number) => ({ pid, status: 1, at: { seconds: 5n, nanos: 0 } })

/** A task with an init process and others that run; the exits that reached the supervisor, by process. */
function task(t: Test, others: Record<string, number>) {
  const history = new History(t.testdir())
  history.record({ kind: 'started', execId: '', pid: 1 })
  for (const [execId, pid] of Object.entries(others)) {
    history.record({ kind: 'added', execId, stdio })
    if (pid !== 0) history.record({ kind: 'started', execId, pid })
  }
  const told: string[] = []
  const emit = async ({ id }: Emission) => {
    await setImmediate()
    told.push(id?.split('/')[3] || 'init')
    return 1n
  }
  const context = { emit, log: pino({ level: 'silent' }), signal: new AbortController().signal }
  return { history, told, exits: new Exits({ namespace: 'n', id: 'c' }, history, context) }
}

t.test('the exit of an init process is told after those of the others, whichever a shim tells first', async t => {
  const { exits, told, history } = task(t, { x1: 2, x2: 3, neverStarted: 0 })
  await exits.hear('', exit(1)) // answered: the shim tells of the next one only then
  t.same(history.processes.get('')?.exit, exit(1), 'and written down')
  await exits.hear('x2', exit(3))
  t.same(told, ['x2'])
  await exits.hear('x1', exit(2))
  await exits.allTold()
  t.same(told, ['x2', 'x1', 'init'])
})

t.test('one that is just being started is waited for too, until it is known not to run', async t => {
  const { exits, told } = task(t, { x: 0 })
  const settled = exits.starting('x')
  exits.reportSoon('', exit(1))
  await setImmediate()
  await setImmediate()
  t.same(told, [])
  settled()
  await exits.allTold()
  t.same(told, ['init'])
})

t.test('what an earlier run did not manage to tell is told in that order', async t => {
  const { exits, told, history } = task(t, { x: 2 })
  for (const [execId, pid] of [['', 1] as const, ['x', 2] as const])
    history.record({ kind: 'exited', execId, ...exit(pid) })
  exits.repeatUntold()
  await exits.allTold()
  t.same(told, ['x', 'init'])
})
