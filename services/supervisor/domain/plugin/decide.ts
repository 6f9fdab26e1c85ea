// Decides what may happen to a plugin.
import { accept, type Decision } from '../decision.js'
import type { Lifecycle } from '../lifecycle.js'
import { pluginStream } from '../streams.js'
import type { PluginEvent, PluginFacts, PluginState } from './events.js'
import { pluginMachine } from './machine.js'

export type Plugin = Lifecycle<PluginState, PluginFacts>

/**
 * A step of a plugin's life. What an older registration still says, and what was emitted before, is no news: accepted
 * without a fact.
 */
export function stepPlugin(plugin: Plugin, event: PluginEvent, namespace = ''): Decision {
  if (!pluginMachine.next(plugin, event)) return accept()
  return accept({ namespace, stream: pluginStream(event.kind, event.id), event })
}
