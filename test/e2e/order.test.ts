// In which order the lives of many short containers are told, to subscribers and in JetStream:
// PURSER_ORDER_CONTAINERS of them, PURSER_ORDER_WIDTH at a time.
import { randomBytes } from 'node:crypto'
import t, { type Test } from 'tap'
import { ContainersService } from '../../proto/gen/containerd/services/containers/v1/containers.js'
import { EventsService } from '../../proto/gen/containerd/services/events/v1/events.js'
import { ExecProcessRequest, TasksService } from '../../proto/gen/containerd/services/tasks/v1/tasks.js'
import type { Envelope } from '../../proto/gen/containerd/types/event.js'
import { history } from '../harness/history.js'
import { removeNewCgroups } from '../harness/namespaceCgroups.js'
import { busyboxRoot } from '../harness/rootfs.js'
import { hostKind, supervisor } from '../harness/supervisor.js'
import { Arrivals } from '../harness/wait.js'
import { decoded } from './differential/plain.js'
import { createRequest, processOf, shell, specOf } from './differential/standing.js'

const count = Number(process.env.PURSER_ORDER_CONTAINERS ?? 80)
const width = Number(process.env.PURSER_ORDER_WIDTH ?? 16)

const namespace = `o${randomBytes(5).toString('hex')}`
removeNewCgroups(t, namespace)
const host = await supervisor(t, { nats: 'embedded' })
const rootfs = await busyboxRoot()
const of = { namespace, timeoutMs: 120_000 }
const events = new Arrivals<Envelope>()
const subscription = host.rpc.stream(EventsService.subscribe, { filters: [`namespace==${namespace}`] }, of)
subscription.on('data', (envelope: Envelope) => events.push(envelope)).on('error', () => undefined)

interface Life {
  script: string
  /** Namespaces and the like that differ from every other container's. */
  linux?: object
  /** What is done once it is started; its end is awaited after that. */
  meanwhile?(id: string): Promise<unknown>
}

const untilTerm = "trap 'exit 5' TERM; sleep 60 & wait"
const lives: Record<string, Life> = {
  'ends at once': { script: 'exit 3' },
  'ends at once, while a process is added': {
    script: 'exit 0',
    meanwhile: id => exec(id, 'exit 1').catch(() => undefined), // it may come too late
  },
  'is killed, while a process that was added ends': {
    script: 'exec sleep 60',
    async meanwhile(id) {
      await exec(id, 'exit 1')
      await kill(id)
    },
  },
  'is ended by a process that was added and lives on': {
    script: untilTerm,
    meanwhile: id => exec(id, 'while :; do kill 1; sleep 0.05; done'),
  },
  'is killed, and its processes are not in a pid namespace that ends with it': {
    script: 'exec sleep 60',
    linux: { namespaces: ['ipc', 'uts', 'mount'].map(type => ({ type })) },
    async meanwhile(id) {
      await Promise.all([exec(id, 'exec sleep 60', 'x1'), exec(id, 'exec sleep 60', 'x2')])
      await kill(id)
    },
  },
}

async function exec(containerId: string, script: string, execId = 'x'): Promise<void> {
  const spec = specOf('Process', processOf(['sh', '-c', script]))
  await host.rpc.call(TasksService.exec, ExecProcessRequest.fromPartial({ containerId, execId, spec }), of)
  await host.rpc.call(TasksService.start, { containerId, execId }, of)
}

const kill = (containerId: string) =>
  host.rpc.call(TasksService.kill, { containerId, execId: '', signal: 9, all: false }, of)

async function live(id: string, { script, linux, meanwhile }: Life): Promise<void> {
  await host.rpc.call(ContainersService.create, { container: shell(id, rootfs, namespace, script, linux) }, of)
  await host.rpc.call(TasksService.create, { ...createRequest, containerId: id }, of)
  const ended = host.rpc.call(TasksService.wait, { containerId: id, execId: '' }, of)
  await host.rpc.call(TasksService.start, { containerId: id, execId: '' }, of)
  await meanwhile?.(id)
  await ended
  await host.rpc.call(TasksService.delete, { containerId: id }, of)
  await host.rpc.call(ContainersService.delete, { id }, of)
}

