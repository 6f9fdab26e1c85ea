// `ctr run`: what a container is given, what it prints, and what its end means to the caller.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { resizeTerminal, run } from '../harness/ctr.js'
import { busyboxImage, writeArchive } from '../harness/image.js'
import { cgroupValue } from '../harness/machine.js'
import { supervisor } from '../harness/supervisor.js'
import { table } from '../harness/table.js'
import { until } from '../harness/wait.js'

const host = await supervisor(t)
const image = await host.load()

/** Runs a shell line in a container that is removed at its end. */
const sh = (script: string, ...flags: string[]) =>
  host.ctr('run', '--rm', ...flags, image, host.id('run'), 'sh', '-c', script)

t.test('run --rm prints what the container prints, ends with its status and leaves nothing', async t => {
  t.same(await host.ctr('run', '--rm', image, host.id('hello'), 'echo', 'hello'), {
    stdout: 'hello\n',
    stderr: '',
    code: 0,
  })
  t.same(await sh('echo out; echo err >&2; exit 42'), { stdout: 'out\n', stderr: 'err\n', code: 42 })
  t.equal((await sh('kill -SEGV $$; sleep 1 & kill -TERM $!; wait $!')).code, 143)
  t.same(table(await host.ok('containers', 'ls')), [])
  t.same(table(await host.ok('tasks', 'ls')), [])
  t.equal(table(await host.ok('snapshots', 'ls')).length, 2, 'only the image’s layers')
})

t.test('input reaches the container, and its end does too', async t => {
  const running = host.ctrSpawn('run', '--rm', image, host.id('input'), 'cat')
  running.write('one\n')
  await running.says(/one\n/)
  running.write('two\n')
  running.closeInput()
  t.match(await running.end(), { stdout: 'one\ntwo\n', code: 0 })
})

t.test('megabytes of output arrive whole', async t => {
  // It ends when its input does: ctr drops what is still in the pipe when a container ends.
  const running = host.ctrSpawn(
    'run',
    '--rm',
    image,
    host.id('output'),
    'sh',
    '-c',
    'yes 0123456 | head -n 400000; cat',
  )
  await until('all of the output', () => running.stdout.length === 8 * 400_000)
  running.closeInput()
  t.equal((await running.end()).code, 0)
})

t.test('environment, working directory and mounts are what was asked for', async t => {
  const source = join(host.directory, 'shared')
  mkdirSync(source)
  writeFileSync(join(source, 'note'), 'from the host\n')
  const mount = `type=bind,src=${source},dst=/mnt/shared,options=rbind:ro`
  const { stdout } = await sh(
    'echo $IMAGE $COLOUR; pwd; cat /mnt/shared/note; touch /mnt/shared/x || echo read-only',
    ...['--env', 'COLOUR=green', '--cwd', '/tmp', '--mount', mount],
  )
  t.equal(stdout, 'busybox green\n/tmp\nfrom the host\nread-only\n')
})

t.test('limits of memory and processor are the cgroup’s', async t => {
  const id = host.id('limits')
  await host.ok('run', '-d', '--memory-limit', String(64 << 20), '--cpus', '0.5', image, id, 'sleep', '60')
  t.equal(cgroupValue(id, 'memory/memory.limit_in_bytes', 'memory.max'), String(64 << 20))
  const quota = cgroupValue(id, 'cpu/cpu.cfs_quota_us', 'cpu.max')
  t.match(quota, /^50000( 100000)?$/)
  await host.ok('tasks', 'rm', '--force', id)
  await host.ok('containers', 'rm', id)
})

t.test('a read-only root cannot be written', async t => {
  const { stderr, code } = await sh('touch /here', '--read-only')
  t.match(stderr, /Read-only file system/)
  t.equal(code, 1)
})

t.test('a container has a network of its own unless it takes the host’s', async t => {
  const links = "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort"
  const own = (await run('sh', ['-c', links]).end()).stdout
  t.equal((await sh(links)).stdout, 'lo\n')
  t.equal((await sh(links, '--net-host')).stdout, own)
})

t.test('privileged is all that the caller may do; the default is little', async t => {
  const capabilities = 'grep CapEff /proc/self/status'
  t.equal((await sh(capabilities)).stdout, 'CapEff:\t00000000a80425fb\n')
  const ours = /^CapEff:\s+(\S+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]
  t.equal((await sh(capabilities, '--privileged')).stdout, `CapEff:\t${ours}\n`)
})

