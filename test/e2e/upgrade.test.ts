// A new version takes over from the one that runs: clients, containers and events notice nothing of it.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import t from 'tap'
import {
  Container,
  ContainersService as Containers,
} from '../../proto/gen/containerd/services/containers/v1/containers.js'
import { ImagesService as Images } from '../../proto/gen/containerd/services/images/v1/images.js'
import { LeasesService as Leases } from '../../proto/gen/containerd/services/leases/v1/leases.js'
import { ListTasksRequest, TasksService as Tasks } from '../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { VersionService } from '../../proto/gen/containerd/services/version/v1/version.js'
import { Status } from '../../proto/gen/containerd/v1/types/task.js'
import { ownDirectory } from '../harness/directory.js'
import { exitsOf, history } from '../harness/history.js'
import type { Host } from '../harness/host.js'
import { busyboxName } from '../harness/image.js'
import { alive, processes } from '../harness/process.js'
import { Rpc } from '../harness/rpc.js'
import { builtProgram, purser, purserOnly } from '../harness/supervisor.js'
import { census, startUpgrade, upgrade } from '../harness/upgrade.js'
import { pause, until } from '../harness/wait.js'

const timeoutMs = 90_000
const one = { purserd: 1, 'plugin-host': 1, 'nats-server': 1 }

/** Calls of many kinds, 50 a second until stopped; answers what failed. */
function traffic(host: Host) {
  const failures: string[] = []
  const calls: Promise<void>[] = []
  let made = 0
  let stopped = false
  const kept = new Rpc(host.address)
  const kinds: ((rpc: Rpc, name: string) => Promise<unknown>)[] = [
    rpc => rpc.call(VersionService.version, {}, { timeoutMs }),
    rpc => rpc.call(Tasks.list, ListTasksRequest.create(), { timeoutMs }),
    async (rpc, name) => {
      await rpc.call(Leases.create, { id: name, labels: {} }, { timeoutMs })
      await rpc.call(Leases.delete, { id: name, sync: false }, { timeoutMs })
    },
    rpc => rpc.call(Images.list, { filters: [] }, { timeoutMs }),
    async (rpc, name) => {
      await rpc.call(
        Containers.create,
        { container: Container.fromPartial({ id: name, runtime: { name: 'r' }, spec: {} }) },
        { timeoutMs },
      )
      await rpc.call(Containers.delete, { id: name }, { timeoutMs })
    },
  ]
  const call = async (index: number) => {
    const isNew = index % 3 === 0
    const rpc = isNew ? new Rpc(host.address) : kept
    try {
      await kinds[index % kinds.length]?.(rpc, `t${index}`)
    } catch (error) {
      failures.push(`${index}: ${error}`)
    } finally {
      if (isNew) rpc.close()
    }
  }
  const going = (async () => {
    for (; !stopped; made++) {
      calls.push(call(made))
      await pause(20)
    }
  })()
  return {
    made: () => made,
    async stop() {
      stopped = true
      await going
      await Promise.all(calls)
      kept.close()
      return failures
    },
  }
}

/** purser.<node>.<namespace>.containers.create.<id> */
const topicOf = (subject: string) => `/${subject.split('.').slice(3, 5).join('/')}`

async function running(host: Host, id: string, script: string): Promise<number> {
  await host.ok('run', '-d', busyboxName, id, 'sh', '-c', script)
  const { process } = await host.call(Tasks.get, { containerId: id, execId: '' })
  return process?.pid ?? 0
}

