// The metrics as Prometheus reads them, and the endpoint that serves them.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { createServer, request } from 'node:http'
import { connect } from 'node:net'
import { fileURLToPath } from 'node:url'
import pino from 'pino'
import t from 'tap'
import { createMetrics, type Metrics } from '../../../services/supervisor/metrics/metrics.js'
import { serveMetrics } from '../../../services/supervisor/metrics/server.js'
import type { RelayStatus } from '../../../services/supervisor/relay/relay.js'

const log = pino({ level: 'silent' })

const relayStatus: RelayStatus = {
  state: 'publishing',
  broker: 'x',
  stream: 'PURSER',
  cursor: 90n,
  lag: 10n,
  published: 90,
  duplicates: 1,
  released: 80n,
  connections: 2,
  republished: 4n,
  failures: new Map([['login', 2]]),
  dropped: 3n,
  problem: undefined,
}

const dropped = { compactions: 3, droppedSegments: 5, damagedPlaces: 0, tornEnds: 1 }

class Journal {
  readonly #stats = { appends: 100, bytes: 5000, flushes: 40, size: 1 << 20, segments: 2, ...dropped }
  stats = () => this.#stats
  health = () => ({ writable: true as const })
  first = () => 11n
  last() {
    return BigInt(this.#stats.appends)
  }
}

function fed(): Metrics {
  const metrics = createMetrics({
    version: '1.2.3',
    knownMethods: new Set(['containerd.services.tasks.v1.Tasks/Create']),
  })
  metrics.lifecycle('task', 'TaskStarted')
  metrics.lifecycle('task', 'TaskStarted')
  metrics.phase('create', 0.04)
  metrics.exited(0)
  metrics.exited(137)
  metrics.exited(-1)
  metrics.exited(4_294_967_295)
  metrics.flushed({ seconds: 0.0002 })
  const prepare = '/containerd.services.snapshots.v1.Snapshots/Prepare'
  metrics.pluginCall({ kind: 'snapshotter', id: 'overlayfs', method: prepare, code: 'OK', seconds: 0.002 })
  metrics.request({ service: 'containerd.services.tasks.v1.Tasks', method: 'Create', code: 'OK', seconds: 0.05 })
  metrics.request({ service: 'evil', method: String(Math.random()), code: 'UNIMPLEMENTED', seconds: 0.001 })
  metrics.watch({
    tasks: () =>
      new Map([
        ['running', 3],
        ['stopped', 1],
      ]),
    journal: new Journal(),
  })
  metrics.watch({
    relay: () => relayStatus,
    relayWaitingSince: async () => BigInt(Date.now() - 60_000) * 1_000_000n,
    feed: () => ({ history: 1, live: 2, fellBehind: 3, endedSlow: 4 }),
    plugins: () => [{ kind: 'snapshotter', id: 'overlayfs', state: 'ready' }],
  })
  return metrics
}

t.test('everything that was fed, before the instruments were loaded and at the scrape, is in the text', async t => {
  const text = await fed().text()
  const expected = [
    `purser_build_info{version="1.2.3",node_version="${process.version}"} 1`,
    'purser_tasks{state="running"} 3',
    'purser_lifecycle_events_total{lifecycle="task",event="TaskStarted"} 2',
    'purser_task_phase_duration_seconds_bucket{le="0.05",phase="create"} 1',
    'purser_task_exits_total{code="0"} 1',
    'purser_task_exits_total{code="137"} 1',
    'purser_task_exits_total{code="other"} 2',
    'purser_journal_flush_duration_seconds_count 1',
    'purser_journal_appends_total 100',
    'purser_journal_size_bytes 1048576',
    'purser_journal_segments 2',
    'purser_journal_compactions_total 3',
    'purser_journal_dropped_segments_total 5',
    'purser_journal_damaged_places 0',
    'purser_journal_torn_ends 1',
    'purser_journal_first_sequence 11',
    'purser_journal_last_sequence 100',
    'purser_journal_writable 1',
    'purser_relay_connected 1',
    'purser_relay_lag_events 10',
    'purser_relay_cursor 90',
    'purser_relay_released 80',
    'purser_relay_connections_total 2',
    'purser_relay_republished_total 4',
    'purser_relay_failures_total{reason="login"} 2',
    'purser_relay_published_total 90',
    'purser_relay_dropped_total 3',
    'purser_subscribers{state="history"} 1',
    'purser_subscribers{state="live"} 2',
    'purser_subscribers_fell_behind_total 3',
    'purser_subscribers_ended_slow_total 4',
    'purser_plugin_state{kind="snapshotter",id="overlayfs",state="ready"} 1',
    'purser_plugin_state{kind="snapshotter",id="overlayfs",state="lost"} 0',
    'purser_plugin_call_duration_seconds_count{kind="snapshotter",id="overlayfs",method="Snapshots/Prepare",code="OK"} 1',
    'purser_grpc_requests_total{service="containerd.services.tasks.v1.Tasks",method="Create",code="OK"} 1',
    'purser_grpc_requests_total{service="unknown",method="unknown",code="UNIMPLEMENTED"} 1',
    'purser_grpc_request_duration_seconds_count{service="containerd.services.tasks.v1.Tasks",method="Create"} 1',
  ]
  const lines = new Set(text.split('\n'))
  for (const line of expected) t.ok(lines.has(line), line)
  for (const line of lines) if (line !== '' && !/^(# (HELP|TYPE) )?purser_/.test(line)) t.fail(`not ours: ${line}`)
})

t.test('a second scrape tells the counters again, not their double, and states that are over are gone', async t => {
  const metrics = fed()
  await metrics.text()
  metrics.watch({ tasks: () => new Map([['stopped', 4]]), relay: () => undefined })
  const text = await metrics.text()
  t.match(text, /^purser_journal_appends_total 100$/m)
  t.match(text, /^purser_tasks\{state="stopped"\} 4$/m)
  t.notMatch(text, /state="running"/)
  t.notMatch(text, /^purser_relay_connected /m, 'no relay, no sample')
})

t.test("Prometheus' own lint has nothing to say", async t => {
  const result = spawnSync(promtool(), ['check', 'metrics'], { input: await fed().text(), encoding: 'utf8' })
  t.equal(result.error, undefined)
  t.equal(`${result.stdout}${result.stderr}`, '')
  t.equal(result.status, 0)
})

t.test('the README lists every metric with its type, and no other', async t => {
  const readme = readFileSync(new URL('../../../services/supervisor/metrics/README.md', import.meta.url), 'utf8')
  const listed = [...readme.matchAll(/^\| `(purser_\w+)` +\| (\w+) +\|/gm)].map(([, name, type]) => `${name} ${type}`)
  const served = [...(await fed().text()).matchAll(/^# TYPE (purser_\w+ \w+)$/gm)].map(([, type]) => type ?? '')
  const own = served.filter(type => !/^purser_(process|nodejs)_/.test(type))
  t.same(listed.sort(), own.sort())
})

t.test('labels from outside cannot grow without bound', async t => {
  const metrics = createMetrics({ version: '1' })
  await metrics.text()
  for (let index = 0; index < 5000; index++) {
    metrics.lifecycle('task', `Event${index}`)
    metrics.pluginCall({ kind: 'k', id: `id${index}`, method: '/a.B/C', code: 'OK', seconds: 0 })
  }
  const text = await metrics.text()
  t.equal(text.match(/^purser_lifecycle_events_total\{/gm)?.length, 1001)
  t.match(text, /^purser_lifecycle_events_total\{lifecycle="other",event="other"\} 4000$/m)
  t.equal(text.match(/^purser_plugin_call_duration_seconds_count\{/gm)?.length, 1001)
})

interface Answer {
  status: number | undefined
  type: string | undefined
  body: string
}

function ask(port: number, path: string, method = 'GET'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asked = request({ host: '127.0.0.1', port, path, method, agent: false }, response => {
      let body = ''
      response.setEncoding('utf8').on('data', text => {
        body += text
      })
      response.on('end', () => resolve({ status: response.statusCode, type: response.headers['content-type'], body }))
    })
    asked.on('error', reject).end()
  })
}

t.test('the endpoint answers what it has, and refuses the rest', async t => {
  const reasons: string[] = []
  const remarks = ['NATS is away; 3 events wait in the journal']
  const server = await serveMetrics({
    host: '127.0.0.1',
    port: 0,
    metrics: fed(),
    health: () => reasons,
    remarks: () => remarks,
    log,
  })
  t.teardown(() => server.close())
  const { port } = server
  const metrics = await ask(port, '/metrics')
  t.match(metrics, { status: 200, type: 'text/plain; version=0.0.4; charset=utf-8', body: /purser_build_info/ })
  t.match(await ask(port, '/metrics?x=1', 'HEAD'), { status: 200, body: '' })
  t.match(await ask(port, '/metrics', 'POST'), { status: 405 })
  t.match(await ask(port, '/'), { status: 404 })
  const healthy = await ask(port, '/healthz')
  t.match(healthy, { status: 200, type: 'application/json' })
  t.same(JSON.parse(healthy.body), { status: 'serving', reasons: [], remarks })
  reasons.push('the journal is full: free space')
  const ill = await ask(port, '/healthz')
  t.equal(ill.status, 503)
  t.same(JSON.parse(ill.body), { status: 'not serving', reasons, remarks })
})

t.test('a scrape that fails is an answer too, not an end', async t => {
  const metrics = fed()
  metrics.watch({
    tasks: () => {
      throw new Error('no tasks today')
    },
  })
  const server = await serveMetrics({ host: '127.0.0.1', port: 0, metrics, health: () => [], remarks: () => [], log })
  t.teardown(() => server.close())
  t.match(await ask(server.port, '/metrics'), { status: 500, body: /no tasks today/ })
  t.match(await ask(server.port, '/healthz'), { status: 200 })
})

t.test('huge headers are refused, and closing does not wait for idle connections', async t => {
  const server = await serveMetrics({
    host: '127.0.0.1',
    port: 0,
    metrics: fed(),
    health: () => [],
    remarks: () => [],
    log,
  })
  const socket = connect(server.port, '127.0.0.1')
  let answer = ''
  socket.setEncoding('utf8').on('data', text => {
    answer += text
  })
  socket.on('error', () => socket.destroy())
  const closed = new Promise(resolve => socket.on('close', resolve))
  socket.write(`GET /metrics HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`)
  await closed
  t.match(answer, /^HTTP\/1\.1 431 /)
  const idle = connect(server.port, '127.0.0.1')
  await new Promise(resolve => idle.once('connect', resolve))
  idle.on('error', () => undefined)
  const before = performance.now()
  await server.close()
  t.ok(performance.now() - before < 1000)
})

t.test('an address that cannot be had is refused with advice', async t => {
  const squatter = createServer().listen(0, '127.0.0.1')
  t.teardown(() => squatter.close())
  await new Promise(resolve => squatter.once('listening', resolve))
  const address = squatter.address()
  const port = address !== null && typeof address === 'object' ? address.port : 0
  const at = (host: string, port: number) =>
    serveMetrics({ host, port, metrics: fed(), health: () => [], remarks: () => [], log })
  await t.rejects(at('127.0.0.1', port), {
    message: new RegExp(`127.0.0.1:${port} is in use: see who has it with .ss -ltnp`),
  })
  await t.rejects(at('192.0.2.7', 9), { message: /not one of this machine/ })
})

/** Prometheus' tool: named by PROMTOOL, or where `deploy/setup.sh --test` puts it. */
function promtool(): string {
  const named = process.env.PROMTOOL
  if (named) return named
  const path = fileURLToPath(new URL('../../../.cache/prometheus/usr/bin/promtool', import.meta.url))
  if (!existsSync(path)) throw new Error('promtool is missing: run deploy/setup.sh --test, or name it in PROMTOOL')
  return path
}
