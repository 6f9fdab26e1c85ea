// What a running task is asked for, by real shims and runc.
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { status } from '@grpc/grpc-js'
import t from 'tap'
import { Options } from '../../../proto/gen/containerd/runc/v1/options.js'
import { Status } from '../../../proto/gen/containerd/v1/types/task.js'
import { Metrics } from '../../../proto/gen/io/containerd/cgroups/v1/metrics.js'
import { Liveness, RuntimeService, type TaskStats } from '../../../proto/gen/purser/runtime/v1/runtime.js'
import { alive, processesOf } from '../../harness/process.js'
import { FifoReader, makeFifo, writeFifo } from './fifo.js'
import { json, RuntimeHost } from './host.js'

const sharedOptions = (group: string) => (spec: { annotations: Record<string, string> }) => {
  spec.annotations['io.containerd.runc.v2.group'] = group
}

t.test('a task runs to its exit code, is told once, deleted, and leaves nothing', async t => {
  const host = await RuntimeHost.open(t)
  const created = await host.create('web', { command: 'exit 3' })
  t.match(created, { bundle: join(host.state, 'bundles', host.namespace, 'web') })
  t.same(created.adjustments, [])
  t.match(await host.taskState('web'), { status: Status.CREATED, pid: created.pid })
  t.match(await host.list(), [{ id: 'web', liveness: Liveness.LIVENESS_ALIVE, init: { status: Status.CREATED } }])

  t.equal(await host.start('web'), created.pid)
  const exit = await host.exit('web')
  t.match(exit, { exitStatus: 3, pid: created.pid })
  t.match(exit.emissionId, new RegExp(`^exit/${host.namespace}/web//${created.pid}/\\d+\\.\\d{9}$`))
  t.match(await host.taskState('web'), { status: Status.STOPPED, exitStatus: 3 })
  await t.rejects(host.kill('web'), { code: status.NOT_FOUND, details: /process already finished/ })

  t.match(await host.delete('web'), { exitStatus: 3, pid: created.pid })
  t.same(await host.list(), [], 'a deleted task is not listed, whatever is still going on behind')
  await t.rejects(host.taskState('web'), { code: status.NOT_FOUND })
  await host.nothingLeft()
  t.equal(host.exits.length, 1)
})

t.test('an id can be used again at once', async t => {
  const host = await RuntimeHost.open(t)
  for (const code of [1, 2, 3]) {
    await host.run('again', { command: `exit ${code}` })
    await host.emissions.first('its exit', () => host.exits.length === code)
    t.match(await host.delete('again'), { exitStatus: code })
  }
  await host.nothingLeft()
})

t.test('a second task with the same id is refused, in another namespace it is another task', async t => {
  const host = await RuntimeHost.open(t)
  const namespace = `${host.namespace}-2`
  const [first, second] = await Promise.all([
    host.run('same', { command: 'exec sleep 100' }),
    host.run('same', { command: 'exec sleep 100', namespace }),
  ])
  await t.rejects(host.create('same'), { code: status.ALREADY_EXISTS })
  t.not(first, second)
  await host.kill('same', { namespace })
  t.match(await host.exit('same', 'same', namespace), { exitStatus: 137, pid: second })
  t.match(await host.taskState('same'), { status: Status.RUNNING, pid: first })
  await Promise.all([host.delete('same', '', namespace), host.destroy('same')])
  await host.nothingLeft()
})

t.test('two instances with the same namespace and id do not meet', async t => {
  const [one, other] = await Promise.all([RuntimeHost.open(t), RuntimeHost.open(t)])
  const namespace = one.namespace
  other.knows(namespace, 'twin')
  const own = { namespace, change: (spec: { linux: { cgroupsPath: string } }) => (spec.linux.cgroupsPath += '-2') }
  await Promise.all([
    one.run('twin', { command: 'exec sleep 100' }),
    other.run('twin', { command: 'exec sleep 100', ...own }),
  ])
  t.ok(existsSync(join(one.state, 'runc', namespace, 'twin')), 'the OCI runtime keeps its state under the instance')
  await one.destroy('twin', namespace)
  t.match(await other.taskState('twin', '', namespace), { status: Status.RUNNING })
  other.knows(namespace, 'twin-2')
  await other.destroy('twin', namespace)
  await Promise.all([one.nothingLeft(), other.nothingLeft()])
})

