// Supervisors side by side, and supervisors that would get into each other's way.
import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { run } from '../harness/ctr.js'
import type { Host } from '../harness/host.js'
import { busyboxName } from '../harness/image.js'
import { purser, purserOnly, supervisor } from '../harness/supervisor.js'
import { table } from '../harness/table.js'
import { upgrade } from '../harness/upgrade.js'

const pidOf = async (host: Host, id: string) => table(await host.ok('tasks', 'ls')).find(row => row.TASK === id)?.PID

// Two of containerd share runc's state and cgroups by default and refuse the second.
t.test('two supervisors run containers of the same id without noticing each other', { skip: purserOnly }, async t => {
  const [one, two] = [await supervisor(t), await supervisor(t)]
  const id = one.id('same')
  for (const host of [one, two]) {
    await host.load()
    // The cgroup is the client's to choose, and ctr's choice depends on the id alone: `rm --force` signals all in it.
    const cgroup = `/default/${id}${host === one ? '.one' : '.two'}`
    await host.ok('run', '-d', '--cgroup', cgroup, '--env', `DIR=${host.directory}`, busyboxName, id, 'sleep', '60')
  }
  t.not(await pidOf(one, id), await pidOf(two, id))
  for (const host of [one, two])
    t.equal(await host.ok('tasks', 'exec', '--exec-id', 'who', id, 'sh', '-c', 'echo $DIR'), host.directory)
  await one.ok('tasks', 'rm', '--force', id)
  await one.ok('containers', 'rm', id)
  t.equal(await two.ok('tasks', 'exec', '--exec-id', 'alive', id, 'echo', 'here'), 'here')
  await one.stop()
  t.match(table(await two.ok('tasks', 'ls')), [{ TASK: id, STATUS: 'RUNNING' }])
  await two.ok('tasks', 'rm', '--force', id)
  await two.ok('containers', 'rm', id)
  await two.stop()
  for (const host of [one, two]) t.same(await host.nothingLeft(), [])
})

/** Starts a supervisor that is expected to give up, and answers what it said. */
async function refusal(t: Test, ...flags: string[]): Promise<string> {
  const host = await purser(t, { start: false, flags })
  const error = await host.start().then(
    () => new Error('it started'),
    (reason: unknown) => reason,
  )
  return String(error)
}

t.test('a second supervisor on one root is refused, and the first goes on', { skip: purserOnly }, async t => {
  const first = await supervisor(t)
  const said = await refusal(t, '--root', first.root)
  t.match(said, first.root, 'it names the directory')
  t.match(said, /in use|another|lock|holds/i, 'and why')
  t.ok(await first.answers())
})

t.test('an address where somebody answers is refused, and whoever answers goes on', { skip: purserOnly }, async t => {
  const first = await supervisor(t)
  const said = await refusal(t, '--address', first.address)
  t.match(said, first.address)
  t.ok(await first.answers())
})

t.test('an address that a dead supervisor has left is taken over', async t => {
  const host = await supervisor(t)
  await host.kill()
  t.ok(existsSync(host.address), 'its socket is still there')
  await host.start()
  t.ok(await host.answers())
})

t.test('a metrics port that is taken is named', { skip: purserOnly }, async t => {
  const holder = createServer()
  await new Promise<void>(resolve => holder.listen(0, '127.0.0.1', resolve))
  t.teardown(() => holder.close())
  const bound = holder.address()
  if (bound === null || typeof bound === 'string') throw new Error('no port')
  t.match(await refusal(t, '--metrics', `127.0.0.1:${bound.port}`), new RegExp(`${bound.port}`))
})

t.test('a configuration that cannot be followed is refused with file and setting', { skip: purserOnly }, async t => {
  const directory = mkdtempSync(join(tmpdir(), 'purser-config-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'purser.toml')
  for (const [text, complaint] of [
    ['rooot = "/x"', /unknown setting "rooot"/],
    ['[network]\nconf_dirs = "x"', /network\.conf_dirs/],
    ['a = [', /purser\.toml/],
  ] as const) {
    writeFileSync(file, text)
    t.match(await refusal(t, '--config', file), complaint)
  }
  t.match(await refusal(t, '--config', join(directory, 'none')), /none does not exist/)
  t.match(await refusal(t, '--nats', 'nonsense'), /nats/)
  t.match(await refusal(t, '--bogus'), /bogus/)
})

t.test('nobody else can read its files or speak to its sockets', { skip: purserOnly }, async t => {
  const open = mkdtempSync(join(tmpdir(), 'purser-open-'))
  chmodSync(open, 0o755)
  t.teardown(() => rmSync(open, { recursive: true, force: true }))
  const [root, state] = [join(open, 'root'), join(open, 'state')]
  const host = await purser(t, { flags: ['--root', root, '--state', state] })
  await host.load()
  const id = host.id('private')
  await host.ok('run', '-d', busyboxName, id, 'sleep', '60')
  const asNobody = ['--reuid', '65534', '--regid', '65534', '--clear-groups']
  const find = (...condition: string[]) => run('setpriv', [...asNobody, 'find', open, ...condition]).end()
  t.equal((await find('-type', 'f')).stdout, '', 'no file can be reached')
  t.equal((await find('-type', 's', '-writable')).stdout, '', 'no socket can be spoken to')
  const mine = (await run('find', [open, '-type', 'f']).end()).stdout
  t.match(mine, /journal/, 'though they are there')
  await host.ok('tasks', 'rm', '--force', id)
  await host.ok('containers', 'rm', id)
  await host.stop()
})

/** node has no datagram sockets in the file system; every Debian has perl. */
const printDatagrams = `
use Socket; $| = 1;
socket(my $s, PF_UNIX, SOCK_DGRAM, 0) or die; bind($s, sockaddr_un($ARGV[0])) or die; print "listening\\n";
while (defined recv($s, my $message, 4096, 0)) { print "$message\\n" }
`

t.test(
  'the service manager hears when it serves, who does after an upgrade, and when it stops',
  { skip: purserOnly },
  async t => {
    const directory = mkdtempSync(join(tmpdir(), 'purser-notify-'))
    const path = join(directory, 'socket')
    const manager = run('perl', ['-e', printDatagrams, path])
    t.teardown(() => {
      manager.kill()
      rmSync(directory, { recursive: true })
    })
    await manager.says(/listening/)
    const host = await purser(t, { env: { NOTIFY_SOCKET: path } })
    await manager.says(/READY=1/)
    t.ok(await host.answers())
    const successor = await upgrade(host)
    // A READY=1 before MAINPID would come from a process that the service manager does not know yet.
    await manager.says(new RegExp(`^RELOADING=1\nMONOTONIC_USEC=\\d+\nMAINPID=${successor}\n(?:.*\n)*?READY=1\n`, 'm'))
    await host.stop()
    await manager.says(/STOPPING=1/)
    t.same(
      manager.stdout.match(/^[A-Z]+(?==)/gm)?.filter(name => name !== 'STATUS'),
      ['READY', 'RELOADING', 'MAINPID', 'READY', 'STOPPING'],
      'each is told once',
    )
  },
)
