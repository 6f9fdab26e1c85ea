// What is told of a container's life: by ctr events, by Events.Subscribe, in JetStream, and as metrics.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import t from 'tap'
import { TaskExit } from '../../proto/gen/containerd/events/task.js'
import { EventsService, SubscribeRequest } from '../../proto/gen/containerd/services/events/v1/events.js'
import {
  HealthCheckRequest,
  HealthCheckResponse_ServingStatus,
  HealthService,
} from '../../proto/gen/grpc/health/v1/health.js'
import { run } from '../harness/ctr.js'
import type { PrintedEvent } from '../harness/events.js'
import { busyboxName } from '../harness/image.js'
import { listen } from '../harness/jetstream.js'
import { purserOnly, supervisor } from '../harness/supervisor.js'
import { until } from '../harness/wait.js'

const host = await supervisor(t, { nats: 'embedded', node: 'here' })
const events = await host.events()

/** Whether an event is about this container (or its snapshot). */
const about = (id: string) => (event: PrintedEvent) =>
  [event.event.id, event.event.container_id, event.event.key].includes(id)

/** Waits for the last event that is expected of a container, then answers the topics of all in their order. */
async function story(id: string, last: string): Promise<string[]> {
  await events.first(last, about(id))
  return events.topics(about(id))
}

const life = [
  '/snapshot/prepare',
  '/containers/create',
  '/tasks/create',
  '/tasks/start',
  '/tasks/exit',
  '/tasks/delete',
  '/snapshot/remove',
  '/containers/delete',
]

t.test('an image arrives: its layers are prepared and committed in order', async t => {
  await host.load()
  await until('both layers', () => events.topics().filter(topic => topic === '/snapshot/commit').length === 2)
  const topics = events.topics(({ topic }) => topic !== '/content/create')
  t.same(topics, ['/images/create', '/snapshot/prepare', '/snapshot/commit', '/snapshot/prepare', '/snapshot/commit'])
  t.match(
    events.all.find(({ topic }) => topic === '/images/create'),
    {
      namespace: 'default',
      event: { name: busyboxName },
    },
  )
})

t.test('a run is told from snapshot to removal in containerd’s order, with containerd’s fields', async t => {
  const id = host.id('life')
  await host.ctr('run', '--rm', '--label', 'a=b', busyboxName, id, 'sh', '-c', 'exit 7')
  t.same(await story(id, '/containers/delete'), life)
  const told = (topic: string) => events.all.filter(about(id)).find(event => event.topic === topic)?.event
  const pid = told('/tasks/start')?.pid
  t.match(told('/snapshot/prepare'), { key: id, parent: /^sha256:/ })
  t.match(told('/containers/create'), { id, image: busyboxName, runtime: { name: 'io.containerd.runc.v2' } })
  t.match(told('/tasks/create'), {
    container_id: id,
    bundle: /./,
    rootfs: [{ type: 'overlay' }],
    io: { stdin: /-stdin$/, stdout: /-stdout$/, stderr: /-stderr$/ },
    pid,
  })
  t.match(told('/tasks/exit'), { container_id: id, id, pid, exit_status: 7, exited_at: /^\d{4}-.*Z$/ })
  t.match(told('/tasks/delete'), { container_id: id, pid, exit_status: 7, exited_at: told('/tasks/exit')?.exited_at })
  t.same(told('/containers/delete'), { id })
})

t.test('a process that is added is told with its own id, and has no delete event', async t => {
  const id = host.id('added')
  await host.ok('run', '-d', busyboxName, id, 'sleep', '60')
  await host.ctr('tasks', 'exec', '--exec-id', 'extra', id, 'sh', '-c', 'exit 3')
  await host.ok('tasks', 'pause', id)
  await host.ok('tasks', 'resume', id)
  await host.ok('containers', 'label', id, 'x=y')
  await host.ok('tasks', 'kill', '--signal', 'KILL', id)
  await events.first('/tasks/exit', event => event.event.id === id)
  await host.ok('tasks', 'rm', id)
  await host.ok('containers', 'rm', id)
  await events.first('/containers/delete', about(id))
  const topics = events.topics(event => [event.event.id, event.event.container_id, event.event.key].includes(id))
  t.same(topics, [
    ...life.slice(0, 4),
    ...['/tasks/exec-added', '/tasks/exec-started', '/tasks/exit', '/tasks/paused', '/tasks/resumed'],
    '/containers/update',
    ...life.slice(4),
  ])
  const exits = events.all.filter(about(id)).filter(({ topic }) => topic === '/tasks/exit')
  t.match(exits, [
    { event: { container_id: id, id: 'extra', exit_status: 3 } },
    { event: { container_id: id, id, exit_status: 137 } },
  ])
})

