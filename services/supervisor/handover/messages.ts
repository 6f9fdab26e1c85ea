// What two processes say to each other while one supervisor follows the other. They may be of different versions:
// what is here may be added to, never changed.
import type { Settings } from '../config.js'

/** In a successor's environment: an Invitation as JSON. */
export const invitationVariable = 'PURSER_HANDOVER'

/** What a successor has to find in its own settings, too: somewhere else it would be another supervisor. */
export type Places = Pick<Settings, 'root' | 'state' | 'address' | 'node'> & { metrics: string }

export interface Invitation {
  places: Places
  /** The listening sockets' descriptors in the successor. */
  descriptors: { api: number; metrics: number | null }
}

/** In this order. */
export type FromSuccessor =
  /** Everything is loaded, and nothing was touched. */
  | { is: 'prepared'; version: string }
  /** The journal is open; `path` is served for the incumbent alone. */
  | { is: 'opened'; path: string }
  /** The address is served. */
  | { is: 'serving' }
  /** At any time, as the last word. */
  | { is: 'refused'; reason: string }

export type FromIncumbent =
  /** Nobody holds the journal any more. */
  | { is: 'go' }
  /** Everything was asked for on `path`. */
  | { is: 'passed' }
  /** The service manager knows: live on your own. */
  | { is: 'yours' }

export function placesOf({ root, state, address, node, metrics }: Settings): Places {
  return { root, state, address, node, metrics: metrics ? `${metrics.host}:${metrics.port}` : 'off' }
}

export function isFromSuccessor(message: unknown): message is FromSuccessor {
  if (!is(message)) return false
  switch (message.is) {
    case 'prepared':
      return 'version' in message && typeof message.version === 'string'
    case 'opened':
      return 'path' in message && typeof message.path === 'string'
    case 'serving':
      return true
    case 'refused':
      return 'reason' in message && typeof message.reason === 'string'
    default:
      return false
  }
}

export const isFromIncumbent = (message: unknown): message is FromIncumbent =>
  is(message) && ['go', 'passed', 'yours'].includes(message.is)

const is = (message: unknown): message is { is: string } =>
  typeof message === 'object' && message !== null && 'is' in message && typeof message.is === 'string'
