// The world of the simulation that runs now: what the substitutes for timers, files, chance and the broker act upon.

import type { Broker } from '../broker.js'
import type { SimulatedDisk } from '../disk.js'
import { Chance } from '../random.js'
import { Time } from '../time.js'

export interface Outside {
  time: Time
  chance: Chance
  disk: SimulatedDisk | undefined
  broker: Broker | undefined
}

/** Before the first simulation there is an empty world, since modules may look at the clock when they are loaded. */
export const outside: Outside = { time: new Time(), chance: new Chance(0, 'none'), disk: undefined, broker: undefined }