t.test('labels of the command line and of the image are the container’s', async t => {
  const name = 'docker.io/library/busybox:labelled'
  await host.load(await busyboxImage({ name, config: { Labels: { maker: 'us' }, StopSignal: 'SIGINT' } }))
  const id = host.id('labelled')
  await host.ok('run', '-d', '--label', 'tier=web', name, id, 'sleep', '60')
  const info: unknown = JSON.parse(await host.ok('containers', 'info', id))
  t.match(info, {
    ID: id,
    Labels: { tier: 'web', maker: 'us', 'io.containerd.image.config.stop-signal': 'SIGINT' },
    Image: name,
    Runtime: { Name: 'io.containerd.runc.v2' },
    SnapshotKey: id,
    Snapshotter: 'overlayfs',
    Spec: { process: { args: ['sleep', '60'] } },
  })
  await host.ok('tasks', 'rm', '--force', id)
  await host.ok('containers', 'rm', id)
})

t.test('the image’s user runs it', async t => {
  const name = 'docker.io/library/busybox:user'
  await host.load(await busyboxImage({ name, config: { User: 'user' } }))
  t.equal(await host.ok('run', '--rm', name, host.id('user'), 'id'), 'uid=1000(user) gid=1000(user) groups=1000(user)')
})

t.test('a command that isn’t there fails in the runtime’s own words and leaves nothing', async t => {
  const id = host.id('nothing')
  const { stderr, code } = await host.ctr('run', '--rm', image, id, '/no/such/command')
  t.equal(code, 1)
  t.match(stderr, /failed to create shim task: OCI runtime create failed: .*"\/no\/such\/command".*no such file/)
  t.same(table(await host.ok('containers', 'ls')), [])
  t.same(table(await host.ok('tasks', 'ls')), [])
})

t.test('an id that is taken is refused and its owner unharmed', async t => {
  const id = host.id('taken')
  await host.ok('run', '-d', image, id, 'sleep', '60')
  const { stderr, code } = await host.ctr('run', '-d', image, id, 'true')
  t.equal(code, 1)
  t.match(stderr, new RegExp(`"?${id}"?: already exists`))
  t.match(table(await host.ok('tasks', 'ls')), [{ TASK: id, STATUS: 'RUNNING' }])
  await host.ok('tasks', 'rm', '--force', id)
  await host.ok('containers', 'rm', id)
})

t.test('eight at a time get each their own environment', async t => {
  const numbers = [1, 2, 3, 4, 5, 6, 7, 8]
  const results = await Promise.all(numbers.map(n => sh('echo $N', '--env', `N=${n}`)))
  t.same(
    results.map(({ stdout }) => stdout),
    numbers.map(n => `${n}\n`),
  )
})

t.test('output can go to a file, and to nowhere', async t => {
  const id = host.id('logged')
  const log = join(host.directory, 'container.log')
  await host.ok('run', '-d', '--log-uri', `file://${log}`, image, id, 'echo', 'kept')
  await until('the log file to be written', () => readFileSync(log, 'utf8') === 'kept\n')
  await until('the task to stop', async () => (await host.ok('tasks', 'ls')).includes('STOPPED'))
  await host.ok('tasks', 'rm', id)
  await host.ok('containers', 'rm', id)
  t.match(await sh('echo unheard', '--null-io'), { stdout: '', code: 0 })
})

t.test('a directory can be the root, without image and snapshot', async t => {
  const root = join(host.directory, 'rootfs')
  await run('sh', ['-c', `mkdir -p ${root}/bin ${root}/proc && cp /bin/busybox ${root}/bin/sh`]).end()
  const result = await host.ctr('run', '--rm', '--rootfs', root, host.id('rootfs'), '/bin/sh', '-c', 'echo my own root')
  t.match(result, { stdout: 'my own root\n', code: 0 })
})