t.test('a container that takes more memory than it may is told to have been killed for it', async t => {
  const id = host.id('hungry')
  const eat = 'x=a; while :; do x=$x$x; done'
  await host.ctr('run', '--rm', '--memory-limit', String(16 << 20), busyboxName, id, 'sh', '-c', eat)
  const topics = await story(id, '/containers/delete')
  t.ok(topics.includes('/tasks/oom'))
  t.match(
    events.all.filter(about(id)).find(({ topic }) => topic === '/tasks/exit'),
    { event: { exit_status: 137 } },
  )
})

t.test('images, namespaces and content are told too', async t => {
  const name = 'docker.io/library/told:1'
  await host.ok('images', 'tag', busyboxName, name)
  await host.ok('images', 'label', name, 'k=v')
  await host.ok('images', 'rm', name)
  await events.first('/images/delete', ({ event }) => event.name === name)
  t.same(
    events.topics(({ event }) => event.name === name),
    ['/images/create', '/images/update', '/images/delete'],
  )
  await host.ok('namespaces', 'create', 'told', 'k=v')
  await host.ok('namespaces', 'label', 'told', 'k=w')
  await host.ok('namespaces', 'rm', 'told')
  await events.first('/namespaces/delete', ({ event }) => event.name === 'told')
  // containerd tells of the first two in the caller's namespace; Purser of all in the one that they are about.
  const namespace = host.kind === 'purserd' ? 'told' : 'default'
  t.match(
    events.all.filter(({ topic }) => topic.startsWith('/namespaces/')),
    [
      { topic: '/namespaces/create', namespace, event: { name: 'told', labels: { k: 'v' } } },
      { topic: '/namespaces/update', namespace, event: { name: 'told', labels: { k: 'w' } } },
      { topic: '/namespaces/delete', namespace: 'told', event: { name: 'told' } },
    ],
  )
})

t.test('a subscription gets what its filters say, each event in its own type', async t => {
  const id = host.id('filtered')
  const filters = ['namespace==default,topic~=|^/tasks/|', 'topic=="/containers/delete"']
  const stream = host.rpc.stream(EventsService.subscribe, SubscribeRequest.fromPartial({ filters }))
  const seen: string[] = []
  const types: string[] = []
  const over = (async () => {
    for await (const { topic, event, namespace, timestamp } of stream) {
      seen.push(topic)
      types.push(event?.typeUrl ?? '')
      t.equal(namespace, 'default')
      t.ok((timestamp?.seconds ?? 0n) > 1_700_000_000n)
      if (topic === '/tasks/exit') t.match(TaskExit.decode(event?.value ?? Buffer.alloc(0)), { id, exitStatus: 4 })
      if (topic === '/containers/delete') return
    }
  })()
  await host.ctr('run', '--rm', busyboxName, id, 'sh', '-c', 'exit 4')
  await over
  t.same(seen, ['/tasks/create', '/tasks/start', '/tasks/exit', '/tasks/delete', '/containers/delete'])
  const names = ['TaskCreate', 'TaskStart', 'TaskExit', 'TaskDelete', 'ContainerDelete']
  t.same(
    types,
    names.map(name => `containerd.events.${name}`),
  )
})

t.test('a filter that cannot be read is refused', async t => {
  const refused = host.rpc.collect(EventsService.subscribe, SubscribeRequest.fromPartial({ filters: ['topic~=|['] }))
  await t.rejects(refused, { message: /filter.*invalid argument/ })
})

