// A million steps of chance, and whether the simulator would notice: the same seed does the same, and faults that are
// put into the supervisor on purpose are found.
import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { buildSimulator } from './build.mjs'

const root = new URL('../..', import.meta.url).pathname
const built = join(root, 'dist/simulate.js')

// A machine that is busy with other tests may take many times as long.
t.setTimeout(1_200_000)

interface Told {
  steps: number
  seeds: number
  failures: number
  hash: number
  rate: number
}

/** Runs the simulator to its end. Rejects when it tells nothing. */
async function simulate(script: string, ...args: string[]): Promise<Told & { said: string }> {
  const child = spawn(process.execPath, [script, '--json', ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  const output = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const)
    child[name].setEncoding('utf8').on('data', text => {
      output[name] += text
    })
  await new Promise(resolve => child.once('close', resolve))
  if (output.stdout === '') throw new Error(`the simulator told nothing: ${output.stderr}`)
  return { ...JSON.parse(output.stdout), said: output.stderr }
}

t.test('a million steps, and everything comes to rest as it must', async t => {
  const { steps, seeds, failures, rate, said } = await simulate(built, '--seed', '1', '--steps', '1000000')
  t.equal(failures, 0, said)
  t.ok(steps >= 1_000_000)
  t.comment(`${steps} steps of ${seeds} seeds, ${rate} a second`)
})

t.test('the same seed takes the same steps', async t => {
  const of = (seed: number) => simulate(built, '--seed', String(seed), '--steps', '0', '--each', '5000')
  const [once, again, other] = await Promise.all([of(11), of(11), of(12)])
  t.equal(again.hash, once.hash)
  t.equal(again.steps, once.steps)
  t.not(other.hash, once.hash)
})

/** Each takes one promise away. */
const plants = {
  'a reply that does not wait for the disk': {
    file: 'supervisor/journal/commits.ts',
    find: '      this.queue({ batch, resolve, reject })\n',
    put: '      this.queue({ batch, resolve: () => {}, reject })\n      resolve(this.next - 1n)\n',
  },
  'a relay that leaves an event out': {
    file: 'supervisor/relay/session.ts',
    find: '          next = record.sequence + 1n\n',
    put: '          next = record.sequence + 1n\n          if (next % 1000n === 0n) continue\n',
  },
  'a task of a container that is gone': {
    file: 'supervisor/domain/task/decide.ts',
    // biome-ignore lint/suspicious/noTemplateCurlyInString: it is code, to be found in a source
    find: "  if (container.state === 'absent') return refuse('not-found', `container \"${event.containerId}\"`)\n",
    put: '  return stepTask(namespace, task, event)\n',
  },
  'a collection that does not ask what leases hold': {
    file: 'supervisor/domain/garbage/mark.ts',
    find: "    if (kind === 'snapshots' && snapshotter) yield { ...snapshotNode(snapshotter, id), flat }\n",
    put: '',
  },
  'a restart of what was stopped on purpose': {
    file: 'supervisor/domain/restart/labels.ts',
    find: "      return !/^(1|t|T|TRUE|true|True)$/.test(labels[explicitlyStoppedLabel] ?? '')\n",
    put: '      return true\n',
  },
  'a recovery that looks only once': {
    file: 'supervisor/reconcile.ts',
    find: '      if (!isDone || this.isAskedFor) this.schedule()\n',
    put: '',
  },
  'a plugin that is ready before what a dead supervisor asked for is over': {
    file: 'kit/underWay.ts',
    find: '    return [...this.#calls].some(({ cancelled }) => cancelled)\n',
    put: '    return false\n',
  },
}

for (const [name, plant] of Object.entries(plants)) {
  t.test(`${name} is found`, async t => {
    const folder = await mkdtemp('/tmp/purser-simulate-')
    t.teardown(() => rm(folder, { recursive: true, force: true }))
    const script = join(folder, 'simulate.cjs')
    await buildSimulator(script, plant)
    const { failures, said } = await simulate(script, '--seed', '1', '--steps', '300000')
    t.equal(failures, 1, 'it stops at the first failure')
    t.match(said, /^seed \d+: /m)
    t.match(said, /again: npm run simulate -- --seed \d+/)
  })
}
