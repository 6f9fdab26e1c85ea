// What every task of this plugin works with.
import type { Logger } from 'pino'
import type { Gate } from '../kit/gate.js'
import type { Emission } from '../kit/plugin.js'
import type { Bundles, TaskName } from './bundle.js'
import type { ShimFacts } from './history.js'
import type { HostFacts } from './host.js'
import type { Settings } from './settings.js'
import type { Shims } from './shims.js'

/** A sandbox's shim, as its containers find it. */
export interface SandboxShim {
  binary: string
  /** What shims are shared by. */
  group: string
  facts: ShimFacts
}

/** What a sandbox works with. */
export interface RuntimeBase {
  settings: Settings
  host: HostFacts
  bundles: Bundles
  /** A container may bear its sandbox's id. */
  sandboxBundles: Bundles
  shims: Shims
  /** Passed by every shim that starts. */
  starts: Gate
  /** Where shims and OCI runtimes are looked for. */
  searchPath: string
  log: Logger
  /** Resolves once the event is durable. */
  emit(emission: Emission): Promise<bigint>
  /** Says which tasks do not answer now. */
  tellUnresponsive(tasks: readonly TaskName[]): void
  /** Aborts when the plugin stops: whatever is not done by then is the next run's. */
  signal: AbortSignal
}

export interface RuntimeContext extends RuntimeBase {
  /** Throws NOT_FOUND, or FAILED_PRECONDITION for one that has ended. */
  sandboxShim(name: TaskName): SandboxShim
}