t.test("a root that the client's options name is kept, and the shim mounts the rootfs", async t => {
  const host = await RuntimeHost.open(t)
  const root = join(host.directory, 'their-runc')
  const value = Buffer.from(Options.encode(Options.create({ root })).finish())
  await host.run('mounted', {
    command: 'exec sleep 100',
    change: spec => (spec.root.path = 'rootfs'),
    request: {
      options: { typeUrl: 'containerd.runc.v1.Options', value },
      rootfs: [{ type: 'bind', source: host.rootfs, target: '', options: ['rbind', 'ro'] }],
    },
  })
  t.ok(existsSync(join(root, host.namespace, 'mounted')))
  await host.destroy('mounted')
  await host.nothingLeft()
  t.ok(existsSync(join(host.rootfs, 'bin/sh')), 'and nothing was deleted through the mount')
})

t.test('processes are added, listed, signalled and removed', async t => {
  const host = await RuntimeHost.open(t)
  const { namespace } = host
  const pid = await host.run('host', { command: 'trap "exit 5" TERM; while :; do sleep 0.05; done' })
  const execPid = await host.exec('host', 'side', 'exec sleep 100')
  const { processes } = await host.call(RuntimeService.pids, { namespace, id: 'host' })
  t.ok(processes.some(process => process.pid === pid) && processes.some(process => process.pid === execPid))

  await host.kill('host', { execId: 'side' })
  t.match(await host.exit('host', 'side'), { pid: execPid, exitStatus: 137 })
  t.match(await host.taskState('host', 'side'), { status: Status.STOPPED, exitStatus: 137 })
  t.match(await host.delete('host', 'side'), { exitStatus: 137 })
  await t.rejects(host.taskState('host', 'side'), { code: status.NOT_FOUND })

  await host.exec('host', 'code', 'exit 42')
  t.match(await host.exit('host', 'code'), { exitStatus: 42 })
  await host.delete('host', 'code')
  const nothing = host.exec('host', 'missing', 'true', {
    spec: { typeUrl: '', value: json({ args: ['/nope'], cwd: '/' }) },
  })
  await t.rejects(nothing, {
    code: status.UNKNOWN,
    details: /OCI runtime exec failed: .*\/nope.*no such file or directory/,
  })
  await host.delete('host', 'missing')

  await host.kill('host', { signal: 15 })
  t.match(await host.exit('host'), { exitStatus: 5 })
  t.equal(host.exits.length, 3, 'the one that never started did not exit')
  await host.delete('host')
  await host.nothingLeft()
})

t.test('input, output and their ends go through the client’s FIFOs', async t => {
  const host = await RuntimeHost.open(t)
  const fifo = (name: string) => makeFifo(host.directory, name)
  const [stdin, stdout, stderr] = [fifo('in'), new FifoReader(t, fifo('out')), new FifoReader(t, fifo('err'))]
  const request = { stdin, stdout: stdout.path, stderr: stderr.path }
  await host.run('talk', { command: 'read line; echo "got $line"; echo oops >&2; cat', request })
  await writeFifo(stdin, 'hello\nand more\n')
  await stdout.contains('got hello\nand more\n')
  await host.call(RuntimeService.closeIo, { namespace: host.namespace, id: 'talk', execId: '', stdin: true })
  t.match(await host.exit('talk'), { exitStatus: 0 })
  t.equal(await stdout.end(), 'got hello\nand more\n', 'the last writer is gone, and so is the output')
  t.equal(await stderr.end(), 'oops\n')

  await host.delete('talk')
  const both = new FifoReader(t, fifo('both'))
  await host.run('one-fifo', { command: 'echo 1; echo 2 >&2', request: { stdout: both.path, stderr: both.path } })
  t.match(await both.end(), /1\n.*2\n|2\n.*1\n/)
  await host.exit('one-fifo')
  await host.delete('one-fifo')
  await host.nothingLeft()
})

