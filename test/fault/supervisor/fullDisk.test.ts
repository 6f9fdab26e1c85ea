// A disk that fills up or turns read-only under a whole supervisor: reads are answered, refused writes say why.
import { execFileSync } from 'node:child_process'
import { rmSync, statfsSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { status as Code } from '@grpc/grpc-js'
import t from 'tap'
import {
  CreateNamespaceRequest,
  DeleteNamespaceRequest,
  ListNamespacesRequest,
  NamespacesService,
} from '../../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import { cleanEnvironment, run } from '../../harness/ctr.js'
import { busyboxName } from '../../harness/image.js'
import { alive } from '../../harness/process.js'
import { builtProgram, purser } from '../../harness/supervisor.js'
import { table } from '../../harness/table.js'
import { endWith, until } from '../../harness/wait.js'

const diskMiB = 24
/** So that it takes hundreds of records, not thousands, to use up what the journal took ahead. */
const padding = 'x'.repeat(4000)

t.test('a full disk refuses writes with advice, lets deletes through, and heals when there is room', async t => {
  const host = await purser(t, {
    start: false,
    config: '[journal]\nreserve_bytes = 1048576\nsegment_bytes = 4194304\n',
  })
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${diskMiB}m`, 'tmpfs', host.root])
  endWith(t, () => void execFileSync('umount', ['--lazy', host.root]))
  await host.start()
  const create = (name: string) =>
    host.call(
      NamespacesService.create,
      CreateNamespaceRequest.fromPartial({ namespace: { name, labels: { padding } } }),
    )
  const names = async () => {
    const { namespaces } = await host.call(NamespacesService.list, ListNamespacesRequest.fromPartial({}))
    return namespaces.map(({ name }) => name)
  }
  await create('before')
  await host.ok('snapshots', 'prepare', 'prepared')

  const filler = join(host.root, 'filler')
  fill(filler, host.root)
  const refusal = await refused(create)
  t.equal(refusal.code, Code.RESOURCE_EXHAUSTED)
  t.match(refusal.details, /space|full/i)
  t.ok((await names()).includes('before'), 'reads are answered')
  t.notOk((await names()).includes(refusal.name), 'what was refused left no trace')
  const health = await fetch(new URL('/healthz', host.launch.metricsUrl))
  t.equal(health.status, 503)
  t.match(await health.text(), /journal/)
  await host.call(NamespacesService.delete, DeleteNamespaceRequest.fromPartial({ name: 'before' }))
  t.notOk((await names()).includes('before'), 'a delete goes through: it makes room')
  await host.kill()
  fill(join(host.root, 'filler.again'), host.root)
  await host.start()
  await host.ok('snapshots', 'rm', 'prepared')
  t.match(
    await host.ctr('snapshots', 'prepare', 'another'),
    { code: 1, stderr: /space/ },
    'plugins begin on a full disk',
  )

  rmSync(filler)
  rmSync(`${filler}.again`)
  await until('writes to be taken again', () =>
    create('after').then(
      () => true,
      () => false,
    ),
  )
  await host.kill()
  await host.start()
  t.same(
    (await names()).filter(name => ['before', 'after', refusal.name].includes(name)),
    ['after'],
    'what was acknowledged is what is there after a crash',
  )
})

t.test('a disk that the kernel made read-only stops writes and nothing else, also at the next start', async t => {
  const host = await purser(t, { start: false })
  const image = join(host.directory, 'image')
  writeFileSync(image, '')
  truncateSync(image, 96 << 20)
  execFileSync('mkfs.ext4', ['-q', '-F', image], { env: cleanEnvironment })
  execFileSync('mount', ['-o', 'loop,errors=remount-ro', image, host.root])
  endWith(t, () => void execFileSync('umount', ['--lazy', host.root]))
  await host.start()
  const create = (name: string) =>
    host.call(NamespacesService.create, CreateNamespaceRequest.fromPartial({ namespace: { name, labels: {} } }))
  await create('before')
  await host.load()
  const id = host.id('stays')
  await host.ok('run', '-d', busyboxName, id, 'sleep', '1000')
  const [row] = table(await host.ok('tasks', 'ls'))
  const before = alive(Number(row?.PID))
  const goesOn = async () => {
    await t.rejects(create('during'), { code: Code.UNAVAILABLE, details: /is read-only.*dmesg.*restart purserd/ })
    t.match(await host.ok('namespaces', 'ls'), /before/)
    t.match(table(await host.ok('tasks', 'ls')), [{ TASK: id, STATUS: 'RUNNING' }])
    t.match(alive(before?.pid ?? 0), before)
    const history = await run(builtProgram('purser.js'), ['--address', host.address, 'history', id]).end()
    t.match(history, { code: 0, stdout: /\/tasks\/start/ })
    const health = await fetch(new URL('/healthz', host.launch.metricsUrl))
    t.equal(health.status, 503)
    t.match(await health.text(), /journal.*read-only/)
    const metrics = await (await fetch(new URL('/metrics', host.launch.metricsUrl))).text()
    t.match(metrics, /^purser_journal_writable 0$/m)
  }
  t.throws(() => execFileSync('mount', ['-o', 'remount,ro', host.root], { stdio: 'pipe' }), /busy/)
  execFileSync('mount', ['-o', 'remount,abort', host.root]) // as after an error of the disk
  await goesOn()
  await host.kill()
  await host.start()
  await goesOn()
})

/** Leaves no free block. */
function fill(path: string, directory: string): void {
  const { bsize, bavail } = statfsSync(directory)
  writeFileSync(path, Buffer.alloc(bsize * bavail))
}

/** Creates until it is refused: the journal has some room that it took ahead. */
async function refused(create: (name: string) => Promise<unknown>) {
  for (let attempt = 0; attempt < 100_000; attempt++) {
    const name = `during-${attempt}`
    try {
      await create(name)
    } catch (error) {
      if (error instanceof Error && 'code' in error && 'details' in error) {
        return { name, code: Number(error.code), details: String(error.details) }
      }
      throw error
    }
  }
  throw new Error('the disk is full, and nothing was refused')
}
