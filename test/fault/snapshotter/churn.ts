// Makes, commits and removes snapshots without end, and says each thing that was answered for. To be killed.
import { pino } from 'pino'
import { OverlayTrees } from '../../../plugins/snapshotter/overlay.js'
import { Snapshots } from '../../../plugins/snapshotter/snapshots.js'
import { SnapshotStore } from '../../../plugins/snapshotter/store.js'

const [root, round] = process.argv.slice(2)
if (!root || !round) throw new Error('usage: churn ROOT ROUND')
const stop = new AbortController().signal
const log = pino({ level: 'silent' })
const { store, found } = SnapshotStore.open(root, log, stop)
const snapshots = new Snapshots({ store, found, trees: new OverlayTrees([]), log, stop })

/** Asked, then answered: what a client can know. */
async function step(what: string, name: string, work: () => Promise<unknown>): Promise<void> {
  process.stdout.write(`begin ${what} ${name}\n`)
  await work()
  process.stdout.write(`done ${what} ${name}\n`)
}

async function churn(worker: number): Promise<never> {
  for (let n = 0; ; n++) {
    const name = `${round}.${worker}.${n}`
    await step('prepare', name, () => snapshots.prepare(name, '', {}))
    await step('update', name, () => snapshots.update(name, { updated: 'yes' }, []))
    if (n % 3 === 0) await step('commit', name, () => snapshots.commit(`layer ${name}`, name, {}, ''))
    else if (n % 3 === 1) await step('remove', name, () => snapshots.remove(name))
  }
}

await Promise.all(Array.from({ length: 4 }, (_, worker) => churn(worker)))
