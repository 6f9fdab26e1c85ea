// Containers on a CNI network, asked for by a label: addresses, reachability, and that nothing of it stays.
import { readdirSync } from 'node:fs'
import t from 'tap'
import { run } from '../harness/ctr.js'
import { busyboxName } from '../harness/image.js'
import { bridge } from '../harness/network.js'
import { purserOnly, supervisor } from '../harness/supervisor.js'

if (purserOnly !== false) {
  t.plan(0, purserOnly)
  process.exit(0)
}

const network = bridge(t, 'pair')
const host = await supervisor(t, { config: `[network]\nconf_dirs = ["${network.confDirectory}"]\n` })
host.networkInterfaces.push(network.bridge)
await host.load()

const onNetwork = (id: string, ...command: string[]) =>
  host.ok('run', '-d', '--label', 'io.purser/network=pair', busyboxName, id, ...command)

async function addressOf(id: string): Promise<string> {
  const info: unknown = JSON.parse(await host.ok('containers', 'info', id))
  t.match(info, { Labels: { 'io.purser/network.addresses': /^10\.\d+\.\d+\.\d+\/24$/ } })
  const label = /"io\.purser\/network\.addresses": "([^"/]+)/.exec(JSON.stringify(info, null, 1))
  return label?.[1] ?? ''
}

async function remove(...ids: string[]): Promise<void> {
  for (const id of ids) {
    await host.ok('tasks', 'rm', '--force', id)
    await host.ok('containers', 'rm', id)
  }
}

t.test('two containers get addresses and reach each other', async t => {
  const [one, two] = [host.id('one'), host.id('two')]
  await onNetwork(one, 'sleep', '60')
  await onNetwork(two, 'sleep', '60')
  const [first, second] = [await addressOf(one), await addressOf(two)]
  t.not(first, second)
  const exec = (id: string, ...command: string[]) =>
    host.ctr('tasks', 'exec', '--exec-id', host.id('x'), id, ...command)
  t.equal((await exec(one, 'ping', '-c', '1', '-W', '2', second)).code, 0)
  t.equal((await exec(two, 'ping', '-c', '1', '-W', '2', first)).code, 0)
  t.match((await exec(one, 'ip', '-o', 'addr', 'show', 'eth0')).stdout, first)
  await remove(one, two)
  t.same(
    readdirSync(network.addressDirectory).filter(name => /^\d/.test(name)),
    [],
    'both addresses are free again',
  )
})

t.test('the network goes on without the supervisor and is cleared away after', async t => {
  const id = host.id('survivor')
  await onNetwork(id, 'sleep', '60')
  const address = await addressOf(id)
  await host.kill()
  t.equal((await run('busybox', ['ping', '-c', '1', '-W', '2', address]).end()).code, 0)
  await host.start()
  t.equal(await addressOf(id), address)
  await remove(id)
  t.not((await run('busybox', ['ping', '-c', '1', '-W', '1', address]).end()).code, 0)
  t.same(
    readdirSync(network.addressDirectory).filter(name => /^\d/.test(name)),
    [],
  )
})

t.test('a container whose network fails is not started, and nothing is left of it', async t => {
  const id = host.id('nowhere')
  const { code, stderr } = await host.ctr('run', '--rm', '--label', 'io.purser/network=none', busyboxName, id, 'true')
  t.equal(code, 1)
  t.match(stderr, /network "?none"?.*not found/)
  t.equal(await host.ok('containers', 'ls', '-q'), '')
})

t.test('a short run with a network leaves nothing, ten at once neither', async t => {
  const ids = Array.from({ length: 10 }, () => host.id('short'))
  const label = ['--label', 'io.purser/network=pair']
  const runs = ids.map(id =>
    host.ctr('run', '--rm', ...label, busyboxName, id, 'ip', '-o', '-4', 'addr', 'show', 'eth0'),
  )
  const results = await Promise.all(runs)
  t.same(
    results.map(({ code }) => code),
    ids.map(() => 0),
    results.map(({ stderr }) => stderr).join(''),
  )
  t.equal(new Set(results.map(({ stdout }) => stdout.split(' ')[6])).size, 10, 'each had an address of its own')
  t.same(
    readdirSync(network.addressDirectory).filter(name => /^\d/.test(name)),
    [],
  )
})

t.test('nothing of all this is left', async t => {
  await host.stop()
  network.removeBridge()
  t.same(await host.nothingLeft(), [])
})
