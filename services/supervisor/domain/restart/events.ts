// The facts about keeping a container's task as its labels say: running again after it ended, or stopped.
import type { Timestamp } from '../values.js'

interface OfRestart {
  containerId: string
}

/** What shall be done to the task. */
export type RestartAction = 'start' | 'stop'

export interface RestartScheduled extends OfRestart {
  type: 'RestartScheduled'
  action: RestartAction
  due: Timestamp
  /** How many in a row have not lasted: each makes the next wait longer. */
  attempt: number
}
export interface RestartBegun extends OfRestart {
  type: 'RestartBegun'
}
export interface RestartDone extends OfRestart {
  type: 'RestartDone'
  at: Timestamp
}
/** It is tried again when it is due. */
export interface RestartFailed extends OfRestart {
  type: 'RestartFailed'
  reason: string
  due: Timestamp
  attempt: number
}
/** It is not wanted any more, or somebody else did it. */
export interface RestartCancelled extends OfRestart {
  type: 'RestartCancelled'
}

export type RestartEvent = RestartScheduled | RestartBegun | RestartDone | RestartFailed | RestartCancelled

export interface RestartFacts {
  action: RestartAction
  due: Timestamp
  attempt: number
  /** When the last one was done; '' when none was. */
  doneAt: Timestamp
}

export type RestartState = 'absent' | 'waiting' | 'restarting' | 'resting'
