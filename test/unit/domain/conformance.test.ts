// The machines take their steps by a shorter way than xstate's own `transition`: both must come to the same, everywhere.
import t from 'tap'
import { transition } from 'xstate'
import { containerMachine } from '../../../services/supervisor/domain/container/machine.js'
import { execMachine } from '../../../services/supervisor/domain/exec/machine.js'
import type { Lifecycle, LifecycleMachine } from '../../../services/supervisor/domain/lifecycle.js'
import { networkMachine } from '../../../services/supervisor/domain/network/machine.js'
import { pluginMachine } from '../../../services/supervisor/domain/plugin/machine.js'
import { restartMachine } from '../../../services/supervisor/domain/restart/machine.js'
import { sandboxMachine } from '../../../services/supervisor/domain/sandbox/machine.js'
import { taskMachine } from '../../../services/supervisor/domain/task/machine.js'
import { container, exec, network, plugin, restart, sandbox, task } from './facts.js'

/** Walks through everything that can be reached, and compares each step. Answers how many there were. */
function compare<State extends string, Facts, Event extends { type: string }>(
  { machine, absent, next }: LifecycleMachine<State, Facts, Event>,
  events: readonly Event[],
): { steps: number; differences: unknown[] } {
  const seen = new Map<string, Lifecycle<State, Facts>>([[JSON.stringify(absent), absent]])
  const differences: unknown[] = []
  let steps = 0
  for (const lifecycle of seen.values()) {
    for (const event of events) {
      steps += 1
      const snapshot = machine.resolveState({ value: lifecycle.state, context: lifecycle.facts })
      const [after] = transition(machine, snapshot, event)
      const expected = snapshot.can(event) ? { state: after.value, facts: after.context } : undefined
      const found = next(lifecycle, event)
      if (JSON.stringify(found) !== JSON.stringify(expected)) differences.push({ lifecycle, event, found, expected })
      if (found) seen.set(JSON.stringify(found), found)
    }
  }
  return { steps, differences }
}

t.test('each step of each machine is the one that xstate takes', async t => {
  const compared = {
    task: compare(taskMachine, Object.values(task)),
    exec: compare(execMachine, Object.values(exec)),
    container: compare(containerMachine, Object.values(container)),
    network: compare(networkMachine, Object.values(network)),
    restart: compare(restartMachine, Object.values(restart)),
    sandbox: compare(sandboxMachine, Object.values(sandbox)),
    plugin: compare(
      pluginMachine,
      [1, 2].flatMap(epoch => Object.values(plugin(epoch))),
    ),
  }
  for (const [name, { steps, differences }] of Object.entries(compared)) {
    t.ok(steps > 10, `${name}: ${steps} steps`)
    t.same(differences, [], name)
  }
})
