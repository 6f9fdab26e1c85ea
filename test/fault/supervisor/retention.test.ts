// Retention and the tools for the journal, under a supervisor with a container, a subscriber and NATS, and without it.
import { join } from 'node:path'
import { status as Code } from '@grpc/grpc-js'
import t from 'tap'
import { EventsService } from '../../../proto/gen/containerd/services/events/v1/events.js'
import {
  CreateNamespaceRequest,
  DeleteNamespaceRequest,
  NamespacesService,
} from '../../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import { run } from '../../harness/ctr.js'
import { busyboxName } from '../../harness/image.js'
import { listen } from '../../harness/jetstream.js'
import { alive } from '../../harness/process.js'
import { builtProgram, purser } from '../../harness/supervisor.js'
import { table } from '../../harness/table.js'
import { until } from '../../harness/wait.js'
import { Failpoints } from '../crashpoints/failpoints.js'

t.test('old events go when nobody needs them, whatever dies meanwhile, and the tools tell what they do', async t => {
  const env: Record<string, string> = {}
  const config = '[journal]\nsegment_bytes = 65536\nkeep_events = 40\n'
  const host = await purser(t, { nats: 'embedded', config, env, start: false })
  const failpoints = new Failpoints(join(host.directory, 'failpoints'))
  env.PURSER_FAILPOINTS = failpoints.directory
  await host.start()
  const tool = (...args: string[]) => run(builtProgram('purser.js'), ['--address', host.address, ...args])
  const journal = (command: string, ...args: string[]) => tool('journal', command, '--root', host.root, ...args).end()
  const nats = (server: string) => host.launch.args.splice(host.launch.args.indexOf('--nats') + 1, 1, server)
  let made = 0
  const fill = async () => {
    for (const end = made + 60; made < end; made += 1) {
      const namespace = { name: `n${made}`, labels: { padding: 'x'.repeat(3000) } }
      await host.call(NamespacesService.create, CreateNamespaceRequest.fromPartial({ namespace }))
      await host.call(NamespacesService.delete, DeleteNamespaceRequest.fromPartial({ name: namespace.name }))
    }
  }

  const followed = tool('events', '--follow', '--json', '--since', '0')
  t.teardown(() => followed.kill())
  await host.load()
  const [gone, stays] = [host.id('gone'), host.id('stays')]
  await host.ctr('run', '--rm', busyboxName, gone, 'sh', '-c', 'exit 3')
  await host.ok('run', '-d', busyboxName, stays, 'sleep', '1000')
  const entry = alive(Number(table(await host.ok('tasks', 'ls'))[0]?.PID))
  await fill()
  t.match(await journal('compact'), { code: 0, stdout: /^0 events(.|\n)*but for the relay: NATS has/ })
  t.match(await journal('verify'), { code: 0, stdout: /^journal .*: \d+ events, 1 to \d+, in [2-9]/ })
  t.match(await journal('stats'), { code: 0, stdout: / {2}NamespaceCreated: 60 events/ })

  const [file, copy] = [join(host.directory, 'journal.jsonl'), join(host.directory, 'copy')]
  t.match(await journal('export', file), { code: 0, stderr: '' })
  t.match(await journal('export', file), { code: 1, stderr: /EEXIST/ }, 'nothing is written over')
  const into = () => journal('import', file, join(copy, 'journal'))
  t.match(await into(), { code: 0, stdout: /^journal .*: events 1 to \d+ are in / })
  t.match(await into(), { code: 1, stderr: /not empty/ })
  t.match(await tool('journal', 'verify', '--root', copy).end(), { code: 0 })
  await host.kill()

  nats('off')
  await host.start()
  await fill()
  failpoints.arm({ point: 'journal.drop.removed', pass: 1 })
  t.match(await journal('compact'), { code: 69 }, 'it is killed while it drops')
  await host.ended()
  failpoints.disarm()
  await host.start()
  t.match(await journal('verify'), { code: 0 })
  // A pass drops what lies behind two snapshots: one of them may be its own.
  await journal('compact')
  await fill()
  const compacted = await journal('compact')
  t.match(compacted, {
    code: 0,
    stdout: /^\d+ events in \d+ files were dropped; the journal begins with event \d{3}\n/,
  })
  t.match(alive(entry?.pid ?? 0), entry, 'the container goes on')
  const told = await tool('history', gone).end()
  t.match(told, { code: 0, stdout: /started once, .*ended with 3; deleted 20.*\n\(events before sequence \d+ are no/ })
  t.match(await tool('history', stays).end(), { code: 0, stdout: /lives since/ })
  t.match(await host.ok('containers', 'info', stays), /"sleep"/, 'its spec was brought along')
  const since = host.rpc.collect(EventsService.subscribe, { filters: [] }, { metadata: { 'purser-since': '1' } })
  await t.rejects(since, { code: Code.OUT_OF_RANGE, details: /no longer kept: the first that is kept is \d+; begin/ })
  t.match(await tool('events', '--since', '1').end(), {
    code: 1,
    stderr: /events before sequence \d+ are no longer kept/,
  })
  await host.stop()

  t.match(await journal('compact'), { code: 1, stderr: /only a purserd that runs .*start purserd.*--nats off/ })
  const offline = ['--nats', 'off', '--config', join(host.directory, 'purser.toml')]
  t.match(await journal('compact', ...offline), { code: 0, stdout: /the journal begins with event \d+/ })
  t.match(await journal('repair'), { code: 0, stdout: 'nothing is damaged: there is nothing to repair\n' })
  t.match(await journal('verify'), { code: 0 })
  for (const command of ['verify', 'stats', 'export', 'compact', 'repair'])
    t.match(await tool('journal', command, '--root', '/nowhere').end(), { code: 64, stderr: /no journal in .*--root/ })

  nats('embedded')
  await host.start()
  const relayed = await listen(t, host)
  const name = 'after-all'
  await host.call(NamespacesService.create, CreateNamespaceRequest.fromPartial({ namespace: { name, labels: {} } }))
  await relayed.first('an event behind all that', ({ data }) => data.name === name, { timeoutMs: 30_000 })
  const sequences = () => followed.lines.items.map(line => Number(JSON.parse(line).sequence))
  await until('the subscriber to hear of it', () => followed.lines.items.some(line => line.includes(name)))
  t.same(
    sequences(),
    sequences().map((_, index) => index + 1),
    'the subscriber missed nothing',
  )
  t.match(alive(entry?.pid ?? 0), entry)
})
