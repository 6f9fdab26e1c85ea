// The simulator itself: a seed does the same each time.
import { spawnSync } from 'node:child_process'
import t from 'tap'

const simulate = (...args: string[]) => {
  const script = new URL('../../dist/simulate.js', import.meta.url).pathname
  const { stdout } = spawnSync(process.execPath, [script, '--json', ...args], { encoding: 'utf8' })
  const { seconds, rate, ...told } = JSON.parse(stdout)
  return told
}

t.test('the same seed takes the same steps', async t => {
  const once = simulate('--seed', '11', '--steps', '0', '--each', '5000')
  t.ok(once.steps >= 5000)
  t.same(simulate('--seed', '11', '--steps', '0', '--each', '5000'), once)
  t.not(simulate('--seed', '12', '--steps', '0', '--each', '5000').hash, once.hash)
})
