// What a plugin is, to whoever writes one: a definition that opens into services.
import type { ServiceDefinition, UntypedServiceImplementation } from '@grpc/grpc-js'
import type { Logger } from 'pino'
import type { Any } from '../../proto/gen/google/protobuf/any.js'
import type { TaskName } from '../../proto/gen/purser/plugins/v1/registry.js'

export type PluginKind = 'snapshotter' | 'content' | 'differ' | 'runtime' | 'network'

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json }
export type Config = { [key: string]: Json }

/** A plugin before it runs: who it is, and how to open it once the supervisor has sent its configuration. */
export interface PluginDefinition {
  kind: PluginKind
  /** The name by which calls choose it: "overlayfs", "native", "walking", … */
  id: string
  version: string
  capabilities: string[]
  open(context: PluginContext): Promise<OpenPlugin>
}

/** What the kit hands to a plugin that opens. */
export interface PluginContext {
  /** The plugin's section of the supervisor's configuration, with its directories filled in. */
  config: Config
  log: Logger
  /** Resolves with the journal's sequence once the event is durable; survives a lost connection by sending again. */
  emit(emission: Emission): Promise<bigint>
  /** Says which tasks do not answer now, all of them, whenever that changes. */
  tellUnresponsive(tasks: readonly TaskName[]): void
  /** Aborts when the plugin has to stop. */
  signal: AbortSignal
}

export interface Emission {
  /** containerd namespace, '' for the plugin itself. */
  namespace: string
  /** Begins with '/'. */
  topic: string
  event: Any
  /** Unique within the plugin; made up when absent. Give one that names the fact, so that a repeat is recognised. */
  id?: string
}

/** A plugin that is ready for calls. */
export interface OpenPlugin {
  services: PluginService[]
  /** Facts for the supervisor, by kind: a content plugin names its blobs' directory as `root`. */
  exports?: Record<string, string>
  /** Ends what the plugin started and closes what it opened; calls under way have been answered before. */
  close(): Promise<void>
}

export interface PluginService {
  definition: ServiceDefinition
  implementation: UntypedServiceImplementation
}

/** A setting that must be there: the supervisor always sends it. */
export function requireString(config: Config, key: string): string {
  const value = config[key]
  if (typeof value !== 'string' || value === '')
    throw new Error(`the plugin's configuration lacks "${key}": the supervisor sends it in Welcome.config`)
  return value
}