t.test('no call fails, no container notices, no exit is lost', { skip: purserOnly }, async t => {
  const host = await purser(t, { nats: 'embedded' })
  await host.load()
  const [stays, ends] = [host.id('stays'), host.id('ends')]
  const pid = await running(host, stays, 'exec sleep 1000')
  const dying = await running(host, ends, 'trap "exit 7" TERM; while :; do sleep 0.1; done')
  const attached = host.id('attached')
  const shell = host.ctrSpawn(
    'run',
    '--rm',
    busyboxName,
    attached,
    'sh',
    '-c',
    'echo up; read line; echo "$line"; exit 3',
  )
  await shell.says(/up/, timeoutMs)
  const waits = [stays, ends].map(containerId =>
    host.call(Tasks.wait, { containerId, execId: '' }, { timeoutMs: 300_000 }),
  )

  const events = await host.events()
  const calls = traffic(host)
  await until('some traffic', () => calls.made() > 20)
  const giving = host.log.first('the switch', ({ msg }) => msg.startsWith('giving way'), { timeoutMs })
  const first = upgrade(host)
  await giving
  process.kill(dying, 'SIGTERM')
  await first
  await upgrade(host)
  const after = calls.made()
  await until('more traffic', () => calls.made() > after + 20, { timeoutMs })
  t.same(await calls.stop(), [])

  // ctr knows nothing of sequences, and was told everything once, in order.
  const last = host.id('last')
  await host.ok('containers', 'create', busyboxName, last)
  await events.first('/containers/create', ({ event }) => event.id === last, timeoutMs)
  const journaled = (await history(host)).map(({ subject, data }) => `${topicOf(subject)} ${data.id}`)
  const printed = events.all.map(({ topic, event }) => `${topic} ${event.id}`)
  const ofTraffic = (line: string) => /^\/containers\/(create|delete) t\d+$/.test(line)
  t.same(printed.filter(ofTraffic), journaled.filter(ofTraffic))
  t.ok(printed.filter(ofTraffic).length > 10)

  t.equal((await host.call(Tasks.get, { containerId: stays, execId: '' })).process?.pid, pid)
  t.ok(alive(pid))
  t.match(await waits[1], { exitStatus: 7 })
  shell.write('still attached\n')
  t.match(await shell.end(timeoutMs), { stdout: 'up\nstill attached\n', code: 3 })
  await host.ok('tasks', 'kill', '--signal', 'SIGKILL', stays)
  t.match(await waits[0], { exitStatus: 137 }, 'a Wait from before both upgrades')
  t.same(await exitsOf(host, ends), [{ process: ends, status: 7 }])
  t.same(await exitsOf(host, stays), [{ process: stays, status: 137 }])
  events.close()
  await until('the older versions to end', () => census(host).purserd === 1, { timeoutMs })
  t.same(census(host), one)
})

t.test('a version that does not take over leaves the one that runs', { skip: purserOnly }, async t => {
  const failpoints = ownDirectory('purser-failpoints-')
  mkdirSync(join(failpoints, 'kill'))
  const host = await purser(t, { nats: 'embedded', config: '# empty\n', env: { PURSER_FAILPOINTS: failpoints } })
  await host.load()
  const id = host.id('stays')
  const pid = await running(host, id, 'exec sleep 1000')
  const before = host.pid
  const wait = host.call(Tasks.wait, { containerId: id, execId: '' }, { timeoutMs: 300_000 })
  const calls = traffic(host)

  t.test('because it cannot be started, or ends', async t => {
    await t.rejects(
      upgrade(host, '--exec', '/bin/false'),
      /status 1: [\s\S]*ended with status 1 before it was prepared/,
    )
    await t.rejects(upgrade(host, '--exec', '/nowhere'), /status 1: [\s\S]*cannot be started: .*ENOENT/)
  })

  t.test('because its configuration is wrong, or leads elsewhere', async t => {
    const config = join(host.directory, 'purser.toml')
    writeFileSync(config, 'nonsense = 1\n')
    await t.rejects(upgrade(host), /unknown setting "nonsense"/)
    writeFileSync(config, '')
    const elsewhere = join(host.directory, 'elsewhere.sh')
    writeFileSync(elsewhere, `#!/bin/sh\nexec "${builtProgram('purserd.js')}" "$@" --node other\n`, { mode: 0o755 })
    await t.rejects(upgrade(host, '--exec', elsewhere), /node = "other" now, and the supervisor that runs has "test"/)
  })

  t.test('because the journal is from a later version', async t => {
    const format = join(host.root, 'journal', 'format')
    const kept = readFileSync(format)
    const text = JSON.stringify({
      ...JSON.parse(kept.toString().split('\n')[0] ?? ''),
      program: 'purserd 9',
      segments: 9,
    })
    writeFileSync(format, `${text}\n${crc32(text).toString(16).padStart(8, '0')}\n`)
    await t.rejects(upgrade(host), /the journal in .* was written by purserd 9, and this version cannot read all of it/)
    writeFileSync(format, kept)
  })

  for (const moment of ['succession.prepared', 'succession.went', 'succession.opened']) {
    t.test(`because it is killed at ${moment}`, async t => {
      writeFileSync(join(failpoints, 'kill', moment), '1')
      await t.rejects(upgrade(host), /status 1: [\s\S]*the old one goes on/)
    })
  }

  t.test('and serves as before', async t => {
    t.same(await calls.stop(), [])
    t.equal(host.pid, before)
    t.ok(alive(before))
    t.equal((await host.call(Tasks.get, { containerId: id, execId: '' })).process?.pid, pid)
    await until('one of each', () => census(host).purserd === 1 && census(host)['nats-server'] === 1, { timeoutMs })
    t.same(census(host), one)
    const sockets = readdirSync(`/proc/${before}/fd`).map(fd => readlinkSync(`/proc/${before}/fd/${fd}`))
    const twice = sockets.filter((name, index) => name.startsWith('socket:') && sockets.indexOf(name) !== index)
    t.same(twice, [], 'what was held out to them is put away')
    const events = await host.events()
    await upgrade(host)
    await host.ok('tasks', 'kill', '--signal', 'SIGKILL', id)
    t.match(await wait, { exitStatus: 137 })

    process.kill(before, 'SIGSTOP') // it passes events on
    await host.kill()
    await host.start()
    t.pass('one that gave way and lives on does not hold the addresses')
    process.kill(before, 'SIGCONT')
    await until('it to end', () => alive(before) === undefined, { timeoutMs })
    events.close()
  })
})

