// A journal with flipped bits: the supervisor starts, tells what it knows, refuses writes, and touches no container; then it
// is repaired.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { status as Code } from '@grpc/grpc-js'
import t from 'tap'
import {
  CreateNamespaceRequest,
  NamespacesService,
} from '../../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import {
  DeleteTaskRequest,
  KillRequest,
  TasksService,
  WaitRequest,
} from '../../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { run } from '../../harness/ctr.js'
import type { Host } from '../../harness/host.js'
import { busyboxName } from '../../harness/image.js'
import { alive } from '../../harness/process.js'
import { builtProgram, purser } from '../../harness/supervisor.js'
import { table } from '../../harness/table.js'
import { until } from '../../harness/wait.js'

t.test('damage stops writes and nothing else; repaired, all goes on, and what is unknown waits for a word', async t => {
  const host = await purser(t)
  const at = ['--address', host.address]
  const journal = (command: string, ...args: string[]) =>
    run(builtProgram('purser.js'), [...at, 'journal', command, '--root', host.root, ...args]).end()
  const accept = (...args: string[]) => run(builtProgram('purser.js'), [...at, 'journal', 'accept', ...args]).end()
  await createNamespace(host, 'early')
  await host.load()
  const [id, unknown] = [host.id('under-damage'), host.id('unknown')]
  for (const each of [id, unknown]) await host.ok('run', '-d', busyboxName, each, 'sleep', '1000')
  const pids = new Map(table(await host.ok('tasks', 'ls')).map(({ TASK, PID }) => [TASK, Number(PID)]))
  const [before, other] = [alive(pids.get(id) ?? 0), alive(pids.get(unknown) ?? 0)]
  // A start notes how much was acknowledged: without that, whoever reads beside a writer takes damage near the end for
  // what is just being written.
  await host.kill()
  await host.start()
  await host.kill()

  const { path, damaged } = flipBits(host, unknown)
  await host.start()
  t.match(await host.ok('namespaces', 'ls'), /early/, 'what comes before the damage is known')
  await t.rejects(createNamespace(host, 'late'), { code: Code.UNAVAILABLE, details: /damaged|repair/ })
  t.match(alive(before?.pid ?? 0), before, 'the container goes on, though the journal cannot tell of it')
  t.ok(readFileSync(path).equals(damaged), 'the damaged file is kept as it is')
  const health = await fetch(new URL('/healthz', host.launch.metricsUrl))
  t.equal(health.status, 503)
  t.match(await health.text(), new RegExp(path), 'and it is named to the operator')
  t.match(await journal('verify'), { code: 1, stdout: /damaged: 0*1\.log at byte \d+: .*\(events? \d+/ })
  t.match(await journal('stats'), { code: 0, stdout: /it is damaged: `purser journal verify` tells where/ })
  t.match(await journal('repair'), { code: 1, stderr: /stop purserd \(process \d+\) first; containers go on/ })
  t.match(await accept(), { code: 69, stderr: /damaged.*purser journal repair/ }, 'nobody knows yet what is lost')
  await host.kill()

  t.match(await journal('repair'), { code: 0, stdout: /events that are lost: (.|\n)*nothing was changed/ })
  t.ok(readFileSync(path).equals(damaged))
  t.match(await journal('repair', '--write'), { code: 0, stdout: /done: start purserd/ })
  t.match(await journal('verify'), { code: 0, stdout: /every record, checksum and link is as it was written/ })
  await host.start()
  await createNamespace(host, 'late')
  await until('the unknown container to be seen', () => host.log.items.some(({ id }) => id === unknown))
  t.match(alive(other?.pid ?? 0), other, 'what the journal does not know is left alone')
  t.match(alive(before?.pid ?? 0), before)

  const shown = await accept()
  t.match(shown, { code: 0, stdout: /events are lost; (.|\n)*nothing was changed/ })
  t.match(shown.stdout, `runtime/v2: default/${unknown}`)
  t.notMatch(shown.stdout, id)
  t.match(shown.stdout, /snapshotter\/overlayfs: /)
  t.match(alive(other?.pid ?? 0), other, 'showing touches nothing')
  t.match(await accept('--write'), { code: 0, stdout: /accepted/ })
  await until('the unknown container to be removed', () => !alive(other?.pid ?? 0))
  t.match(await accept(), { code: 0, stdout: /nothing to accept/ })
  t.match(alive(before?.pid ?? 0), before, 'what the journal knows goes on')
  // ctr wants the container's record first, which is lost.
  await host.call(TasksService.kill, KillRequest.fromPartial({ containerId: id, signal: 9 }))
  await host.call(TasksService.wait, WaitRequest.fromPartial({ containerId: id }))
  await host.call(TasksService.delete, DeleteTaskRequest.fromPartial({ containerId: id }))
  await host.kill()
  await host.start()
  await createNamespace(host, 'later')
  t.match(await accept(), { code: 0, stdout: /nothing to accept/ }, 'what was said holds for the next start')
})

function createNamespace(host: Host, name: string) {
  return host.call(NamespacesService.create, CreateNamespaceRequest.fromPartial({ namespace: { name, labels: {} } }))
}

/** In the first record of a container's creation, and in each that names another container. */
function flipBits(host: Host, unknown: string): { path: string; damaged: Buffer } {
  const directory = join(host.root, 'journal')
  const name = readdirSync(directory).find(file => file.endsWith('.log'))
  if (name === undefined) throw new Error('the journal has no segment')
  const path = join(directory, name)
  const bytes = readFileSync(path)
  const places = [bytes.indexOf('ContainerCreated')]
  for (let at = bytes.indexOf(unknown); at >= 0; at = bytes.indexOf(unknown, at + 1)) places.push(at)
  for (const at of places) bytes.writeUInt8((bytes[at] ?? 0) ^ 1, at)
  writeFileSync(path, bytes)
  return { path, damaged: bytes }
}
