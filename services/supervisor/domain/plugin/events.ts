// The facts in the life of a plugin, and what plugins say.
import type { SmallAny, Timestamp } from '../values.js'

interface OfPlugin {
  kind: string
  id: string
}

export interface PluginRegistered extends OfPlugin {
  type: 'PluginRegistered'
  version: string
  endpoint: string
  capabilities: readonly string[]
  epoch: number
}
export interface PluginReady extends OfPlugin {
  type: 'PluginReady'
  epoch: number
}
export interface PluginDraining extends OfPlugin {
  type: 'PluginDraining'
  epoch: number
  reason: string
}
export interface PluginLost extends OfPlugin {
  type: 'PluginLost'
  epoch: number
  reason: string
}
export interface PluginLeft extends OfPlugin {
  type: 'PluginLeft'
  epoch: number
  reason: string
}
/** Something that a plugin emitted and that is not part of another lifecycle. */
export interface PluginEmitted extends OfPlugin {
  type: 'PluginEmitted'
  emissionId: string
  topic: string
  at: Timestamp | null
  event: SmallAny | null
}

export type PluginEvent = PluginRegistered | PluginReady | PluginDraining | PluginLost | PluginLeft | PluginEmitted

export interface PluginFacts {
  version: string
  endpoint: string
  capabilities: readonly string[]
  /** Counts its registrations; only the newest one speaks for it. */
  epoch: number
  /** The ids of its latest emissions, so that a repeated one is recognised. */
  emissions: readonly string[]
}

export type PluginState = 'absent' | 'opening' | 'ready' | 'draining' | 'lost' | 'left'

/** How many emission ids are remembered: more than a plugin may have unacknowledged. */
export const emissionsRemembered = 1024