t.test('a kill of the one that gives way leaves what a plain start takes up', { skip: purserOnly }, async t => {
  const failpoints = ownDirectory('purser-failpoints-')
  mkdirSync(join(failpoints, 'kill'))
  const host = await purser(t, { env: { PURSER_FAILPOINTS: failpoints } })
  await host.load()
  const id = host.id('stays')
  const pid = await running(host, id, 'exec sleep 1000')
  for (const moment of ['handover.prepared', 'handover.gaveWay', 'handover.opened', 'handover.served']) {
    writeFileSync(join(failpoints, 'kill', moment), '1')
    await t.rejects(upgrade(host), moment)
    await until('both to end', () => census(host).purserd === 0, { timeoutMs })
    await host.start()
    const { process } = await host.call(Tasks.get, { containerId: id, execId: '' }, { timeoutMs })
    t.match(process, { pid, status: Status.RUNNING }, moment)
  }
})

t.test('a successor whose predecessor died before it could listen ends', { skip: purserOnly }, async t => {
  const directory = ownDirectory('purser-successor-')
  const places = { root: directory, state: directory, address: join(directory, 's'), node: 'n', metrics: 'off' }
  const flags = ['--root', directory, '--state', directory, '--address', places.address, '--node', 'n', '--nats', 'off']
  const invitation = JSON.stringify({ places, descriptors: { api: 3, metrics: null } })
  const successor = spawn(process.execPath, [builtProgram('purserd.js'), ...flags], {
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    env: { PATH: process.env.PATH, PURSER_HANDOVER: invitation },
  })
  t.teardown(() => void successor.kill('SIGKILL'))
  successor.disconnect()
  t.same(await once(successor, 'exit'), [1, null])
})

t.test('one upgrade at a time, also by signal', { skip: purserOnly }, async t => {
  const host = await purser(t)
  const never = join(host.directory, 'never.sh')
  writeFileSync(never, '#!/bin/sh\nexec sleep 1000\n', { mode: 0o755 })
  const first = startUpgrade(host, '--exec', never)
  const stuck = () => processes().find(({ parent, command }) => parent === host.pid && command[0] === 'sleep')
  await until('the first to be under way', () => stuck() !== undefined, { timeoutMs })
  await t.rejects(upgrade(host), /another upgrade is under way: wait for it/)
  process.kill(stuck()?.pid ?? 0, 'SIGKILL')
  t.match(await first.end(timeoutMs), { code: 1, stderr: /it was killed by SIGKILL before it was prepared/ })

  const before = host.pid
  process.kill(before, 'SIGUSR2')
  const ended = await host.log.first('the end of the old version', ({ msg }) => msg.startsWith('ended; the new'), {
    timeoutMs,
  })
  t.not(ended.successor, before)
  host.succeededBy(Number(ended.successor))
  await t.resolves(host.call(VersionService.version, {}, { timeoutMs }))
  await host.stop()
  t.same(census(host), { purserd: 0, 'plugin-host': 0, 'nats-server': 0 })
})
