// Keeping a task as its container's labels say: what follows from which labels, states and times.
import t from 'tap'
import { containerMachine } from '../../../services/supervisor/domain/container/machine.js'
import { isRefusal } from '../../../services/supervisor/domain/decision.js'
import { type Restart, restartFailed, watchRestart } from '../../../services/supervisor/domain/restart/decide.js'
import { logOf, mayRestart } from '../../../services/supervisor/domain/restart/labels.js'
import { restartMachine } from '../../../services/supervisor/domain/restart/machine.js'
import { taskMachine } from '../../../services/supervisor/domain/task/machine.js'
import { formatNanos, nanosOf, parseTimestamp } from '../../../services/supervisor/domain/time.js'
import type { Labels } from '../../../services/supervisor/domain/values.js'
import { container, exit, record, restart, task } from './facts.js'
import { holdsTo, lived } from './given.js'

const { RestartScheduled, RestartBegun, RestartDone, RestartFailed } = restart
const label = (labels: Labels) =>
  Object.fromEntries(Object.entries(labels).map(([name, value]) => [`containerd.io/restart.${name}`, value]))

const second = 1_000_000_000n
const exitedAt = nanosOf(parseTimestamp(exit.at) ?? { seconds: 0n, nanos: 0 })

t.test('a restart moves as the table says, and in no other way', async t => {
  holdsTo(
    t,
    restartMachine,
    {
      absent: { RestartScheduled: 'waiting' },
      waiting: { RestartBegun: 'restarting', RestartCancelled: 'absent' },
      restarting: { RestartDone: 'resting', RestartFailed: 'waiting' },
      resting: { RestartScheduled: 'waiting', RestartCancelled: 'absent' },
    },
    {
      absent: [],
      waiting: [RestartScheduled],
      restarting: [RestartScheduled, RestartBegun],
      resting: [RestartScheduled, RestartBegun, RestartDone],
    },
    restart,
  )
  t.ok(restartMachine.awaitsAnswer('restarting'))
})

const running = [task.TaskCreateRequested, task.TaskCreated, task.TaskStartRequested, task.TaskStarted]
const stopped = [...running, task.TaskExited]

interface Given {
  labels: Labels
  task?: readonly (typeof task)[keyof typeof task][]
  restart?: Restart
  now?: bigint
}

/** The facts that follow, by type; with what the first says. */
function follows({ labels, task: history = [], restart = restartMachine.absent, now = exitedAt }: Given) {
  const watched = {
    container: lived(containerMachine, [
      { ...container.ContainerCreated, container: { ...record, labels: label(labels) } },
    ]),
    task: lived(taskMachine, history),
    restart,
  }
  const decision = watchRestart('default', 'redis', watched, now)
  return isRefusal(decision) ? [] : decision.facts.map(({ event }) => event)
}

const types = (given: Given) => follows(given).map(({ type }) => type)

t.test('an end is followed by a start, the sooner the longer it lasted', async t => {
  const labels = { status: 'running' }
  const due = (seconds: bigint) => formatNanos(exitedAt + seconds * second)
  t.match(follows({ labels, task: stopped }), [{ type: 'RestartScheduled', action: 'start', due: due(1n), attempt: 0 }])
  const resting = (attempt: number, lastedSeconds: bigint): Restart => {
    const at = formatNanos(exitedAt - lastedSeconds * second)
    return lived(restartMachine, [{ ...RestartScheduled, attempt }, RestartBegun, { ...RestartDone, at }])
  }
  t.match(follows({ labels, task: stopped, restart: resting(0, 2n) }), [{ attempt: 1, due: due(2n) }])
  t.match(follows({ labels, task: stopped, restart: resting(2, 2n) }), [{ attempt: 3, due: due(8n) }])
  t.match(follows({ labels, task: stopped, restart: resting(9, 2n) }), [{ attempt: 10, due: due(10n) }])
  t.match(follows({ labels, task: stopped, restart: resting(9, 20n) }), [{ attempt: 0, due: due(1n) }])
  t.match(follows({ labels }), [{ type: 'RestartScheduled', due: due(10n) }], 'its client may be about to make a task')
})

t.test('when it is due it is begun and counted, unless somebody else was faster', async t => {
  const waiting = lived(restartMachine, [{ ...RestartScheduled, due: exit.at }])
  const labels = { status: 'running', count: '4' }
  t.same(follows({ labels, task: stopped, restart: waiting, now: exitedAt - 1n }), [], 'not yet')
  t.match(follows({ labels, task: stopped, restart: waiting }), [
    { type: 'RestartBegun' },
    { type: 'ContainerUpdated', container: { labels: label({ status: 'running', count: '5' }) } },
  ])
  t.same(types({ labels, task: running, restart: waiting }), ['RestartCancelled'])
  t.same(types({ labels: {}, task: stopped, restart: waiting }), ['RestartCancelled'], 'it is not wanted any more')
  const deleting = [...stopped, task.TaskDeleteRequested]
  t.same(
    types({ labels, task: deleting, restart: waiting, now: exitedAt - 1n }),
    [],
    'a task that goes changes nothing',
  )
  const restarting = lived(restartMachine, [RestartScheduled, RestartBegun])
  t.same(types({ labels, task: stopped, restart: restarting }), [], 'one at a time')
})

t.test('a task that shall be stopped is, and one that somebody works on is left to them', async t => {
  const labels = { status: 'stopped' }
  t.match(follows({ labels, task: running }), [{ type: 'RestartScheduled', action: 'stop', due: exit.at }])
  t.same(types({ labels, task: stopped }), [])
  t.same(types({ labels }), [])
  for (const history of [running.slice(0, 1), running.slice(0, 2), running.slice(0, 3)])
    t.same(types({ labels: { status: 'running' }, task: history }), [])
  t.same(types({ labels: { status: 'paused' }, task: stopped }), [], 'containerd knows two wishes')
})

t.test('a failure is tried again, later each time', async t => {
  const restarting = lived(restartMachine, [{ ...RestartScheduled, attempt: 1 }, RestartBegun])
  const failed = restartFailed('redis', restarting, 'because', exitedAt)
  t.match(failed, { ...RestartFailed, attempt: 2, due: formatNanos(exitedAt + 4n * second) })
})

t.test('policies are read as containerd reads them', async t => {
  const may = (policy: string | undefined, status: number, more: Labels = {}) =>
    mayRestart(label({ ...(policy !== undefined && { policy }), ...more }), status)
  for (const policy of [undefined, '', 'always', 'unless-stopped']) t.ok(may(policy, 0), `${policy}`)
  t.notOk(may('unless-stopped', 1, { 'explicitly-stopped': 'true' }))
  t.ok(may('unless-stopped', 1, { 'explicitly-stopped': 'no' }))
  t.notOk(may('on-failure', 0))
  t.ok(may('on-failure', 1, { count: '100' }))
  t.ok(may('on-failure:2', 1, { count: '1' }))
  t.notOk(may('on-failure:2', 1, { count: '2' }))
  for (const policy of ['no', 'always:2', 'on-failure:x', 'on-failure:', 'on-failure:1:2'])
    t.notOk(may(policy, 1), `${policy}`)
})

t.test('output goes where the label says', async t => {
  t.equal(logOf(label({ loguri: 'binary:///bin/logger?a=b' })), 'binary:///bin/logger?a=b')
  t.equal(logOf(label({ logpath: '/var/log/x' })), 'file:///var/log/x')
  t.equal(logOf({}), '')
})
