// Which plugin gets a call: waiting, taking over, draining, going, and the order of what plugins emit.
import { pino } from 'pino'
import t from 'tap'
import { Code, failedPrecondition, unavailable } from '../../../plugins/kit/errors.js'
import type { Emit } from '../../../proto/gen/purser/plugins/v1/registry.js'
import { PluginDirectory } from '../../../services/supervisor/plugins/directory.js'
import { EmissionIntake } from '../../../services/supervisor/plugins/intake.js'
import type { CallObservation, PluginFacts } from '../../../services/supervisor/plugins/live.js'
import { type Scope, until } from '../../harness/wait.js'

const log = pino({ level: 'silent' })

const facts = (version: string): PluginFacts => ({
  kind: 'snapshotter',
  id: 'overlayfs',
  version,
  endpoint: `unix:///nowhere/${version}.sock`,
  capabilities: [],
  peer: 'pid=1,uid=0,gid=0',
})

t.test('a call waits for a plugin that is configured, and is told when it does not come', async t => {
  const directory = makeDirectory(t)
  await t.rejects(directory.find('snapshotter', 'overlayfs', { waitMs: 20 }), {
    code: Code.UNAVAILABLE,
    details: /snapshotter plugin "overlayfs" is not running \(it never registered\)/,
  })
  const waiting = directory.find('snapshotter', 'overlayfs')
  const plugin = directory.add(facts('1'), 1n)
  directory.ready(plugin, { root: '/x' })
  t.equal(await waiting, plugin)
  t.equal(await directory.find('snapshotter', 'overlayfs'), plugin)
})

t.test('a plugin that nobody ever spoke of is not waited for', async t => {
  await t.rejects(makeDirectory(t).find('snapshotter', 'zfs'), { code: Code.NOT_FOUND, details: /"zfs": not found/ })
})

t.test('a caller that leaves does not wait on', async t => {
  const leaving = new AbortController()
  const waiting = makeDirectory(t).find('snapshotter', 'overlayfs', { signal: leaving.signal })
  leaving.abort()
  await t.rejects(waiting, { code: Code.CANCELLED })
})

t.test('a newer registration takes over at once; the older one keeps its calls until they are over', async t => {
  const directory = makeDirectory(t)
  const older = directory.add(facts('1'), 1n)
  directory.ready(older, {})
  const end = older.begin('/x/Slow')
  const newer = directory.add(facts('2'), 2n)
  t.equal(await directory.find('snapshotter', 'overlayfs'), older, 'not before the newer one is ready')
  t.equal(directory.ready(newer, {}), older)
  t.equal(await directory.find('snapshotter', 'overlayfs'), newer)
  t.equal(older.state, 'draining')
  t.equal(await older.idle(20), false)
  const idle = older.idle(1000)
  end(Code.OK)
  t.equal(await idle, true)
  directory.end(older, 'left', 'replaced')
  t.equal(await directory.find('snapshotter', 'overlayfs'), newer, 'the end of the older one changes nothing')
})

t.test('an older registration that becomes ready late is not let in', async t => {
  const directory = makeDirectory(t)
  const [older, newer] = [directory.add(facts('1'), 1n), directory.add(facts('2'), 2n)]
  directory.ready(newer, {})
  t.equal(directory.ready(older, {}), older, 'it is the one that has to drain')
  t.equal(await directory.find('snapshotter', 'overlayfs'), newer)
})

t.test('when a plugin is gone, callers wait for it and hear why it is missing', async t => {
  const directory = makeDirectory(t)
  const plugin = directory.add(facts('1'), 1n)
  directory.ready(plugin, {})
  directory.end(plugin, 'lost', 'no sign of life for 15 s')
  await t.rejects(directory.find('snapshotter', 'overlayfs', { waitMs: 10 }), {
    code: Code.UNAVAILABLE,
    details: /lost: no sign of life for 15 s/,
  })
  t.match(directory.list(), [{ kind: 'snapshotter', id: 'overlayfs', state: 'lost', epoch: 1n }])
  const back = directory.add(facts('1'), 2n)
  directory.ready(back, {})
  t.equal(await directory.find('snapshotter', 'overlayfs'), back)
})

t.test('calls are counted and observed, once each', async t => {
  const observed: CallObservation[] = []
  const directory = makeDirectory(t, observation => observed.push(observation))
  const plugin = directory.add(facts('1'), 1n)
  const end = plugin.begin('/x/Prepare')
  t.equal(plugin.callsUnderWay, 1)
  end(Code.NOT_FOUND)
  end(Code.OK)
  t.equal(plugin.callsUnderWay, 0)
  t.match(observed, [{ kind: 'snapshotter', id: 'overlayfs', method: '/x/Prepare', code: Code.NOT_FOUND }])
  t.equal(observed.length, 1)
})

t.test('emissions keep their order while the journal refuses, and nonsense does not hold up the rest', async t => {
  const journaled: string[] = []
  const acknowledged: string[] = []
  let full = true
  const intake = new EmissionIntake({
    log,
    async journal({ id }) {
      if (id === 'nonsense') throw failedPrecondition('no such task')
      if (full) throw unavailable('the disk is full')
      journaled.push(id)
      return BigInt(journaled.length)
    },
    acknowledge: (id, sequence) => acknowledged.push(`${id}:${sequence}`),
  })
  t.teardown(() => intake.close())
  for (const id of ['a', 'nonsense', 'b']) intake.take(emit(id))
  await until('the journal to be tried', () => acknowledged.length === 1)
  intake.take(emit('c'))
  t.same(acknowledged, ['nonsense:0'])
  full = false
  await until('the rest to be journaled', () => acknowledged.length === 4)
  t.same(journaled, ['a', 'b', 'c'])
})

const emit = (id: string): Emit => ({ id, namespace: '', topic: '/x', timestamp: undefined, event: undefined })

function makeDirectory(scope: Scope, onCall?: (observation: CallObservation) => void): PluginDirectory {
  const directory = new PluginDirectory({
    log,
    expected: [{ kind: 'snapshotter', id: 'overlayfs' }],
    ...(onCall && { onCall }),
  })
  scope.teardown(() => directory.close())
  return directory
}