/** What was told of one task, "exit x" for a process that was added to it. */
type Story = string[]

/** What is wrong with the order of a story; undefined for a good one. */
function flaw(story: Story, id: string): string | undefined {
  const told = (what: string) => story.indexOf(what)
  const twice = story.filter((what, index) => told(what) !== index)
  if (twice.length > 0) return `told twice: ${twice}`
  const own = story.filter(what => !what.includes(' ') || what === `exit ${id}`)
  if (own.join() !== ['create', 'start', `exit ${id}`, 'delete'].join()) return `the task itself: ${own}`
  for (const execId of new Set(story.filter(what => what.startsWith('exec-')).map(what => what.split(' ')[1]))) {
    const [added, started, exited] = ['exec-added', 'exec-started', 'exit'].map(what => told(`${what} ${execId}`))
    if (added === undefined || started === undefined || exited === undefined) continue
    if (added === -1) return `${execId} was not told to be added`
    if ((started === -1) !== (exited === -1)) return `${execId} started, or ended, without the other`
    if (started === -1) continue // it came too late
    const order = [told('start'), added, started, exited, told(`exit ${id}`)]
    if (order.some((place, index) => index > 0 && place < (order[index - 1] ?? 0))) return `the order around ${execId}`
  }
  return undefined
}

const topics = ['create', 'start', 'exit', 'delete', 'exec-added', 'exec-started']

/** Of the topics above, by container. */
function storiesOf(all: Iterable<{ topic: string; data: Record<string, unknown> }>): Map<string, Story> {
  const stories = new Map<string, Story>()
  for (const { topic, data } of all) {
    const [, , what = ''] = topic.split('/')
    if (!topic.startsWith('/tasks/') || !topics.includes(what)) continue
    const id = String(data.containerId)
    const process = what === 'exit' ? ` ${data.id}` : what.startsWith('exec-') ? ` ${data.execId}` : ''
    stories.set(id, [...(stories.get(id) ?? []), what + process])
  }
  return stories
}

// containerd 1.6 tells these in the order in which its shim reaps them.
const names = Object.keys(lives).filter(name => !lives[name]?.linux || hostKind === 'purserd')
const ids = Array.from({ length: count }, (_, n) => ({ id: `c${n}`, name: names[n % names.length] ?? '' }))

t.test(`${count} containers live, ${width} at a time`, async t => {
  const waiting = [...ids]
  const failures: string[] = []
  const lane = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      const { id, name } = next
      const life = lives[name]
      if (life) await live(id, life).catch((error: unknown) => failures.push(`${id}, which ${name}: ${error}`))
    }
  }
  await Promise.all(Array.from({ length: width }, lane))
  t.same(failures, [])
})

function check(t: Test, stories: Map<string, Story>): void {
  t.equal(stories.size, count)
  const flaws = ids.flatMap(({ id, name }) => {
    const story = stories.get(id) ?? []
    const what = flaw(story, id)
    return what === undefined ? [] : [`${id}, which ${name}: ${what}: ${story.join(', ')}`]
  })
  t.same(flaws, [])
}

t.test('subscribers hear create, start, exit, delete, and of what was added before its container ends', async t => {
  const deletions = () => events.items.filter(({ topic }) => topic === '/containers/delete').length
  await events.first('the last deletion', () => deletions() === count)
  check(t, storiesOf(events.items.map(({ topic, event }) => ({ topic, data: record(decoded(event).value) }))))
})

t.test('JetStream has it in the same order', { skip: hostKind === 'containerd' }, async t => {
  const told = (await history(host)).filter(({ subject }) => subject.includes(`.${namespace}.tasks.`))
  check(t, storiesOf(told.map(({ subject, data }) => ({ topic: `/tasks/${subject.split('.')[4]}`, data }))))
  const places = told.map(({ sequence }) => sequence)
  t.same(
    places,
    [...places].sort((a, b) => (a < b ? -1 : 1)),
  )
})

t.test('nothing of them is left', async t => {
  await host.stop()
  t.same(await host.nothingLeft(), [])
})

function record(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? { ...value } : {}
}
