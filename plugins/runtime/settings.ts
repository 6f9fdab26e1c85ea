// The plugin's section of the configuration.
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { type Config, requireString } from '../kit/plugin.js'

export interface Settings {
  /** Directory for bundles and the OCI runtime's state; need not survive a reboot. */
  state: string
  /** The supervisor's gRPC socket: shims get it, and derive the name of their own from it. */
  address: string
  /** Where shims tell their events. Must stay the same across restarts: a shim never learns another. */
  ttrpc: string
  /** The OCI runtime's state, unless the client's options name another. */
  runtimeRoot: string
  /** Shims that may be starting at once. */
  startsMax: number
  /** How often each shim is asked whether it answers. */
  askMs: number
  deadlines: Deadlines
}

/** How long to wait, in milliseconds. */
export interface Deadlines {
  /** For the shim's `start`. */
  shimStartMs: number
  /** For the shim to answer when it is taken up again. */
  reconnectMs: number
  /** For somebody to open the reading ends of a process's FIFOs. */
  readerMs: number
  /** For a container to be created, hooks included. Then the shim is killed and all is cleaned up. */
  createMs: number
  /** For a process to start. An init process's shim is killed then. */
  startMs: number
  /** For every other call. */
  callMs: number
  checkpointMs: number
  /** For the shim's `delete` after the shim has died. */
  cleanUpMs: number
}

/** The supervisor waits a little longer than these, so that it hears our reason and not only its own deadline. */
const defaults: Deadlines = {
  shimStartMs: 10_000,
  reconnectMs: 5_000,
  readerMs: 5_000,
  createMs: 60_000,
  startMs: 60_000,
  callMs: 8_000,
  checkpointMs: 600_000,
  cleanUpMs: 30_000,
}

export function readSettings(config: Config): Settings {
  const state = requireString(config, 'state')
  const address = requireString(config, 'address')
  const milliseconds = (key: keyof Deadlines) => positive(config, key, defaults[key])
  return {
    state,
    address,
    ttrpc: optionalString(config, 'ttrpc', `${address}.ttrpc`),
    runtimeRoot: optionalString(config, 'runtimeRoot', join(state, 'runc')),
    askMs: positive(config, 'askMs', 10_000),
    startsMax: positive(config, 'startsMax', 2 * availableParallelism()),
    deadlines: {
      shimStartMs: milliseconds('shimStartMs'),
      reconnectMs: milliseconds('reconnectMs'),
      readerMs: milliseconds('readerMs'),
      createMs: milliseconds('createMs'),
      startMs: milliseconds('startMs'),
      callMs: milliseconds('callMs'),
      checkpointMs: milliseconds('checkpointMs'),
      cleanUpMs: milliseconds('cleanUpMs'),
    },
  }
}

const optionalString = (config: Config, key: string, otherwise: string): string =>
  config[key] === undefined ? otherwise : requireString(config, key)

function positive(config: Config, key: string, otherwise: number): number {
  const value = config[key] ?? otherwise
  if (typeof value === 'number' && Number.isInteger(value) && value > 0) return value
  throw new Error(`the runtime plugin's setting "${key}" must be a whole number above 0`)
}
