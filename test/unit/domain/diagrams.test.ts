// The domain's README shows the machines as they are. UPDATE=1 writes the diagrams anew.
import { readFileSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { containerMachine } from '../../../services/supervisor/domain/container/machine.js'
import { diagram, withDiagrams } from '../../../services/supervisor/domain/diagrams.js'
import { execMachine } from '../../../services/supervisor/domain/exec/machine.js'
import { networkMachine } from '../../../services/supervisor/domain/network/machine.js'
import { pluginMachine } from '../../../services/supervisor/domain/plugin/machine.js'
import { restartMachine } from '../../../services/supervisor/domain/restart/machine.js'
import { sandboxMachine } from '../../../services/supervisor/domain/sandbox/machine.js'
import { taskMachine } from '../../../services/supervisor/domain/task/machine.js'

const file = new URL('../../../services/supervisor/domain/README.md', import.meta.url)
const machines = {
  container: containerMachine.machine,
  exec: execMachine.machine,
  network: networkMachine.machine,
  plugin: pluginMachine.machine,
  restart: restartMachine.machine,
  sandbox: sandboxMachine.machine,
  task: taskMachine.machine,
}

t.test('the README shows every machine as it is', async t => {
  const readme = readFileSync(file, 'utf8')
  const drawn = withDiagrams(readme, machines)
  if (process.env.UPDATE) writeFileSync(file, drawn)
  t.equal(process.env.UPDATE ? drawn : readme, drawn, 'run again with UPDATE=1 to write the diagrams anew')
  for (const name of Object.keys(machines)) t.match(readme, `<!-- diagram: ${name} -->`)
})

t.test('a diagram has an edge for each way, with its facts and conditions', async t => {
  const lines = diagram(taskMachine.machine).split('\n')
  t.equal(lines[0], 'stateDiagram-v2')
  t.ok(lines.includes('  [*] --> creating: TaskCreateRequested'))
  t.ok(lines.includes('  deleting --> stopped: TaskDeleteFailed [exited]'))
  t.ok(lines.includes('  deleting --> created: TaskDeleteFailed'))
  t.ok(
    diagram(execMachine.machine).includes('running --> [*]: ExecAbandoned'),
    'what holds for all states is drawn for each',
  )
  t.notMatch(diagram(execMachine.machine), /\[\*\] --> \[\*\]/, 'what a state forbids is not drawn')
  t.throws(() => withDiagrams('<!-- diagram: nothing -->\n', machines), /no such machine/)
})
