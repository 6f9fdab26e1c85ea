// Plugins as processes: bundled, on their own, lost and back again, under a supervisor that goes on.
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'
import type { Host } from '../harness/host.js'
import { busyboxName } from '../harness/image.js'
import { processes } from '../harness/process.js'
import { purser, purserOnly } from '../harness/supervisor.js'
import { table } from '../harness/table.js'
import { endWith, type Scope, until } from '../harness/wait.js'

t.test('each bundled plugin runs in a process of its own as well', { skip: purserOnly }, async t => {
  const host = await purser(t, { config: 'plugin_host = false\n' })
  for (const name of ['snapshotter', 'content', 'runtime', 'network']) startPlugin(t, host, name)
  await until('all plugins to serve', async () => (await states(host)).every(state => state === 'ok'))
  await host.load()
  const { stdout, code } = await host.ctr('run', '--rm', busyboxName, host.id('own'), 'echo', 'hello')
  t.same({ stdout, code }, { stdout: 'hello\n', code: 0 })
})

t.test('the plugin host is killed under a running container', { skip: purserOnly }, async t => {
  const host = await purser(t)
  await host.load()
  const id = host.id('kept')
  await host.ok('run', '-d', busyboxName, id, 'sleep', '1000')
  const before = table(await host.ok('tasks', 'ls'))
  const old = pluginHostOf(host)
  process.kill(old, 'SIGKILL')
  t.same(table(await host.ok('tasks', 'ls')), before, 'states are known without it')
  const { stdout } = await host.ctr('tasks', 'exec', '--exec-id', 'e', id, 'echo', 'back')
  t.equal(stdout, 'back\n', 'a call that needs it waits until it is back')
  t.not(pluginHostOf(host), old)
  await host.ok('tasks', 'kill', '--signal', 'SIGKILL', id)
  await until('the exit', async () => table(await host.ok('tasks', 'ls')).some(({ STATUS }) => STATUS === 'STOPPED'))
  await host.ok('tasks', 'rm', id)
  await host.ok('containers', 'rm', id)
})

t.test('a supervisor that is killed takes its plugin host with it', { skip: purserOnly }, async t => {
  const host = await purser(t)
  const pid = pluginHostOf(host)
  await host.kill()
  await t.resolves(until('the plugin host to end', () => !processes().some(process => process.pid === pid)))
})

function startPlugin(scope: Scope, host: Host, name: string): void {
  const child = spawn(
    process.execPath,
    [
      join(import.meta.dirname, `../../dist/plugin-${name}.js`),
      ...['--registry', `unix://${host.state}/plugins/registry.sock`],
      ...['--endpoint-dir', join(host.state, 'plugins')],
    ],
    { stdio: 'ignore' },
  )
  endWith(scope, () => void child.kill('SIGKILL'))
}

/** Of the plugins that are processes, as `ctr plugins ls` tells them. */
async function states(host: Host): Promise<string[]> {
  const kinds = ['snapshotter', 'content', 'differ', 'runtime', 'network']
  const rows = table(await host.ok('plugins', 'ls')).filter(({ TYPE }) =>
    kinds.some(kind => TYPE?.includes(`.${kind}.v`)),
  )
  return rows.length < 6 ? ['missing'] : rows.map(({ STATUS }) => STATUS ?? '')
}

function pluginHostOf(host: Host): number {
  const found = processes().find(
    ({ command }) =>
      command.some(word => word.endsWith('plugin-host.js')) && command.some(word => word.includes(host.state)),
  )
  if (!found) throw new Error('there is no plugin host')
  return found.pid
}
