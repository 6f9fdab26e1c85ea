// Shims of other makes and versions than the runc shim of this machine.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { status } from '@grpc/grpc-js'
import t from 'tap'
import { Status } from '../../../proto/gen/containerd/v1/types/task.js'
import { Liveness } from '../../../proto/gen/purser/runtime/v1/runtime.js'
import { alive } from '../../harness/process.js'
import { RuntimeHost } from './host.js'
import { compileStandIn } from './standIn.js'

/** Where packages are looked for, so below the project. */
const bin = t.testdir({})

const shimThatSays = await compileStandIn(bin)

for (const [title, version] of [
  ['a shim of version 3 is served by its own API', 3],
  ['a shim that serves another version than it says is understood', 2],
] as const) {
  t.test(title, async t => {
    const host = await RuntimeHost.open(t)
    const runtime = shimThatSays(version)
    const { bundle } = await host.create('new', { request: { runtime } })
    t.match(await host.taskState('new'), { status: Status.CREATED })
    t.equal(readFileSync(join(bundle, 'asked'), 'utf8'), '3', 'it was told the highest version that is spoken here')
    const pid = await host.start('new')
    await host.close()
    await host.open()
    t.match(await host.list(), [
      { id: 'new', liveness: Liveness.LIVENESS_ALIVE, init: { status: Status.RUNNING, pid } },
    ])
    await host.destroy('new')
    t.match(await host.exit('new'), { exitStatus: 137, pid })
    t.notOk(alive(pid))
    await host.nothingLeft()
    t.notOk(existsSync(bundle))
  })
}

t.test('a shim that never answers is given up, and does not stay', async t => {
  const host = await RuntimeHost.open(t, { createMs: 500 })
  await t.rejects(host.create('mute', { request: { runtime: shimThatSays(0) } }), {
    code: status.DEADLINE_EXCEEDED,
    details: /^failed to create shim task: Connect: the shim did not answer within 500 ms/,
  })
  await host.nothingLeft()
})