t.test('a terminal is a terminal and follows its size', async t => {
  const id = host.id('tty')
  const terminal = host.ctrOnTerminal('run', '--rm', '-t', image, id, 'sh')
  await terminal.says(/# /)
  terminal.write('tty\n')
  await terminal.says(/\/dev\/pts\/0\r/)
  await resizeTerminal(terminal, 133, 41)
  // The new size travels by signal and RPC: ask until it has arrived.
  await until('the terminal’s new size', async () => {
    terminal.write('stty size\n')
    await terminal.says(/# /)
    return terminal.stdout.includes('41 133')
  })
  terminal.write('exit 5\n')
  t.equal((await terminal.end()).code, 5)
})

t.test('signals to ctr are the container’s', async t => {
  const script = 'trap "exit 9" WINCH; echo up; sleep 60 & wait'
  const running = host.ctrSpawn('run', '--rm', image, host.id('signals'), 'sh', '-c', script)
  await running.says(/up/)
  // ctr passes signals on a moment after the container has started. Until then, this one does no harm.
  const signals = setInterval(() => running.kill('SIGWINCH'), 20)
  t.teardown(() => clearInterval(signals))
  t.equal((await running.end()).code, 9)
})
t.test('output goes to a program of the host, which hears whose it is', async t => {
  const logger = join(host.directory, 'logger')
  // Its descriptors: 3 and 4 are the output, and closing 5 says that it is ready.
  const named = 'echo "$CONTAINER_NAMESPACE $CONTAINER_ID" >"$2.name"'
  const copies = ['cat <&3 >"$2.out" &', 'cat <&4 >"$2.err" &', 'wait']
  writeFileSync(logger, ['#!/bin/sh', named, 'exec 5>&-', ...copies, ''].join('\n'), { mode: 0o755 })
  const logged = (id: string, stream: string) => output(join(host.directory, `${id}.${stream}`))
  const output = (path: string) => (existsSync(path) ? readFileSync(path, 'utf8') : '')
  const id = host.id('binary')
  const uri = `binary://${logger}?log=${join(host.directory, id)}`
  await host.ok('run', '-d', '--log-uri', uri, image, id, 'sh', '-c', 'echo out; echo err >&2')
  await until('its output', () => logged(id, 'out') !== '' && logged(id, 'err') !== '')
  t.same([logged(id, 'out'), logged(id, 'err')], ['out\n', 'err\n'])
  t.equal(logged(id, 'name'), `${host.namespace} ${id}\n`)
  await until('the task to stop', async () => (await host.ok('tasks', 'ls')).includes('STOPPED'))
  await host.ok('tasks', 'rm', id)
  await host.ok('containers', 'rm', id)
})

t.test('a logger that is not there is told', async t => {
  const id = host.id('no-logger')
  const missing = await host.ctr('run', '-d', '--log-uri', 'binary:///no/such/logger', image, id, 'true')
  t.not(missing.code, 0)
  t.match(missing.stderr, /no such file or directory/)
  await host.ok('containers', 'rm', id)
})

t.test('labels of a namespace are defaults of what is made in it', async t => {
  const space = host.id('space')
  const inSpace = (...words: string[]) => host.ctr('--namespace', space, ...words)
  await host.ok('namespaces', 'create', space, 'containerd.io/defaults/snapshotter=native')
  const archive = join(host.directory, 'space.tar')
  const other = await busyboxImage({
    name: 'docker.io/library/space:test',
    config: { Labels: { a: 'b' } },
    compression: 'none',
  })
  await writeArchive(archive, other)
  t.match(await inSpace('images', 'import', archive), { stderr: '', code: 0 })
  const id = host.id('defaults')
  t.match(await inSpace('run', other.name, id, 'echo', 'from native'), { stdout: 'from native\n', code: 0 })
  const { stdout } = await inSpace('containers', 'info', id)
  t.match(JSON.parse(stdout), { Snapshotter: 'native' })
  const refused = await host.ctr('namespaces', 'rm', space)
  t.match(
    refused.stderr,
    /namespace "space-\w+" must be empty, but it still has images, blobs, containers, snapshots on "native" snapshotter: failed precondition/,
  )
  for (const words of [
    ['containers', 'rm', id],
    ['images', 'rm', '--sync', other.name],
  ])
    await inSpace(...words)
  for (const digest of (await inSpace('content', 'ls', '-q')).stdout.trim().split('\n'))
    await inSpace('content', 'rm', digest)
  for (let left = 2; left > 0; left--)
    for (const { KEY = '' } of table((await inSpace('snapshots', '--snapshotter', 'native', 'ls')).stdout).reverse())
      await inSpace('snapshots', '--snapshotter', 'native', 'rm', KEY)
  t.same(await host.ctr('namespaces', 'rm', space), { stdout: `${space}\n`, stderr: '', code: 0 })
})

t.test('when memory runs out, shims go before the supervisor', async t => {
  const id = host.id('score')
  await host.ok('run', '-d', image, id, 'sleep', '60')
  const pid = table(await host.ok('tasks', 'ls')).find(({ TASK }) => TASK === id)?.PID
  const shim = /^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
  const score = (process: string | number | undefined) => Number(readFileSync(`/proc/${process}/oom_score_adj`, 'utf8'))
  t.equal(score(shim), Math.min(score(host.pid) + 1, 1000))
  await host.ok('tasks', 'rm', '--force', id)
  await host.ok('containers', 'rm', id)
})
