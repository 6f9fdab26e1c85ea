// What clients do, at random, with ctr and gRPC. A failure is fine while something is being killed; a wrong answer never.
import {
  ContentService,
  DeleteContentRequest,
  WriteAction,
} from '../../proto/gen/containerd/services/content/v1/content.js'
import { GetRequest, TasksService } from '../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { Status } from '../../proto/gen/containerd/v1/types/task.js'
import { Upload } from '../harness/content.js'
import { busyboxName, digestOf } from '../harness/image.js'
import { until } from '../harness/wait.js'
import type { Chance } from './chance.js'
import type { Ground } from './ground.js'

type Action = (ground: Ground, chance: Chance) => Promise<void>

const actions: [weight: number, action: Action][] = [
  [4, runToItsEnd],
  [4, live],
  [2, upload],
  [2, snapshot],
  [1, importImage],
]

/** Acts until it is told to stop. */
export async function act(ground: Ground, chance: Chance, stop: AbortSignal): Promise<void> {
  const all = actions.flatMap(([weight, action]) => Array.from({ length: weight }, () => action))
  while (!stop.aborted) await chance.pick(all)(ground, chance)
}

async function ctr(ground: Ground, id: string, ...words: string[]) {
  const result = await ground.host.ctrSpawn(...words).end(120_000)
  const said = result.code === 0 ? 'done' : `status ${result.code}: ${result.stderr.trim().slice(0, 160)}`
  ground.tell(`ctr: ${id} ${words.slice(0, 2).join(' ')}, ${said}`)
  return result
}

function container(ground: Ground): string {
  const id = ground.host.id('soak')
  ground.containers.set(id, { id, runs: false, lostShim: false })
  return id
}

/** `ctr run --rm`: when it succeeds, its output is whole and nothing of it is left. */
async function runToItsEnd(ground: Ground, chance: Chance): Promise<void> {
  const id = container(ground)
  const status = chance.between(0, 3)
  const { code, stdout } = await ctr(
    ground,
    id,
    'run',
    '--rm',
    busyboxName,
    id,
    'sh',
    '-c',
    `echo said; exit ${status}`,
  )
  if (code === 0 && (status !== 0 || !isWhole(ground, stdout)))
    ground.problem(`ctr run of ${id} should end with ${status} and "said": it said ${JSON.stringify(stdout)}`, id)
  await remove(ground, id)
}

/** A container that is run in the background, used, and ended. */
async function live(ground: Ground, chance: Chance): Promise<void> {
  const id = container(ground)
  const known = ground.containers.get(id)
  const labels = chance.next() < 0.3 ? ['--label', `io.purser/network=${ground.network.name}`] : []
  const { code } = await ctr(ground, id, 'run', '-d', ...labels, busyboxName, id, 'sleep', '100000')
  if (code === 0 && known) {
    known.runs = true
    for (let use = chance.between(0, 4); use > 0; use--) {
      if (chance.next() < 0.5) await exec(ground, id)
      else await pauseAndResume(ground, id)
      if (!(await isRunning(ground, id)) && !known.lostShim)
        ground.problem(`${id} was acknowledged as running, and is not`, id)
    }
    // Some stay for the calm, where they have to be as they were left.
    if (chance.next() < 0.2) return
    known.runs = false
  }
  await ctr(ground, id, 'tasks', 'kill', '-s', 'SIGKILL', id)
  await remove(ground, id)
}

async function exec(ground: Ground, id: string): Promise<void> {
  const name = ground.host.id('x')
  const { code, stdout } = await ctr(ground, id, 'tasks', 'exec', '--exec-id', name, id, 'echo', 'said')
  if (code === 0 && !isWhole(ground, stdout)) ground.problem(`an exec in ${id} said ${JSON.stringify(stdout)}`, id)
}

/**
 * ctr itself loses all of a short output when it learns of the end before it has noticed that its FIFO is open: on a busy
 * machine with containerd, in one of thirty execs. That is counted.
 */
function isWhole(ground: Ground, stdout: string): boolean {
  if (stdout === '') ground.count('lost by ctr', 1)
  return stdout === '' || stdout === 'said\n'
}

async function pauseAndResume(ground: Ground, id: string): Promise<void> {
  await ctr(ground, id, 'tasks', 'pause', id)
  // Until it is taken, however long the supervisor is away: a paused container would wait for ever.
  const goesOn = async () => {
    await ctr(ground, id, 'tasks', 'resume', id)
    const status = await statusOf(ground, id)
    return status !== undefined && status !== Status.PAUSED && status !== Status.PAUSING
  }
  await until(`${id} to go on`, goesOn, { timeoutMs: 60_000, intervalMs: 50 })
}

/** Undefined when nobody answers. */
async function statusOf(ground: Ground, containerId: string): Promise<Status | undefined> {
  try {
    const { process } = await ground.host.call(TasksService.get, GetRequest.fromPartial({ containerId }))
    return process?.status ?? Status.UNKNOWN
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 5 ? Status.UNKNOWN : undefined
  }
}

async function isRunning(ground: Ground, id: string): Promise<boolean> {
  const status = await statusOf(ground, id)
  return status === undefined || [Status.RUNNING, Status.PAUSED, Status.PAUSING].includes(status)
}

/** As a user would: until it is gone, or later in the calm. */
export async function remove(ground: Ground, id: string): Promise<void> {
  await ground.host.ctr('tasks', 'rm', '--force', id)
  await ground.host.ctr('containers', 'rm', id)
  await ground.host.ctr('snapshots', 'rm', id)
  const left = await ground.host.ctr('containers', 'info', id)
  if (left.code !== 0 && /not found/.test(left.stderr)) ground.containers.delete(id)
}

async function upload(ground: Ground, chance: Chance): Promise<void> {
  const bytes = Buffer.alloc(chance.between(1, 200_000), chance.between(0, 255))
  const ref = ground.host.id('blob')
  const [digest, total] = [digestOf(bytes), BigInt(bytes.length)]
  const write = new Upload(ground.host, { timeoutMs: 60_000 })
  try {
    await write.send({ action: WriteAction.COMMIT, ref, total, offset: 0n, data: bytes, expected: digest })
    ground.tell(`upload: ${ref} done`)
    await ground.host.call(ContentService.delete, DeleteContentRequest.fromPartial({ digest }))
  } catch (error) {
    ground.tell(`upload: ${ref} ${error}`)
  } finally {
    write.hangUp()
  }
}

async function snapshot(ground: Ground): Promise<void> {
  const key = ground.host.id('snapshot')
  const { code } = await ctr(ground, key, 'snapshots', 'prepare', key)
  if (code === 0 && (await ctr(ground, key, 'snapshots', 'info', key)).code !== 0) {
    const { stderr } = await ground.host.ctr('snapshots', 'info', key)
    if (/not found/.test(stderr)) ground.problem(`snapshot ${key} was acknowledged, and is not there`, key)
  }
  await ctr(ground, key, 'snapshots', 'rm', key)
}

async function importImage(ground: Ground, chance: Chance): Promise<void> {
  const { code } = await ctr(ground, 'image', 'images', 'import', ground.archive)
  if (code === 0 && chance.next() < 0.5) await ctr(ground, 'image', 'images', 'ls')
}
