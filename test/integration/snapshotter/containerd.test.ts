// Debian's containerd runs containers on our snapshotters, as proxy plugins: the wire contract, checked by its owner.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { definitions } from '../../../plugins/snapshotter/plugin.js'
import { Host, keepUntilEnd, makePlaces } from '../../harness/host.js'
import { type Scope, until } from '../../harness/wait.js'
import { Bench } from './bench.js'

for (const definition of definitions) {
  t.test(`containerd unpacks an image on ${definition.id} and runs it`, async t => {
    const bench = await Bench.open(t, definition)
    const host = await containerdWith(t, `${bench.home}/plugin.sock`)
    const image = await host.load(undefined, '--snapshotter', 'purser')
    const run = (name: string, ...command: string[]) =>
      host.ok('run', '--rm', '--snapshotter', 'purser', image, host.id(name), ...command)
    t.match(await run('motd', 'cat', '/etc/motd', '/etc/issue'), /hello from the second layer\s+second layer/)
    t.equal(await run('removed', 'sh', '-c', 'ls /etc/removed 2>/dev/null || echo gone'), 'gone')
    t.equal(await run('write', 'sh', '-c', 'echo mine > /etc/motd; cat /etc/motd'), 'mine')

    const listed = await host.ok('snapshots', '--snapshotter', 'purser', 'ls')
    t.equal((listed.match(/Committed/g) ?? []).length, 2, 'the two layers stay, the containers are gone')
    t.match(await host.ok('snapshots', '--snapshotter', 'purser', 'usage'), /MiB|KiB/)
    // containerd removes from a snapshotter when it collects garbage: after a lease that is deleted with --sync.
    await host.ok('leases', 'create', '--id', 'collect')
    await host.ok('leases', 'delete', '--sync', 'collect')
    await until('the removed containers to be collected', async () => (await bench.names()).length === 2, {
      timeoutMs: 60_000,
    })
  })
}

async function containerdWith(scope: Scope, address: string): Promise<Host> {
  const places = makePlaces()
  const config = join(places.directory, 'containerd.toml')
  writeFileSync(config, configuration(places, address))
  const host = new Host(places.directory, places.root, places.state, places.address, {
    kind: 'containerd',
    command: 'containerd',
    args: ['--config', config, '--log-level', 'info'],
  })
  keepUntilEnd(scope, host)
  await host.start()
  return host
}

function configuration(places: { directory: string; root: string; state: string; address: string }, proxy: string) {
  return `
version = 2
root = "${places.root}"
state = "${places.state}"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.restart"]
[grpc]
  address = "${places.address}"
[ttrpc]
  address = "${places.address}.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "${places.directory}/opt"
[proxy_plugins.purser]
  type = "snapshot"
  address = "${proxy}"
`
}
