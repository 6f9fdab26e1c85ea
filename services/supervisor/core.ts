// What decides and acts, put together: everything between the journal and the ports to the plugins. The supervisor runs
// it on a disk and processes, the simulator (test/simulate) on what it makes of them.
import type { Logger } from 'pino'
import type { Clock } from './clock.js'
import type { AskAgain } from './effects/answers.js'
import { Blobs } from './effects/blobs.js'
import { Checkpoints } from './effects/checkpoints.js'
import { Emissions } from './effects/emissions.js'
import { Execs } from './effects/execs.js'
import { Ledger } from './effects/ledger.js'
import { Networks } from './effects/networks.js'
import { Busy, performer, Recovering } from './effects/perform.js'
import type {
  CheckpointFiles,
  ContentCalls,
  DiffCalls,
  NetworkCalls,
  RuntimeCalls,
  SnapshotterCalls,
  WriteBlob,
} from './effects/ports.js'
import { NetworkRecovery } from './effects/recovery/networks.js'
import { type Orphans, orphansOf } from './effects/recovery/orphans.js'
import { SandboxRecovery } from './effects/recovery/sandboxes.js'
import { TaskRecovery } from './effects/recovery/tasks.js'
import { Restarts } from './effects/restarts.js'
import { Sandboxes } from './effects/sandboxes.js'
import { Snapshots } from './effects/snapshots.js'
import { type PhaseObserver, Tasks } from './effects/tasks.js'
import type { Journal } from './journal/journal.js'
import { type Reconciled, Reconciliation } from './reconcile.js'
import { Runner } from './runner.js'
import { HeavyParts } from './state/heavy.js'
import type { Store } from './state/store.js'

export interface CoreDeps {
  store: Store
  journal: Journal
  clock: Clock
  log: Logger
  calls: {
    runtime: RuntimeCalls
    network: NetworkCalls
    content: ContentCalls
    differ: Pick<DiffCalls, 'diff' | 'apply'>
    writeBlob: WriteBlob
    snapshotter(name: string): SnapshotterCalls
  }
  checkpointFiles: CheckpointFiles
  observe: PhaseObserver
}

export interface Core {
  runner: Runner
  heavy: HeavyParts
  snapshots: Snapshots
  blobs: Blobs
  ledger: Ledger
  reconciliation: Reconciliation
  /** What would be removed if the journal were known to be complete. */
  orphans(): Promise<Orphans>
  close(): void
}

/** Resolves when the journal says that no plugin of the life before is there any more; each has to register anew. */
export async function openCore(deps: CoreDeps): Promise<Core> {
  const { store, journal, clock, log, calls } = deps
  const runner = new Runner(store, journal, clock)
  const heavy = new HeavyParts(journal)
  const busy = new Busy()
  const recovering = new Recovering()
  const reconciliation = new Reconciliation(store, journal, log)
  const askAgain: AskAgain = kind => reconciliation.again(kind)
  const networks = new Networks(runner, store, calls.network, log, askAgain)
  const snapshots = new Snapshots(runner, store, calls.snapshotter, log, askAgain)
  const blobs = new Blobs(store, calls.content, log, askAgain)
  const readHeavy = heavy.read.bind(heavy)
  const { runtime, differ, writeBlob } = calls
  const at = { runner, store, runtime, differ, blobs, writeBlob, files: deps.checkpointFiles }
  const checkpoints = new Checkpoints({ ...at, readHeavy, log, askAgain })
  const tasks = new Tasks(runner, store, runtime, networks, checkpoints, readHeavy, log, deps.observe, askAgain)
  const execs = new Execs(runner, calls.runtime, readHeavy, log, askAgain)
  const sandboxes = new Sandboxes(runner, runtime, readHeavy, clock, log, askAgain)
  const managers = { tasks, checkpoints, execs, networks, sandboxes, snapshots, blobs }
  runner.performWith(performer(managers, busy, recovering))

  const ledger = new Ledger(runner, store, new Emissions(runner, store, log), log)
  await ledger.loseAll('the supervisor was restarted')
  const reconciled: Reconciled = {
    tasks: new TaskRecovery(runner, store, calls.runtime, networks, busy, recovering, clock, log),
    sandboxes: new SandboxRecovery(runner, store, calls.runtime, busy, recovering, clock, log),
    networks: new NetworkRecovery(store, calls.network, networks, busy, recovering, log),
    snapshots,
    blobs,
  }
  reconciliation.begin(reconciled)
  const restarts = new Restarts(runner, store, readHeavy, clock, log)
  restarts.begin()
  const close = () => {
    restarts.close()
    reconciliation.stop()
    ledger.close()
    snapshots.close()
  }
  const orphans = () => orphansOf(store, reconciled)
  return { runner, heavy, snapshots, blobs, ledger, reconciliation, orphans, close }
}
