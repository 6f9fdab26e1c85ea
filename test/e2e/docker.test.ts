// Debian's dockerd and docker, unmodified, on Purser: docker → dockerd → gRPC → Purser → shim → runc.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { run } from '../harness/ctr.js'
import { Docker } from '../harness/docker.js'
import { alive } from '../harness/process.js'
import { ownNetworkOf, purser, purserOnly } from '../harness/supervisor.js'
import { until } from '../harness/wait.js'

if (purserOnly !== false) t.plan(0, purserOnly)
else await cases()

async function cases(): Promise<void> {
  const host = await purser(t, { ownNetwork: true })
  const docker = new Docker(t, host)
  await docker.start()
  const image = await docker.load()
  const place = (name: string) => join(host.directory, name)
  /** What a server on the daemon's loopback answers. */
  const page = async (port: number) => {
    const asked = ['busybox', 'wget', '-q', '-O-', `http://127.0.0.1:${port}/`]
    return (await run('nsenter', [`--net=${ownNetworkOf(host)}`, ...asked]).end()).stdout
  }
  const serving = ['sh', '-c', 'mkdir /w; echo page >/w/index.html; exec httpd -f -p 80 -h /w']
  const state = (container: string) => docker.inspect(container, '.State.Status')
  const ended = (container: string, timeoutMs = 30_000) =>
    until(`${container} to be exited`, async () => (await state(container)) === 'exited', {
      timeoutMs,
      intervalMs: 100,
    })

  t.test('a container runs as it was asked to', async t => {
    const shell = async (flags: string[], script: string) =>
      docker.run('run', '--rm', ...flags, image, 'sh', '-c', script)
    t.match(await shell([], 'echo out; echo err >&2; exit 7'), { code: 7, stdout: 'out\n', stderr: 'err\n' })
    t.match(await docker.run('run', '--rm', image, '/nope'), { code: 127, stderr: /no such file or directory/ })
    const limits = ['--memory', '32m', '--cpus', '0.5', '--pids-limit', '20']
    const files = 'memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us pids/pids.max'
    const version2 = 'memory.max cpu.max pids.max'
    const { stdout } = await shell(limits, `cd /sys/fs/cgroup; cat ${files} 2>/dev/null || cat ${version2}`)
    t.match(stdout, /^33554432\n50000( 100000)?\n20\n$/)
    mkdirSync(place('volume'))
    const volumes = ['-v', `${place('volume')}:/v`, '-v', 'named:/n:ro']
    t.match(await shell(volumes, 'echo kept >/v/f; touch /n/f'), { code: 1, stderr: /Read-only/ })
    t.equal(readFileSync(place('volume/f'), 'utf8'), 'kept\n')
    await docker.ok('volume', 'rm', 'named')
    t.match(await shell(['--init'], 'cat /proc/1/comm'), { stdout: /init/ })
    const restricted = ['--user', '1000:1000', '--read-only']
    t.match(await shell(restricted, 'id -u; touch /x'), { code: 1, stdout: '1000\n', stderr: /Read-only/ })
    t.match(await shell(['--privileged', '--ulimit', 'nofile=9999999'], 'echo yes'), { code: 0, stdout: 'yes\n' })
    t.match(await shell(['--memory', '16m', '--memory-swap', '16m'], 'tail /dev/zero'), { code: 137 })
  })

  t.test('networks are none, the host’s and a bridge, with ports published', async t => {
    const links = (network: string) => docker.ok('run', '--rm', '--network', network, image, 'ip', '-o', 'link')
    t.notMatch(await links('none'), /eth0|docker0/)
    t.match(await links('host'), /docker0/)
    t.match(await links('bridge'), /eth0/)
    await docker.ok('run', '-d', '--name', 'published', '-p', '127.0.0.1:8081:80', image, ...serving)
    await until('the page', async () => (await page(8081)) === 'page\n')
    await docker.ok('rm', '-f', 'published')
    t.equal(await page(8081), '')
  })

  t.test('a terminal, attach, and logs that are followed', async t => {
    const terminal = docker.onTerminal('run', '--rm', '-it', image, 'sh')
    await terminal.says(/#/)
    terminal.write('stty size && echo on-$((40+2)); exit 4\n')
    await terminal.says(/on-42/)
    t.equal((await terminal.end()).code, 4)

    await docker.ok(
      'run',
      '-d',
      '-i',
      '--name',
      'talks',
      image,
      'sh',
      '-c',
      'while read x && [ $x != end ]; do echo got $x; done; exit 9',
    )
    const logs = docker.spawn('logs', '-f', 'talks')
    const attached = docker.spawn('attach', 'talks')
    attached.write('hello\n')
    await attached.says(/got hello/)
    await logs.says(/got hello/)
    attached.write('end\n')
    t.equal((await attached.end()).code, 9)
    t.equal((await logs.end()).stdout, 'got hello\n')
    await docker.ok('rm', 'talks')
  })

  t.test('a container that runs is looked into, changed and ended', async t => {
    const since = `${Math.floor(Date.now() / 1000)}`
    const events = docker.spawn('events', '--since', since, '--filter', 'container=works', '--format', '{{.Action}}')
    await docker.ok(
      'run',
      '-d',
      '--name',
      'works',
      image,
      'sh',
      '-c',
      'trap "exit 5" TERM; while :; do sleep 0.1; done',
    )
    t.match(await docker.run('exec', 'works', 'sh', '-c', 'echo in; exit 6'), { code: 6, stdout: 'in\n' })
    t.match(await docker.run('exec', 'works', '/nope'), { stdout: /no such file or directory/, code: /^12[67]$/ })
    t.match(await docker.ok('top', 'works'), /trap/)
    t.match(await docker.ok('stats', '--no-stream', '--format', '{{.Name}} {{.PIDs}}', 'works'), /^works [12]/)
    await docker.ok('pause', 'works')
    t.equal(await state('works'), 'paused')
    await docker.ok('unpause', 'works')
    await docker.ok('update', '--memory', '64m', '--memory-swap', '64m', 'works')
    writeFileSync(place('copied'), 'copied\n')
    await docker.ok('cp', place('copied'), 'works:/tmp/copied')
    await docker.ok('commit', 'works', 'committed:1')
    t.equal(await docker.ok('run', '--rm', 'committed:1', 'cat', '/tmp/copied'), 'copied')
    const waiting = docker.spawn('wait', 'works')
    await docker.ok('stop', 'works')
    t.equal((await waiting.end()).stdout, '5\n')
    await docker.ok('start', 'works')
    await docker.ok('kill', '--signal', 'KILL', 'works')
    t.equal(await docker.ok('wait', 'works'), '137')
    await docker.ok('rm', 'works')
    const told = [
      'create',
      'start',
      'pause',
      'unpause',
      'update',
      // While it is committed.
      'pause',
      'unpause',
      'kill',
      'die',
      'stop',
      'start',
      'kill',
      'die',
      'destroy',
    ]
    await events.lines.first('the event of its end', line => line === 'destroy')
    const actions = events.lines.items.filter(line => told.includes(line))
    t.same(actions, told)
    events.kill()
  })

  t.test('an image is built, each step in a container', async t => {
    mkdirSync(place('build'))
    const build = (dockerfile: string) => {
      writeFileSync(place('build/Dockerfile'), `FROM ${image}\n${dockerfile}\n`)
      return docker.run('build', '--network', 'none', '--tag', 'built:1', place('build'))
    }
    writeFileSync(place('build/file'), 'from the context\n')
    t.match(await build('COPY file /a\nRUN cat /a >/b\nCMD ["cat", "/b"]'), { code: 0 })
    t.equal(await docker.ok('run', '--rm', 'built:1'), 'from the context')
    t.match(await build('RUN exit 9'), { code: 9 })
    await docker.ok('container', 'prune', '--force')
  })

  t.test('what fails is restarted, and health is checked', async t => {
    await docker.ok('run', '-d', '--name', 'fails', '--restart', 'on-failure:2', image, 'sh', '-c', 'exit 4')
    const health = ['--health-cmd', 'test -f /well', '--health-interval', '200ms', '--health-retries', '1']
    await docker.ok('run', '-d', '--init', '--name', 'health', ...health, image, 'sleep', '600')
    const becomes = (wanted: string) =>
      until(wanted, async () => (await docker.inspect('health', '.State.Health.Status')) === wanted, {
        intervalMs: 100,
      })
    await becomes('unhealthy')
    await docker.ok('exec', 'health', 'touch', '/well')
    await becomes('healthy')
    await ended('fails')
    t.equal(await docker.inspect('fails', '.RestartCount}} {{.State.ExitCode'), '2 4')
    await docker.ok('rm', '-f', 'fails', 'health')
  })

  t.test('either daemon or both are killed, and containers are there again, with their exit codes', async t => {
    const lives = 'i=0; trap "exit 5" TERM; while :; do i=$((i+1)); echo $i; sleep 0.1; done'
    await docker.ok('run', '-d', '--name', 'lives', '-p', '127.0.0.1:8082:80', image, 'sh', '-c', lives)
    const endings: [string, ('purserd' | 'dockerd')[]][] = [
      ['one', ['purserd']],
      ['two', ['dockerd']],
      ['three', ['purserd', 'dockerd']],
    ]
    for (const [name, killed] of endings) {
      const pipe = place(`go-${name}`)
      mkdirSync(pipe)
      // Ends while nobody looks, or when told to.
      const script = (code: number, file: string) => `until [ -e /go/${file} ]; do sleep 0.05; done; exit ${code}`
      const start = (suffix: string, code: number) =>
        docker.ok('run', '-d', '--name', name + suffix, '-v', `${pipe}:/go`, image, 'sh', '-c', script(code, suffix))
      await start('-meanwhile', 6)
      await start('-after', 7)
      const pid = Number(await docker.inspect(`${name}-meanwhile`, '.State.Pid'))
      if (killed.includes('purserd')) await host.kill()
      if (killed.includes('dockerd')) await docker.end('SIGKILL')
      writeFileSync(join(pipe, '-meanwhile'), '')
      await until('its end', () => alive(pid) === undefined)
      if (killed.includes('purserd')) await host.start()
      if (killed.includes('dockerd')) await docker.start()
      // At once: before dockerd has subscribed again.
      writeFileSync(join(pipe, '-after'), '')
      for (const [suffix, code] of [
        ['-meanwhile', '6'],
        ['-after', '7'],
      ] as const) {
        await ended(name + suffix)
        t.equal(await docker.inspect(name + suffix, '.State.ExitCode'), code, `${name}${suffix}`)
      }
      t.equal(await docker.ok('exec', 'lives', 'echo', 'here'), 'here')
      const count = Number(await docker.ok('logs', '--tail', '1', 'lives'))
      const grows = async () => Number(await docker.ok('logs', '--tail', '1', 'lives')) > count
      await until('its output to go on', grows, { intervalMs: 100 })
      await docker.ok('rm', `${name}-meanwhile`, `${name}-after`)
    }
    await docker.ok('stop', 'lives')
    t.equal(await docker.inspect('lives', '.State.ExitCode'), '5')
    await docker.ok('rm', 'lives')
  })

  t.test('nothing is left', async t => {
    t.equal(await docker.ok('ps', '--all', '--quiet'), '')
    await docker.end('SIGTERM')
    await host.stop()
    // dockerd mounts its directory onto itself with each start, the last of which it ends; and keeps a name for its network.
    const own = [ownNetworkOf(host), place('docker'), place('docker-exec/netns/default')].map(path => `mount ${path}`)
    const left = () => host.leftovers().filter(line => !own.includes(line))
    await until('nothing to be left', () => left().length === 0).catch(() => undefined)
    t.same(left(), [])
    t.same(docker.cgroupsLeft(), [])
  })
}