t.test('a terminal has a size that can be changed', async t => {
  const host = await RuntimeHost.open(t)
  const stdin = makeFifo(host.directory, 'in')
  const stdout = new FifoReader(t, makeFifo(host.directory, 'out'))
  const change = (spec: { process: Record<string, unknown> }) => (spec.process.terminal = true)
  await host.run('tty', {
    command: 'read go; stty size',
    change,
    request: { stdin, stdout: stdout.path, terminal: true },
  })
  const size = { namespace: host.namespace, id: 'tty', execId: '', width: 77, height: 33 }
  await host.call(RuntimeService.resizePty, size)
  await writeFifo(stdin, 'go\n')
  await host.exit('tty')
  t.match(await stdout.end(), /33 77\r\n/)
  await host.delete('tty')
  await host.nothingLeft()
})

t.test('a task is paused, resumed, measured and limited anew', async t => {
  const host = await RuntimeHost.open(t)
  const { namespace } = host
  const change = (spec: { linux: { resources: unknown } }) => (spec.linux.resources = { pids: { limit: 50 } })
  await host.run('busy', { command: 'exec sleep 100', change })
  const task = { namespace, id: 'busy' }
  await host.call(RuntimeService.pause, task)
  t.match(await host.taskState('busy'), { status: Status.PAUSED })
  await host.call(RuntimeService.resume, task)
  t.match(await host.taskState('busy'), { status: Status.RUNNING })

  const limit = async () => {
    const told: TaskStats[] = []
    for await (const { tasks } of host.stats(['unknown', 'busy'])) told.push(...tasks)
    t.strictSame(
      told.map(({ id }) => id),
      ['busy'],
      'who is not there is left out',
    )
    const stats = told[0]?.stats
    return stats?.typeUrl.endsWith('v1.Metrics') ? Metrics.decode(stats.value).pids?.limit : 'cgroup v2'
  }
  t.ok([50n, 'cgroup v2'].includes((await limit()) ?? ''))
  const resources = {
    typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/LinuxResources',
    value: json({ pids: { limit: 60 } }),
  }
  await host.call(RuntimeService.update, { ...task, resources, annotations: {} })
  t.ok([60n, 'cgroup v2'].includes((await limit()) ?? ''))
  await host.destroy('busy')
  await host.nothingLeft()
})

t.test('containers of a group share a shim, which goes with the last of them', async t => {
  const host = await RuntimeHost.open(t)
  const sleeping = { command: 'exec sleep 100', change: sharedOptions('pod') }
  await host.run('leader', sleeping)
  await Promise.all([host.run('second', sleeping), host.run('third', sleeping)])
  const shims = () => processesOf(host.directory).filter(({ command }) => command[0]?.includes('containerd-shim'))
  t.equal(shims().length, 1)

  await host.kill('leader')
  await host.exit('leader')
  await host.delete('leader')
  await t.rejects(host.create('second'), { code: status.ALREADY_EXISTS })
  await host.run('fourth', sleeping)
  t.equal(shims().length, 1, 'the leader’s end ends nobody else')
  t.match(await host.list(), { length: 3 })
  for (const id of ['second', 'third', 'fourth']) await host.destroy(id)
  await host.nothingLeft()

  await host.run('leader', sleeping)
  await host.destroy('leader')
  await host.nothingLeft()
})

t.test('a spec that asks for more than this host grants runs all the same, and says what was changed', async t => {
  const host = await RuntimeHost.open(t)
  const status = readFileSync('/proc/self/status', 'utf8')
  const bounding = BigInt(`0x${status.match(/^CapBnd:\s*(\S+)/m)?.[1]}`)
  const stdout = new FifoReader(t, makeFifo(host.directory, 'out'))
  const everything = Array.from({ length: 41 }, (_, bit) => capabilityNames[bit] ?? '')
  const { adjustments } = await host.create('greedy', {
    command: 'grep -E "CapBnd|CapEff" /proc/self/status; ulimit -Hn; cat /proc/self/oom_score_adj',
    request: { stdout: stdout.path, stderr: stdout.path },
    change: spec => {
      spec.process.capabilities = { bounding: everything, effective: everything, permitted: everything }
      spec.process.rlimits = [{ type: 'RLIMIT_NOFILE', hard: 1 << 30, soft: 1 << 30 }]
      spec.process.oomScoreAdj = -500
      spec.process.apparmorProfile = 'docker-default'
      spec.linux.resources = {
        hugepageLimits: [{ pageSize: '2MB', limit: 0 }],
        network: { classID: 7, priorities: [{ name: 'eth0', priority: 1 }] },
        cpu: { realtimeRuntime: 1000, realtimePeriod: 1_000_000 },
      }
    },
  })
  await host.start('greedy')
  t.match(await host.exit('greedy'), { exitStatus: 0 })
  const output = await stdout.end()
  t.match(output, new RegExp(`CapBnd:\\s*${(bounding & ((1n << 41n) - 1n)).toString(16).padStart(16, '0')}`))
  t.ok(
    adjustments.some(sentence => /^RLIMIT_NOFILE was lowered from 1073741824 to \d+/.test(sentence)),
    adjustments.join(),
  )
  await host.delete('greedy')

  await host.run('base', { command: 'exec sleep 100' })
  const process = {
    args: ['/bin/true'],
    cwd: '/',
    capabilities: { bounding: everything, effective: everything, permitted: everything },
  }
  await host.exec('base', 'privileged', '', { spec: { typeUrl: '', value: json(process) } })
  t.match(await host.exit('base', 'privileged'), { exitStatus: 0 }, 'and so does an added process')
  await host.destroy('base')
  await host.nothingLeft()
})

