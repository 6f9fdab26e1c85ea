// `ctr tasks` and `ctr containers`: what can be seen of a running container and done to it.
import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import {
  GetRequest,
  KillRequest,
  ListPidsRequest,
  MetricsRequest,
  TasksService,
  WaitRequest,
} from '../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { resizeTerminal } from '../harness/ctr.js'
import { alive } from '../harness/process.js'
import { supervisor } from '../harness/supervisor.js'
import { table } from '../harness/table.js'
import { until } from '../harness/wait.js'

const host = await supervisor(t, { config: '[plugins.runtime.v2]\naskMs = 200\n' })
const image = await host.load()

/** A detached container that runs a shell line. */
async function detached(name: string, script: string, ...flags: string[]): Promise<string> {
  const id = host.id(name)
  await host.ok('run', '-d', ...flags, image, id, 'sh', '-c', script)
  return id
}

async function taskOf(id: string) {
  const row = table(await host.ok('tasks', 'ls')).find(({ TASK }) => TASK === id)
  return row && { pid: Number(row.PID), status: row.STATUS }
}

const stopped = (id: string) => until(`${id} to stop`, async () => (await taskOf(id))?.status === 'STOPPED')

const parentOf = (pid: number) => Number(readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ')[1])

async function remove(id: string): Promise<void> {
  await host.ok('tasks', 'rm', '--force', id)
  await host.ok('containers', 'rm', id)
}

t.test('tasks ls and ps tell the process as the machine has it', async t => {
  const id = await detached('seen', 'sleep 60 & exec sleep 61')
  const task = await taskOf(id)
  t.equal(task?.status, 'RUNNING')
  t.match(alive(task?.pid ?? 0)?.command, ['sleep', '61'])
  const pids = table(await host.ok('tasks', 'ps', id)).map(({ PID }) => alive(Number(PID))?.command[1])
  t.same(new Set(pids), new Set(['60', '61']))
  await remove(id)
})

t.test('exec adds a process: output, input, status, directory, user', async t => {
  const id = await detached('exec', 'exec sleep 60')
  const exec = (...words: string[]) => host.ctr('tasks', 'exec', '--exec-id', host.id('e'), ...words)
  t.match(await exec(id, 'sh', '-c', 'echo out; echo err >&2; exit 3'), { stdout: 'out\n', stderr: 'err\n', code: 3 })
  t.equal((await exec('--cwd', '/tmp', id, 'pwd')).stdout, '/tmp\n')
  t.equal((await exec('--user', '1000', id, 'id', '-u')).stdout, '1000\n')
  const cat = host.ctrSpawn('tasks', 'exec', '--exec-id', 'cat', id, 'cat')
  cat.write('through\n')
  cat.closeInput()
  t.match(await cat.end(), { stdout: 'through\n', code: 0 })
  t.match((await exec(id, '/no/such/command')).stderr, /OCI runtime exec failed: exec failed: .*no such file/)
  t.equal((await taskOf(id))?.status, 'RUNNING', 'the container itself goes on')
  await remove(id)
})

t.test('an exec id that is in use is refused', async t => {
  const id = await detached('twice', 'exec sleep 60')
  await host.ok('tasks', 'exec', '-d', '--exec-id', 'one', id, 'sleep', '60')
  const { stderr, code } = await host.ctr('tasks', 'exec', '--exec-id', 'one', id, 'true')
  t.equal(code, 1)
  t.match(stderr, /already exists/)
  await host.ok('tasks', 'kill', '--exec-id', 'one', '--signal', 'KILL', id)
  t.equal((await taskOf(id))?.status, 'RUNNING', 'the signal was for the other process')
  await remove(id)
})

t.test('exec on a terminal follows its size', async t => {
  const id = await detached('exec-tty', 'exec sleep 60')
  const terminal = host.ctrOnTerminal('tasks', 'exec', '-t', '--exec-id', 'shell', id, 'sh')
  await terminal.says(/# /)
  await resizeTerminal(terminal, 101, 37)
  await until('the new size', async () => {
    terminal.write('stty size\n')
    return terminal.stdout.includes('37 101')
  })
  terminal.write('exit 4\n')
  t.equal((await terminal.end()).code, 4)
  await remove(id)
})

t.test('attach joins input and output of a container that runs', async t => {
  const id = await detached('attach', 'while read line; do echo "got $line"; done; exit 6')
  const attached = host.ctrSpawn('tasks', 'attach', id)
  attached.write('one\n')
  await attached.says(/got one\n/)
  attached.write('two\n')
  await attached.says(/got two\n/)
  await host.ok('tasks', 'kill', '--signal', 'KILL', id)
  t.equal((await attached.end()).code, 137)
  await host.ctr('tasks', 'rm', id)
  await host.ok('containers', 'rm', id)
})

t.test('kill sends the signal that was asked for', async t => {
  const id = await detached('kill', 'trap "exit 21" USR1; while :; do sleep 1 & wait; done')
  await host.ok('tasks', 'kill', '--signal', 'USR1', id)
  await stopped(id)
  t.match(await host.call(TasksService.get, GetRequest.fromPartial({ containerId: id })), {
    process: { exitStatus: 21 },
  })
  await host.ok('tasks', 'rm', id)
  t.equal(await taskOf(id), undefined)
  await host.ok('containers', 'rm', id)
})

t.test('what cannot be done now is refused with the reason', async t => {
  const id = await detached('refused', 'exec sleep 60')
  t.match(
    (await host.ctr('tasks', 'rm', id)).stderr,
    /task must be stopped before deletion|cannot delete a running process/,
  )
  t.match((await host.ctr('containers', 'rm', id)).stderr, /cannot delete a non stopped container/)
  t.match((await host.ctr('tasks', 'start', id)).stderr, /already exists/)
  t.match((await host.ctr('tasks', 'resume', id)).stderr, /running/)
  await host.ok('tasks', 'kill', '--signal', 'KILL', id)
  await stopped(id)
  t.match((await host.ctr('tasks', 'kill', id)).stderr, /process already finished: not found/)
  t.match((await host.ctr('tasks', 'exec', '--exec-id', 'late', id, 'true')).stderr, /stopped|not running/)
  t.match(await host.call(TasksService.get, GetRequest.fromPartial({ containerId: id })), {
    process: { exitStatus: 137 },
  })
  await host.ok('tasks', 'rm', id)
  t.match((await host.ctr('tasks', 'kill', id)).stderr, /not found/)
  await host.ok('containers', 'rm', id)
  t.match((await host.ctr('tasks', 'ps', id)).stderr, /not found/)
})

t.test('pause stops every process and resume lets them go on', async t => {
  const id = await detached('pause', 'exec sleep 60')
  await host.ok('tasks', 'pause', id)
  t.equal((await taskOf(id))?.status, 'PAUSED')
  t.match((await host.ctr('tasks', 'exec', '--exec-id', 'x', id, 'true')).stderr, /paused/)
  await host.ok('tasks', 'resume', id)
  t.equal((await taskOf(id))?.status, 'RUNNING')
  t.equal(await host.ok('tasks', 'exec', '--exec-id', 'y', id, 'echo', 'awake'), 'awake')
  await remove(id)
})

t.test('metrics are the cgroup’s', async t => {
  const id = await detached('metrics', 'exec sleep 60', '--memory-limit', String(64 << 20))
  const text = await host.ok('tasks', 'metrics', id)
  t.match(text, id)
  t.match(text, /^pids\.current +1\s*$/m)
  t.match(text, /^memory\.usage(_in_bytes)? +\d+\s*$/m)
  t.match(JSON.parse(await host.ok('tasks', 'metrics', '--format', 'json', id)), { pids: { current: 1 } })
  await remove(id)
})

t.test('one shim that hangs is told of, and keeps nobody waiting for the others', async t => {
  const ids = await Promise.all(Array.from({ length: 8 }, (_, n) => detached(`hung${n}`, 'exec sleep 60')))
  const [hung = '', ended = '', ...others] = ids
  const shim = parentOf((await taskOf(hung))?.pid ?? 0)
  process.kill(shim, 'SIGSTOP')
  try {
    await until('the silent one to be told', async () => (await taskOf(hung))?.status === 'UNKNOWN')
    for (const id of [ended, ...others]) t.equal((await taskOf(id))?.status, 'RUNNING')
    if (host.kind === 'purserd') {
      t.match(await host.metrics(), /^purser_tasks_unresponsive 1$/m)
      const { metrics } = await host.call(TasksService.metrics, MetricsRequest.fromPartial({}), { timeoutMs: 4000 })
      t.same(
        metrics.map(({ id }) => id).sort(),
        [ended, ...others].sort(),
        'metrics come before the deadline of a shim',
      )
    }
    const one = { containerId: ended }
    t.match(await host.call(TasksService.listPids, ListPidsRequest.fromPartial(one)), { processes: [{ pid: Number }] })
    const waiting = host.call(TasksService.wait, WaitRequest.fromPartial(one))
    await host.call(TasksService.kill, KillRequest.fromPartial({ ...one, signal: 9 }))
    t.match(await waiting, { exitStatus: 137 })
  } finally {
    process.kill(shim, 'SIGCONT')
  }
  await until('it to answer again', async () => (await taskOf(hung))?.status === 'RUNNING')
  await Promise.all(ids.map(remove))
})

t.test('a container is made first and started later, again and again', async t => {
  const id = host.id('later')
  await host.ok('containers', 'create', image, id, 'ls', '/again')
  t.match(table(await host.ok('containers', 'ls')), [{ CONTAINER: id, IMAGE: image, RUNTIME: 'io.containerd.runc.v2' }])
  t.equal(await taskOf(id), undefined)
  for (const time of ['first', 'second'])
    t.match(await host.ctr('tasks', 'start', id), { stderr: /\/again: No such file/, code: 1 }, `the ${time} time`)
  await host.ok('containers', 'rm', id)
})

t.test('labels of a container are set and cleared', async t => {
  const id = host.id('labels')
  await host.ok('containers', 'create', '--label', 'a=1', image, id)
  t.match(await host.ok('containers', 'label', id, 'a=', 'b=2'), /b=2/)
  const info: unknown = JSON.parse(await host.ok('containers', 'info', id))
  t.match(info, { Labels: { b: '2', a: undefined } })
  t.equal(await host.ok('containers', 'ls', '-q'), id)
  t.match(table(await host.ok('containers', 'ls', 'labels.b==2')), [{ CONTAINER: id }])
  t.same(table(await host.ok('containers', 'ls', 'labels.b==3')), [])
  await host.ok('containers', 'rm', id)
  t.match((await host.ctr('containers', 'info', id)).stderr, /not found/)
  t.equal(table(await host.ok('snapshots', 'ls')).length, 2, 'its snapshot went with it')
})

t.test('namespaces do not see each other', async t => {
  const id = host.id('spaces')
  await host.ok('containers', 'create', image, id)
  t.same(table(await host.ok('--namespace', 'other', 'containers', 'ls')), [])
  t.match((await host.ctr('--namespace', 'other', 'containers', 'info', id)).stderr, /not found/)
  t.same(table(await host.ok('--namespace', 'other', 'images', 'ls')), [])
  await host.ok('containers', 'rm', id)
})

t.test('the snapshotter that a namespace names is the one that clients take', async t => {
  const id = host.id('defaulted')
  const there = (...words: string[]) => host.ok('--namespace', 'defaulted', ...words)
  await host.ok('namespaces', 'create', 'defaulted', 'containerd.io/defaults/snapshotter=native')
  const archive = join(host.directory, 'exported.tar')
  await host.ok('images', 'export', archive, image)
  await there('images', 'import', archive)
  rmSync(archive)
  await there('containers', 'create', image, id)
  t.match(JSON.parse(await there('containers', 'info', id)), { Snapshotter: 'native' })
  const snapshots = table(await there('snapshots', '--snapshotter', 'native', 'ls'))
  t.ok(snapshots.some(({ KEY }) => KEY === id))
  await there('containers', 'rm', id)
  await there('images', 'rm', '--sync', image)
  await host.ok('namespaces', 'rm', 'defaulted')
})

t.test('a namespace in use cannot be removed', async t => {
  t.match((await host.ctr('namespaces', 'rm', 'default')).stderr, /must be empty, but it still has images/)
})

t.test('a container outlives the client that ran it', async t => {
  const id = host.id('outlives')
  const running = host.ctrSpawn('run', image, id, 'sh', '-c', 'echo up; exec sleep 60')
  await running.says(/up/)
  running.kill('SIGKILL')
  await running.end()
  t.equal((await taskOf(id))?.status, 'RUNNING')
  await remove(id)
})

t.test('nothing of all this is left', async t => {
  await host.stop()
  t.same(await host.nothingLeft(), [])
})
