// What can go wrong, and how often each of it does.
import type { Chance } from './random.js'

const weights = {
  'the supervisor is killed': 4,
  'the power goes': 2,
  'the supervisor is stopped': 2,
  'the plugin host is killed': 5,
  'the plugin host hangs': 1,
  'the disk is full': 1,
  'the disk fails': 1,
  'the broker is killed': 2,
  'the broker is wiped': 0.5,
  'the broker is cut off': 2,
  'a shim is killed': 2,
  'old events are dropped': 12,
  'a shim is silent': 2,
  'the broker is slow': 1,
  'the broker is full': 1,
} as const

export interface Fault {
  name: keyof typeof weights
}

const names: Fault['name'][] = [
  'the supervisor is killed',
  'the power goes',
  'the supervisor is stopped',
  'the plugin host is killed',
  'the plugin host hangs',
  'the disk is full',
  'the disk fails',
  'the broker is killed',
  'the broker is wiped',
  'the broker is cut off',
  'a shim is killed',
  'old events are dropped',
  'a shim is silent',
  'the broker is slow',
  'the broker is full',
]

export function faultOf(chance: Chance): Fault {
  let left = chance.next() * names.reduce((total, name) => total + weights[name], 0)
  for (const name of names) {
    left -= weights[name]
    if (left < 0) return { name }
  }
  return { name: chance.pick(names) }
}