t.test('a pinned network namespace is joined', async t => {
  const host = await RuntimeHost.open(t)
  const name = host.namespace
  execFileSync('ip', ['netns', 'add', name])
  t.teardown(() => execFileSync('ip', ['netns', 'delete', name]))
  const netnsPath = `/run/netns/${name}`
  const pid = await host.run('net', { command: 'exec sleep 100', request: { netnsPath } })
  const joined = execFileSync('ip', ['netns', 'identify', String(pid)], { encoding: 'utf8' })
  t.equal(joined.trim(), name)
  await host.destroy('net')
})

t.test('a container with another root user on the host reaches its rootfs', async t => {
  const host = await RuntimeHost.open(t)
  execFileSync('chmod', ['0711', host.directory])
  await host.run('mapped', {
    command: 'exit 0',
    change: spec => {
      spec.linux.namespaces.push({ type: 'user' })
      spec.linux.uidMappings = [{ containerID: 0, hostID: 100_000, size: 65_536 }]
      spec.linux.gidMappings = [{ containerID: 0, hostID: 100_000, size: 65_536 }]
      spec.mounts = spec.mounts.slice(0, 2)
    },
  })
  t.match(await host.exit('mapped'), { exitStatus: 0 })
  await host.delete('mapped')
  await host.nothingLeft()
})

t.test('an out-of-memory kill is told', async t => {
  const host = await RuntimeHost.open(t)
  const change = (spec: { linux: { resources: unknown } }) =>
    (spec.linux.resources = { memory: { limit: 12 << 20, swap: 12 << 20 } })
  await host.run('hungry', { command: 'x=a; while :; do x=$x$x; done', change })
  t.match(await host.exit('hungry'), { exitStatus: 137 })
  const oom = await host.emissions.first('the event', ({ topic }) => topic === '/tasks/oom')
  t.match(oom, { namespace: host.namespace, id: new RegExp(`^oom/${host.namespace}/hungry/\\d+\\.\\d{9}$`) })
  await host.destroy('hungry')
  await host.nothingLeft()
})

t.test('a task that is destroyed is ended for good, however often one asks', async t => {
  const host = await RuntimeHost.open(t)
  const pid = await host.run('stubborn', { command: 'trap "" TERM INT; while :; do sleep 0.05; done' })
  await host.destroy('stubborn')
  t.notOk(alive(pid))
  t.match(await host.exit('stubborn'), { exitStatus: 137, pid })
  await host.destroy('stubborn')
  await host.destroy('never-was')
  await host.nothingLeft()
  t.equal(host.exits.length, 1)
})

t.test('forty at once run, none the worse', async t => {
  const host = await RuntimeHost.open(t)
  const ids = Array.from({ length: 40 }, (_, index) => `burst-${index}`)
  await Promise.all(
    ids.map(async (id, index) => {
      await host.run(id, { command: `exit ${index}` })
      t.match(await host.exit(id), { exitStatus: index })
      await host.delete(id)
    }),
  )
  await host.nothingLeft()
})

const capabilityNames = (
  'CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE ' +
  'NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN ' +
  'SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE ' +
  'MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE'
)
  .split(' ')
  .map(name => `CAP_${name}`)
