// The recovery table: every combination of what the journal and the runtime say has exactly one rule, and it is legal.
import t from 'tap'
import { isRefusal } from '../../../services/supervisor/domain/decision.js'
import { recordDeleted, recordExit, stepTask, type Task } from '../../../services/supervisor/domain/task/decide.js'
import type { TaskEvent, TaskState } from '../../../services/supervisor/domain/task/events.js'
import { taskMachine } from '../../../services/supervisor/domain/task/machine.js'
import {
  type Action,
  actionFor,
  journaled,
  realities,
  rules,
} from '../../../services/supervisor/effects/recovery/rules.js'

const exit = { status: 137, at: '2026-01-02T03:04:05.000000006Z' }
const containerId = 'c'

t.test('each combination of facts has one rule', t => {
  for (const journal of journaled) {
    for (const reality of realities) {
      const matching = rules.filter(rule => rule.journal.includes(journal) && rule.reality.includes(reality))
      t.equal(matching.length, 1, `${journal} in the journal, ${reality} in reality`)
      t.equal(matching[0]?.action, actionFor(journal, reality))
    }
  }
  t.end()
})

t.test('what a rule records is a step that the machine allows', t => {
  for (const journal of journaled) {
    for (const reality of realities) {
      const action = actionFor(journal, reality)
      const decision = decide(action, taskIn(journal))
      if (!decision) continue
      t.notOk(isRefusal(decision), `${action} of a task that is ${journal}`)
      t.ok('facts' in decision && decision.facts.length > 0, `${action} of a task that is ${journal} records something`)
    }
  }
  t.end()
})

t.test('a start that nobody recorded comes before the exit that was found', t => {
  const decision = recordExit('default', containerId, taskIn('starting'), { pid: 7, exit })
  t.match(decision, {
    facts: [{ event: { type: 'TaskStarted', pid: 7 } }, { event: { type: 'TaskExited', pid: 7, exit } }],
  })
  t.end()
})

t.test('nothing that runs is destroyed unless the journal never promised it', t => {
  const promised: TaskState[] = [
    'created',
    'starting',
    'running',
    'pausing',
    'paused',
    'resuming',
    'checkpointing',
    'stopped',
  ]
  for (const journal of promised) {
    for (const reality of realities) {
      t.not(actionFor(journal, reality), 'destroy')
      t.not(actionFor(journal, reality), 'fail-create')
    }
  }
  t.end()
})

/** The decision that an action asks for; undefined where it records nothing. */
function decide(action: Action, task: Task) {
  const reason = 'test'
  const step = (event: TaskEvent) => stepTask('default', task, event)
  switch (action) {
    case 'adopt':
    case 'wait':
    case 'destroy':
      return undefined
    case 'fail-create':
      return step({ type: 'TaskCreateFailed', containerId, reason })
    case 'record-start':
      return step({ type: 'TaskStarted', containerId, pid: 7 })
    case 'fail-start':
      return step({ type: 'TaskStartFailed', containerId, reason })
    case 'record-pause':
      return step({ type: 'TaskPaused', containerId })
    case 'fail-pause':
      return step({ type: 'TaskPauseFailed', containerId, reason })
    case 'record-resume':
      return step({ type: 'TaskResumed', containerId })
    case 'fail-resume':
      return step({ type: 'TaskResumeFailed', containerId, reason })
    case 'thaw':
    case 'fail-checkpoint':
      return step({ type: 'TaskCheckpointFailed', containerId, reason })
    case 'record-exit':
    case 'record-lost':
      return recordExit('default', containerId, task, { pid: 7, exit })
    case 'delete-again':
      return recordDeleted('default', containerId, task, new Map(), { pid: 7, exit })
  }
}

/** A task that has come to the state by the machine's own steps. */
function taskIn(state: TaskState): Task {
  const stdio = { stdin: '', stdout: '', stderr: '', terminal: false }
  const create: TaskEvent[] = [
    { type: 'TaskCreateRequested', containerId, runtime: 'r', stdio, rootfs: [], options: null, checkpoint: '' },
  ]
  const created: TaskEvent[] = [
    ...create,
    { type: 'TaskCreated', containerId, pid: 7, bundle: '/b', stdio, rootfs: [], checkpoint: '', adjustments: [] },
  ]
  const starting: TaskEvent[] = [...created, { type: 'TaskStartRequested', containerId }]
  const running: TaskEvent[] = [...starting, { type: 'TaskStarted', containerId, pid: 7 }]
  const pausing: TaskEvent[] = [...running, { type: 'TaskPauseRequested', containerId }]
  const paused: TaskEvent[] = [...pausing, { type: 'TaskPaused', containerId }]
  const resuming: TaskEvent[] = [...paused, { type: 'TaskResumeRequested', containerId }]
  const asked: TaskEvent = { type: 'TaskCheckpointRequested', containerId, options: null, imagePath: '', lease: null }
  const ended: TaskEvent = { type: 'TaskExited', containerId, pid: 7, exit }
  const stopped: TaskEvent[] = [...running, { type: 'TaskExited', containerId, pid: 7, exit }]
  const deleting: TaskEvent[] = [...stopped, { type: 'TaskDeleteRequested', containerId }]
  const paths = {
    absent: [],
    creating: create,
    created,
    starting,
    running,
    pausing,
    paused,
    resuming,
    checkpointing: [...running, asked],
    checkpointingPaused: [...paused, asked],
    checkpointingStopped: [...running, asked, ended],
    stopped,
    deleting,
  }
  const task = paths[state].reduce<Task>((task, event) => taskMachine.next(task, event) ?? task, taskMachine.absent)
  if (task.state !== state) throw new Error(`the path to ${state} ends in ${task.state}`)
  return task
}
