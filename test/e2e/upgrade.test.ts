// A new version takes over from the one that runs: clients, containers and events notice nothing of it.
import t from 'tap'
import {
  Container,
  ContainersService as Containers,
} from '../../proto/gen/containerd/services/containers/v1/containers.js'
import { ImagesService as Images } from '../../proto/gen/containerd/services/images/v1/images.js'
import { LeasesService as Leases } from '../../proto/gen/containerd/services/leases/v1/leases.js'
import { ListTasksRequest, TasksService as Tasks } from '../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { VersionService } from '../../proto/gen/containerd/services/version/v1/version.js'
import { exitsOf, history } from '../harness/history.js'
import type { Host } from '../harness/host.js'
import { busyboxName } from '../harness/image.js'
import { alive } from '../harness/process.js'
import { Rpc } from '../harness/rpc.js'
import { purser, purserOnly } from '../harness/supervisor.js'
import { census, upgrade } from '../harness/upgrade.js'
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
