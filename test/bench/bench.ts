// `npm run bench`: Purser beside Debian's containerd. Prints tables and keeps the numbers; it judges nothing.
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command, InvalidArgumentError, Option } from 'commander'
import { OpenScope } from '../harness/wait.js'
import { measureBlob } from './blob.js'
import { type Contest, openContest } from './contest.js'
import { measureImport } from './import.js'
import { measureLatency } from './latency.js'
import { measureListing } from './listing.js'
import { describeMachine, isBusy, type Machine } from './machine.js'
import { measureMemory, readIdle } from './memory.js'
import { measurePast } from './past.js'
import { measureRecovery } from './recovery.js'
import { type Outcome, show } from './report.js'
import { measureThroughput } from './throughput.js'

const measurements = ['latency', 'throughput', 'import', 'memory', 'recovery', 'past', 'listing', 'blob'] as const
type Measurement = (typeof measurements)[number]

interface Flags {
  runs: number
  warmUps: number
  only: Measurement[]
  nats: 'embedded' | 'off'
  containers: number[]
  out: string
}

const usualContainers = [10]

const program = new Command('bench')
  .description('Measures Purser and containerd side by side. Needs root, and a machine with nothing else to do.')
  .option('--runs <n>', 'measured turns of each; longer measurements take fewer', positive, 24)
  .option('--warm-ups <n>', 'turns before that don’t count', positive, 6)
  .addOption(
    new Option('--only <name...>', 'measure only this').choices(measurements).default([...measurements], 'everything'),
  )
  .addOption(
    new Option('--nats <mode>', 'whether Purser publishes its events').choices(['embedded', 'off']).default('embedded'),
  )
  .option('--containers <n...>', 'running in `recovery`', numbers, usualContainers)
  .option('--out <file>', 'where the numbers go', join(distDirectory(), 'bench.json'))
  .action(main)

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  // What was opened is removed at the exit. Not once: npm passes Ctrl-C on, so that it comes twice.
  process.on(signal, () => process.exit(130))
}
program.parseAsync().catch((error: unknown) => {
  console.error(`bench: ${error instanceof Error ? error.message : error}`)
  process.exitCode = 1
})

async function main({ runs, warmUps, only, nats, containers, out }: Flags): Promise<void> {
  if (process.getuid?.() !== 0) throw new Error('this needs root, as containers do')
  const scope = new OpenScope()
  try {
    const contest = await openContest(scope, { runs, warmUps }, nats)
    const machine = describeMachine(contest.hosts.purser.root)
    introduce(machine, nats)
    const results = await measure(contest, only, containers)
    mkdirSync(dirname(out), { recursive: true })
    const kept = { at: new Date().toISOString(), machine, settings: { runs, warmUps, nats }, results }
    writeFileSync(out, `${JSON.stringify(kept, undefined, 2)}\n`)
    console.log(`\nEvery number is in ${out}.`)
  } finally {
    await scope.close()
  }
}

async function measure(
  contest: Contest,
  only: Measurement[],
  containers: number[],
): Promise<Partial<Record<Measurement, unknown>>> {
  const idle = only.includes('memory') ? await readIdle(contest) : { purser: {}, containerd: {} }
  const measures: Record<Measurement, () => Promise<Outcome>> = {
    latency: () => measureLatency(contest),
    throughput: () => measureThroughput(contest),
    import: () => measureImport(contest),
    memory: () => measureMemory(contest, idle),
    recovery: () => measureRecovery(contest, containers),
    past: () => measurePast(contest),
    listing: () => measureListing(contest),
    blob: () => measureBlob(contest),
  }
  const results: Partial<Record<Measurement, unknown>> = {}
  for (const name of measurements.filter(each => only.includes(each))) {
    const { tables, data } = await measures[name]()
    for (const table of tables) show(table)
    results[name] = data
  }
  return results
}

function introduce(machine: Machine, nats: Flags['nats']): void {
  console.log(`Purser ${machine.purser} beside ${machine.containerd}`)
  console.log(`both with ${machine.runc} and containerd-shim-runc-v2, taking turns; Purser with nats = "${nats}"`)
  console.log(
    `${machine.processors}, ${machine.memoryMiB} MiB, Linux ${machine.kernel}, ${machine.fileSystem}, node ${machine.node}`,
  )
  if (isBusy(machine))
    console.log(`The load is ${machine.load.toFixed(1)}: others are at work here, and the numbers will show it.`)
}

/** What is given takes the default's place. */
function numbers(text: string, before: number[]): number[] {
  return [...(before === usualContainers ? [] : before), positive(text)]
}

function positive(text: string): number {
  const number = Number(text)
  if (!Number.isInteger(number) || number < 1) throw new InvalidArgumentError('write a whole number from 1 on.')
  return number
}

/** dist/ of the checkout, wherever in it this code lies. */
function distDirectory(): string {
  const here = dirname(fileURLToPath(import.meta.url))
  return here.includes('/dist') ? here.slice(0, here.lastIndexOf('/dist') + '/dist'.length) : join(here, '../../dist')
}
