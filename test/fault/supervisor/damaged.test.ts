// A journal with a flipped bit: the supervisor starts, tells what it knows, refuses writes, and touches no container.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { status as Code } from '@grpc/grpc-js'
import t from 'tap'
import {
  CreateNamespaceRequest,
  NamespacesService,
} from '../../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import type { Host } from '../../harness/host.js'
import { busyboxName } from '../../harness/image.js'
import { alive } from '../../harness/process.js'
import { purser } from '../../harness/supervisor.js'
import { table } from '../../harness/table.js'

t.test('damage in the middle stops writes, and nothing else', async t => {
  const host = await purser(t)
  await createNamespace(host, 'early')
  await host.load()
  const id = host.id('under-damage')
  await host.ok('run', '-d', busyboxName, id, 'sleep', '1000')
  const pid = Number(table(await host.ok('tasks', 'ls'))[0]?.PID)
  const before = alive(pid)
  await host.kill()

  const { path, damaged } = flipOneBit(host, 'ContainerCreated')
  await host.start()
  t.match(await host.ok('namespaces', 'ls'), /early/, 'what comes before the damage is known')
  await t.rejects(createNamespace(host, 'late'), { code: Code.UNAVAILABLE, details: /damaged|repair/ })
  t.equal(alive(pid)?.startTime, before?.startTime, 'the container goes on, though the journal cannot tell of it')
  t.ok(readFileSync(path).equals(damaged), 'the damaged file is kept as it is')
  const health = await fetch(new URL('/healthz', host.launch.metricsUrl))
  t.equal(health.status, 503)
  t.match(await health.text(), new RegExp(path), 'and it is named to the operator')
})

function createNamespace(host: Host, name: string) {
  return host.call(NamespacesService.create, CreateNamespaceRequest.fromPartial({ namespace: { name, labels: {} } }))
}

/** In the middle of the record of that type. */
function flipOneBit(host: Host, type: string): { path: string; damaged: Buffer } {
  const directory = join(host.root, 'journal')
  const name = readdirSync(directory).find(file => file.endsWith('.log'))
  if (name === undefined) throw new Error('the journal has no segment')
  const path = join(directory, name)
  const bytes = readFileSync(path)
  const at = bytes.indexOf(type)
  if (at < 0) throw new Error(`the journal has no ${type}`)
  bytes.writeUInt8((bytes[at] ?? 0) ^ 1, at)
  writeFileSync(path, bytes)
  return { path, damaged: bytes }
}
