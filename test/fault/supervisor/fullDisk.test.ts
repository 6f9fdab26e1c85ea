// A disk that fills up under a whole supervisor: it still answers reads, says why it refuses writes, and recovers.
import { execFileSync } from 'node:child_process'
import { rmSync, statfsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { status as Code } from '@grpc/grpc-js'
import t from 'tap'
import {
  CreateNamespaceRequest,
  DeleteNamespaceRequest,
  ListNamespacesRequest,
  NamespacesService,
} from '../../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import { purser } from '../../harness/supervisor.js'
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