t.test('JetStream has every event once, in the journal’s order without a gap', { skip: purserOnly }, async t => {
  const relayed = await listen(t, host)
  const id = host.id('relayed')
  await host.ctr('run', '--rm', busyboxName, id, 'sh', '-c', 'exit 5')
  const last = `purser.here.default.containers.delete.${id}`
  await relayed.first(last, ({ subject }) => subject === last)
  const { items } = relayed
  const [first] = items
  t.same(
    items.map(({ sequence }) => sequence),
    items.map((_, index) => (first?.sequence ?? 0n) + BigInt(index)),
  )
  const [journal] = (first?.id ?? '').split('/')
  for (const { id, sequence } of items) t.equal(id, `${journal}/${sequence}`)
  t.same(
    // Purser's own topics are the wishes that it journals before it acts.
    items.map(({ subject }) => subject).filter(subject => subject.endsWith(`.${id}`) && !subject.includes('.purser.')),
    life.map(topic => `purser.here.default${topic.replaceAll('/', '.')}.${id}`),
  )
  const exit = items.find(({ subject }) => subject === `purser.here.default.tasks.exit.${id}`)
  t.match(exit?.headers, {
    'ce-specversion': '1.0',
    'ce-source': '/purser/here',
    'ce-subject': id,
    'ce-type': 'containerd.events.TaskExit',
  })
  t.match(exit?.data, { exitStatus: 5, containerId: id })
  const told = items.map(({ subject }) => subject)
  t.ok(
    told.some(subject => subject.startsWith('purser.here._.purser.plugins.')),
    'plugins are told as well',
  )
})

t.test('JetStream gets what happened while the supervisor was down, once', { skip: purserOnly }, async t => {
  const id = host.id('down')
  await host.ok('run', '-d', busyboxName, id, 'sh', '-c', 'sleep 0.5; exit 8')
  await host.kill()
  await until('the container to end', async () => (await run('pgrep', ['-f', `${id}$`]).end()).stdout === '')
  await host.start()
  const after = await listen(t, host)
  await after.first('the exit', ({ subject }) => subject.endsWith(`.tasks.exit.${id}`))
  const exits = after.items.filter(({ subject }) => subject.endsWith(`.tasks.exit.${id}`))
  t.match(exits, [{ data: { exitStatus: 8 } }])
  const sequences = after.items.map(({ sequence }) => sequence)
  t.same(
    sequences,
    sequences.map((_, index) => (sequences[0] ?? 0n) + BigInt(index)),
  )
  await host.ok('tasks', 'rm', id)
  await host.ok('containers', 'rm', id)
})

t.test('health is served as gRPC clients ask for it', async t => {
  t.match(await host.call(HealthService.check, HealthCheckRequest.fromPartial({})), {
    status: HealthCheckResponse_ServingStatus.SERVING,
  })
})

t.test(
  'metrics tell tasks, transitions, latencies and exits, in a form that promtool accepts',
  { skip: purserOnly },
  async t => {
    const id = host.id('measured')
    await host.ok('run', '-d', busyboxName, id, 'sleep', '60')
    const page = await host.metrics()
    for (const sample of [
      'purser_tasks{state="running"} 1',
      'purser_lifecycle_events_total{lifecycle="task",event="TaskStarted"} ',
      'purser_task_phase_duration_seconds_count{phase="create"} ',
      'purser_task_phase_duration_seconds_count{phase="start"} ',
      'purser_task_exits_total{code="8"} 1',
      'purser_journal_last_sequence ',
      'purser_journal_writable 1',
      'purser_relay_connected 1',
      'purser_relay_lag_events ',
      'purser_plugin_state{',
      'purser_plugin_call_duration_seconds_count{',
      'purser_grpc_requests_total{',
      'purser_process_resident_memory_bytes ',
    ])
      t.ok(page.includes(`\n${sample}`), sample)
    const promtool = '.cache/prometheus/usr/bin/promtool'
    if (!existsSync(promtool)) return t.comment('promtool is not there: deploy/setup.sh --test brings it')
    const check = spawnSync(promtool, ['check', 'metrics'], { input: page, encoding: 'utf8' })
    t.equal(check.status, 0, check.stdout + check.stderr)
    const health = await fetch(new URL('/healthz', host.launch.metricsUrl))
    t.equal(health.status, 200)
    await host.ok('tasks', 'rm', '--force', id)
    await host.ok('containers', 'rm', id)
  },
)
