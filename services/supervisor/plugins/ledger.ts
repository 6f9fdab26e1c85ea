// The port by which the registry tells the journal what becomes of plugins, and what they emit.
import type { PluginKind } from '../../../plugins/kit/plugin.js'
import type { Emit } from '../../../proto/gen/purser/plugins/v1/registry.js'
import type { Sequence } from '../journal/journal.js'
import type { PluginFacts } from './live.js'

/** Names one registration. */
export interface PluginRef {
  kind: PluginKind
  id: string
  epoch: bigint
}

/** What the registry has to tell the journal: each promise resolves once the fact is durable. */
export interface PluginLedger {
  /** Answers the epoch: higher than any that this kind and id had before. A failure refuses the plugin for now. */
  registered(facts: PluginFacts): Promise<{ epoch: bigint }>
  ready(plugin: PluginRef, exports: Readonly<Record<string, string>>): Promise<void>
  draining(plugin: PluginRef, reason: string): Promise<void>
  lost(plugin: PluginRef, reason: string): Promise<void>
  left(plugin: PluginRef, reason: string): Promise<void>
  /**
   * Answers the event's place in the journal, 0 when it told nothing new (a repeat, or one of no interest). A refusal
   * as a StatusError of a kind that repeating cannot cure drops the event; any other failure is tried again.
   */
  emitted(plugin: PluginRef, emission: Emit): Promise<Sequence>
}
