// What to do when the journal and reality disagree about a task: a table, total and free of overlap (a test walks it).
import type { TaskState } from '../../domain/task/events.js'

/** What the runtime says of a task. `gone`: its shim is dead or was never there. */
export type Reality = 'absent' | 'dead' | 'unresponsive' | 'created' | 'running' | 'paused' | 'stopped'

export const realities: readonly Reality[] = [
  'absent',
  'dead',
  'unresponsive',
  'created',
  'running',
  'paused',
  'stopped',
]
export const journaled: readonly TaskState[] = [
  'absent',
  'creating',
  'created',
  'starting',
  'running',
  'pausing',
  'paused',
  'resuming',
  'checkpointing',
  'checkpointingPaused',
  'checkpointingStopped',
  'stopped',
  'deleting',
]

export type Action =
  /** They agree, or the runtime will tell: nothing to record. */
  | 'adopt'
  /** It does not answer: look again later, touch nothing. */
  | 'wait'
  /** Ours, and nobody knows it: remove it. */
  | 'destroy'
  /** Its creation was never answered, so its client knows of a failure: remove what there is, and record that. */
  | 'fail-create'
  | 'record-start'
  | 'fail-start'
  | 'record-pause'
  | 'fail-pause'
  | 'record-resume'
  | 'fail-resume'
  | 'fail-checkpoint'
  /** A checkpoint that was cut short has left it frozen: it is resumed, and the failure recorded. */
  | 'thaw'
  /** It ended while nobody watched, and the runtime knows how. */
  | 'record-exit'
  /** It ended and nobody knows how: 137, as containerd says of a container whose shim died. */
  | 'record-lost'
  | 'delete-again'

export interface Rule {
  action: Action
  journal: readonly TaskState[]
  reality: readonly Reality[]
}

const living = ['created', 'running', 'paused'] as const
const gone = ['absent', 'dead'] as const
const begun = ['running', 'pausing', 'paused', 'resuming', 'checkpointing', 'checkpointingPaused'] as const

export const rules: readonly Rule[] = [
  //  action             the journal says                           the runtime says
  rule('adopt', ['absent'], ['absent']),
  rule('destroy', ['absent'], ['dead', 'unresponsive', ...living, 'stopped']),
  rule('fail-create', ['creating'], realities),
  rule('wait', ['created', 'starting', ...begun, 'stopped'], ['unresponsive']),
  rule('record-lost', ['created', 'starting', ...begun], gone),
  rule('record-exit', ['created', 'starting', ...begun], ['stopped']),
  rule('adopt', ['created'], living),
  rule('fail-start', ['starting'], ['created']),
  rule('record-start', ['starting'], ['running', 'paused']),
  rule('adopt', ['running'], living),
  rule('record-pause', ['pausing'], ['paused']),
  rule('fail-pause', ['pausing'], ['created', 'running']),
  rule('adopt', ['paused'], living),
  rule('record-resume', ['resuming'], ['created', 'running']),
  rule('fail-resume', ['resuming'], ['paused']),
  rule('fail-checkpoint', ['checkpointing'], ['created', 'running']),
  rule('thaw', ['checkpointing'], ['paused']),
  rule('fail-checkpoint', ['checkpointingPaused'], living),
  rule('fail-checkpoint', ['checkpointingStopped'], realities),
  rule('adopt', ['stopped'], [...gone, ...living, 'stopped']),
  rule('delete-again', ['deleting'], realities),
]

/** The one rule for a combination. */
export function actionFor(journal: TaskState, reality: Reality): Action {
  const found = rules.find(rule => rule.journal.includes(journal) && rule.reality.includes(reality))
  if (!found) throw new Error(`no recovery rule for a task that is ${journal} in the journal and ${reality} in reality`)
  return found.action
}

function rule(action: Action, journal: readonly TaskState[], reality: readonly Reality[]): Rule {
  return { action, journal, reality }
}
