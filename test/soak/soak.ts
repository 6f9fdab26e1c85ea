// `npm run soak`: random work and random kills for some minutes, with calm phases in which all of it has to come together.
import { join } from 'node:path'
import { Command, InvalidArgumentError } from 'commander'
import { Disk } from '../harness/disk.js'
import { busyboxImage, writeArchive } from '../harness/image.js'
import { bridge } from '../harness/network.js'
import { purser } from '../harness/supervisor.js'
import { OpenScope, pause } from '../harness/wait.js'
import { act } from './actions.js'
import { calm, type Sample } from './calm.js'
import { Chance } from './chance.js'
import { Ground } from './ground.js'
import { sabotage, sweepFifos } from './kills.js'
import { Subscribers } from './subscribers.js'

const workers = 3
const stormMs = 45_000
/** Between the first calm and the last; what a heap keeps for later is no leak. */
const growth = { mib: 60, files: 16 }

const program = new Command('soak')
  .description('Random operations and kills on a supervisor of its own. Needs root.')
  .option('--minutes <n>', 'for how long', positive, 30)
  .option('--seed <n>', 'makes the same choices again', positive, Date.now() % 1_000_000)
  .action(main)

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => process.exit(130))
program.parseAsync().catch((error: unknown) => {
  console.error(`soak: ${error instanceof Error ? error.stack : error}`)
  process.exitCode = 1
})

async function main({ minutes, seed }: { minutes: number; seed: number }): Promise<void> {
  if (process.getuid?.() !== 0) throw new Error('this needs root, as containers do')
  console.log(`${minutes} minutes with seed ${seed}`)
  const scope = new OpenScope()
  try {
    const ground = await open(scope)
    const samples = await soak(ground, new Chance(seed), minutes)
    console.table(samples)
    console.log(JSON.stringify(ground.counts))
    judge(ground, samples)
    const { problems } = ground
    console.log(problems.length === 0 ? 'No problem.' : `${problems.length} problems with seed ${seed}:`)
    for (const problem of problems) console.log(`- ${problem}`)
    if (problems.length > 0) process.exitCode = 1
  } finally {
    await scope.close()
  }
}

async function open(scope: OpenScope): Promise<Ground> {
  const network = bridge(scope, 'soak')
  const host = await purser(scope, {
    nats: 'embedded',
    start: false,
    // Little is taken ahead, so that a full disk is felt soon.
    config: `[network]\nconf_dirs = ["${network.confDirectory}"]\n[journal]\nreserve_bytes = 1048576\nsegment_bytes = 4194304\n`,
  })
  const disk = new Disk(scope, host.root)
  host.networkInterfaces.push(network.bridge)
  await host.start(120_000)
  const image = await busyboxImage()
  const archive = join(host.directory, 'image.tar')
  await writeArchive(archive, image)
  await host.load(image)
  return new Ground(host, archive, network, disk)
}

/** Storms, each with a calm behind it. */
async function soak(ground: Ground, chance: Chance, minutes: number): Promise<Sample[]> {
  const begun = performance.now()
  const passed = () => (performance.now() - begun) / 60_000
  const samples: Sample[] = []
  const subscribers = new Subscribers(ground, chance.fork())
  try {
    while (passed() < minutes) {
      const stop = new AbortController()
      const busy = [
        ...Array.from({ length: workers }, () => act(ground, chance.fork(), stop.signal)),
        sabotage(ground, chance.fork(), stop.signal),
      ]
      await Promise.race([pause(stormMs), Promise.all(busy)])
      stop.abort()
      await Promise.all(busy)
      samples.push(await calm(ground, subscribers, Number(passed().toFixed(1))))
      sweepFifos(ground)
    }
  } catch (error) {
    ground.problem(`it could not go on: ${error}`, '')
  } finally {
    await subscribers.stop()
  }
  return samples
}

function judge(ground: Ground, samples: Sample[]): void {
  const [first, last] = [samples[0], samples.at(-1)]
  if (!first || !last || samples.length < 3) return
  const grown = (what: 'supervisorMiB' | 'supervisorFiles' | 'hostMiB' | 'hostFiles', most: number) => {
    if (last[what] - first[what] > most) ground.problem(`${what} grew from ${first[what]} to ${last[what]}`, '')
  }
  grown('supervisorMiB', growth.mib)
  grown('hostMiB', growth.mib)
  grown('supervisorFiles', growth.files)
  grown('hostFiles', growth.files)
}

function positive(text: string): number {
  const value = Number(text)
  if (Number.isFinite(value) && value > 0) return value
  throw new InvalidArgumentError('write a number above 0')
}
