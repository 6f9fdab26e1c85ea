// `ctr images import` of an image of 100 MB: its blobs taken in and its layers unpacked.
import { rmSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../harness/ctr.js'
import type { Host } from '../harness/host.js'
import { buildImage, type Image, writeArchive } from '../harness/image.js'
import { table } from '../harness/table.js'
import { until } from '../harness/wait.js'
import { type Contest, type Name, names, takeTurns, timedCtr } from './contest.js'
import { largeLayers } from './largeImage.js'
import { type Spans, whereTimeGoes } from './phases.js'
import { comparison, type Outcome, summaryOf } from './report.js'

/** Of its own, so that all of it can be removed and the small image stays. */
const namespace = 'bench-import'
const name = 'docker.io/library/large:bench'
/** An import takes as long as many runs: this many of those are worth one. */
const runsPerImport = 2
/** What may have come meanwhile: files of the journal, of the stream. */
const filesMore = 20

export async function measureImport(contest: Contest): Promise<Outcome> {
  const { hosts } = contest
  const runs = Math.max(1, Math.ceil(contest.runs / runsPerImport))
  const warmUps = Math.min(1, contest.warmUps)
  const image = await buildImage(largeLayers(), { name })
  const archive = join(hosts.purser.directory, 'large.tar')
  await writeArchive(archive, image)
  const filesBefore: Record<Name, number> = { purser: 0, containerd: 0 }
  for (const each of names) filesBefore[each] = await filesBelow(hosts[each].root)

  const spans: Spans = { purser: [], containerd: [] }
  const ms = await takeTurns(
    { hosts, runs, warmUps },
    async (host, which) => {
      // What the other's turn has left to be written belongs to no one's time.
      await run('sync', []).end()
      const before = await host.metrics()
      const took = await timedCtr(host, '--namespace', namespace, 'images', 'import', archive)
      spans[which].push({ before, after: await host.metrics() })
      await removeAll(host, filesBefore[which])
      return took
    },
    async () => {
      for (const each of names) spans[each] = []
    },
  )
  const phases = whereTimeGoes(spans, runs, 'import')
  rmSync(archive)
  return {
    tables: [
      comparison(
        `Import: ctr images import, unpacking included, of ${describe(image)}, in ms`,
        ms,
        'Purser has the layers on the disk before it answers; containerd 1.6 leaves that to the kernel.',
      ),
      ...phases,
    ],
    data: { ms, summary: summaryOf(ms), image: describe(image), phases },
  }
}

function describe({ layers }: Image): string {
  const mebibytes = layers.reduce((total, { descriptor }) => total + descriptor.size, 0) / (1 << 20)
  return `${layers.length} layers, ${mebibytes.toFixed(0)} MiB compressed`
}

/** Image, snapshots and blobs; done when their files are gone, so that nobody's next turn meets the removal. */
async function removeAll(host: Host, filesBefore: number): Promise<void> {
  const ask = (...words: string[]) => host.ok('--namespace', namespace, ...words)
  await ask('images', 'rm', '--sync', name)
  // Where the removal of the image has collected them already, these lists are empty.
  for (const key of childrenFirst(table(await ask('snapshots', 'ls')))) await ask('snapshots', 'rm', key)
  const digests = (await ask('content', 'ls', '--quiet')).split('\n').filter(Boolean)
  if (digests.length > 0) await ask('content', 'rm', ...digests)
  let files = 0
  const isGone = async () => {
    files = await filesBelow(host.root)
    return files < filesBefore + filesMore
  }
  await until(`${host.kind} to remove the files of an image`, isGone, {
    timeoutMs: 60_000,
    intervalMs: 100,
    detail: () => `: ${files} are there, ${filesBefore} were`,
  })
}

function childrenFirst(snapshots: Record<string, string>[]): string[] {
  const order: string[] = []
  const left = new Map(snapshots.map(({ KEY = '', PARENT = '' }) => [KEY, PARENT]))
  while (left.size > 0) {
    const parents = new Set(left.values())
    const leaves = [...left.keys()].filter(key => !parents.has(key))
    if (leaves.length === 0) throw new Error('the snapshots are each other’s parents')
    for (const key of leaves) left.delete(key)
    order.push(...leaves)
  }
  return order
}

/** While something is being removed there, the count may fail: then it is not gone yet. */
async function filesBelow(directory: string): Promise<number> {
  const entries = await readdir(directory, { recursive: true }).catch(() => undefined)
  return entries?.length ?? Number.POSITIVE_INFINITY
}
