// Containers whose labels say that they are to be kept running: `nerdctl run --restart` sets them, `ctr run --label` too.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import {
  ContainersService,
  UpdateContainerRequest,
} from '../../proto/gen/containerd/services/containers/v1/containers.js'
import { busyboxImage } from '../harness/image.js'
import { alive } from '../harness/process.js'
import { purserOnly, supervisor } from '../harness/supervisor.js'
import { table } from '../harness/table.js'
import { until } from '../harness/wait.js'

const host = await supervisor(t)
const image = await host.load()
const prefix = 'containerd.io/restart.'
const skip = purserOnly && 'containerd 1.6 knows no policies, and counts nothing'

/** A detached container with restart labels; answers its id. */
async function run(name: string, labels: Record<string, string>, script: string, from = image): Promise<string> {
  const id = host.id(name)
  const flags = Object.entries(labels).flatMap(([label, value]) => ['--label', `${prefix}${label}=${value}`])
  await host.ok('run', '-d', ...flags, from, id, 'sh', '-c', script)
  return id
}

async function taskOf(id: string) {
  const row = table(await host.ok('tasks', 'ls')).find(({ TASK }) => TASK === id)
  return row && { pid: Number(row.PID), status: row.STATUS }
}

async function labelsOf(id: string): Promise<Record<string, string>> {
  const { container } = await host.call(ContainersService.get, { id })
  return container?.labels ?? {}
}

async function relabel(id: string, labels: Record<string, string>): Promise<void> {
  const named = Object.fromEntries(Object.entries(labels).map(([name, value]) => [`${prefix}${name}`, value]))
  const updateMask = Object.keys(named).map(name => `labels.${name}`)
  await host.call(
    ContainersService.update,
    UpdateContainerRequest.fromPartial({ container: { id, labels: named }, updateMask }),
  )
}

const lines = (path: string) => (existsSync(path) ? readFileSync(path, 'utf8').trim().split('\n') : [])
const patience = { timeoutMs: 30_000 }

/** The next process of a container that is kept running. */
async function nextTask(id: string, before: number) {
  let found: Awaited<ReturnType<typeof taskOf>>
  await until(
    `${id} to run again`,
    async () => {
      found = await taskOf(id)
      return found?.status === 'RUNNING' && found.pid !== before
    },
    patience,
  )
  return found?.pid ?? 0
}

async function remove(id: string): Promise<void> {
  await relabel(id, { status: 'stopped' })
  await until(`${id} to be stopped`, async () => [undefined, 'STOPPED'].includes((await taskOf(id))?.status), patience)
  // A restart that was under way when the label changed may still come to its end, and is stopped then.
  const goes = async () => {
    await host.ctr('tasks', 'rm', '--force', id)
    return (await host.ctr('containers', 'rm', id)).code === 0
  }
  await until(`${id} to be removed`, goes, patience)
}

t.test('one that is killed runs again, its output in its log, and stops when its label says so', async t => {
  const log = join(host.directory, 'killed.log')
  const id = await run('killed', { status: 'running', loguri: `file://${log}` }, 'echo up; exec sleep 60')
  const first = (await taskOf(id))?.pid ?? 0
  await host.ok('tasks', 'kill', '--signal', 'KILL', id)
  const second = await nextTask(id, first)
  t.match(alive(second)?.command, ['sleep', '60'])
  await until('the log of the second', () => lines(log).length === 1)
  t.same(lines(log), ['up'], 'the first had the streams of the client that ran it')
  if (!skip) t.match(await labelsOf(id), { [`${prefix}count`]: '1' })
  await remove(id)
  t.notOk(alive(second), 'it was ended by a label')
})

t.test('policies: how often, and not when somebody stopped it', { skip }, async t => {
  const [few, stopped, content] = await Promise.all([
    run('few', { status: 'running', policy: 'on-failure:2' }, 'exit 3'),
    run('stopped', { status: 'running', policy: 'unless-stopped' }, 'exec sleep 60'),
    run('content', { status: 'running', policy: 'on-failure' }, 'exit 0'),
  ])
  await relabel(stopped, { 'explicitly-stopped': 'true' })
  await host.ok('tasks', 'kill', '--signal', 'KILL', stopped)
  await until('two starts more', async () => (await labelsOf(few))[`${prefix}count`] === '2', patience)
  await until('the last end', async () => (await taskOf(few))?.status === 'STOPPED', patience)
  const restarted = await Promise.all([stopped, content].map(async id => (await labelsOf(id))[`${prefix}count`]))
  t.same(restarted, [undefined, undefined])
  for (const id of [few, stopped, content]) await remove(id)
})

t.test('a supervisor that was killed restarts what ended meanwhile', { skip }, async () => {
  const id = await run('meanwhile', { status: 'running' }, 'exec sleep 60')
  const pid = (await taskOf(id))?.pid ?? 0
  await host.kill()
  process.kill(pid, 'SIGKILL')
  await host.start()
  const next = await nextTask(id, pid)
  // In the middle of the next restart: it waits, or is under way, when the supervisor is killed again.
  process.kill(next, 'SIGKILL')
  await until('its end', async () => (await taskOf(id))?.status !== 'RUNNING')
  await host.kill()
  await host.start()
  await nextTask(id, next)
  await remove(id)
})

t.test('labels of an image restart nothing, and name no program', { skip }, async t => {
  const trap = join(host.directory, 'trap')
  const Labels = {
    [`${prefix}status`]: 'running',
    [`${prefix}loguri`]: `file://${trap}`,
    'org.opencontainers.image.title': 'harmless',
  }
  const hostile = await host.load(await busyboxImage({ name: 'docker.io/library/hostile:test', config: { Labels } }))
  const id = await run('hostile', {}, 'exit 1', hostile)
  const labels = await labelsOf(id)
  t.equal(labels['org.opencontainers.image.title'], 'harmless', 'others are copied by the client as ever')
  t.same(
    Object.keys(labels).filter(name => name.startsWith(prefix)),
    [],
  )
  const own = await run('own', { policy: 'always' }, 'exit 1', hostile)
  t.match(await labelsOf(own), { [`${prefix}policy`]: 'always' }, "its maker's own are kept")
  t.equal((await taskOf(id))?.status, 'STOPPED')
  t.notOk(existsSync(trap))
  for (const name of [id, own]) await remove(name)
})

t.test('nothing is left', async t => {
  await host.stop()
  t.same(await host.nothingLeft(), [])
})
