// A calm phase: nothing is killed, everything has to come together, and what is left is measured.
import { execFileSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { EventsService, PublishRequest } from '../../proto/gen/containerd/services/events/v1/events.js'
import { listen, type RelayedEvent } from '../harness/jetstream.js'
import { memoryOf } from '../harness/process.js'
import { table } from '../harness/table.js'
import { OpenScope, until } from '../harness/wait.js'
import { remove } from './actions.js'
import type { Ground } from './ground.js'
import type { Subscribers } from './subscribers.js'

export interface Sample {
  minutes: number
  events: number
  supervisorMiB: number
  supervisorFiles: number
  hostMiB: number
  hostFiles: number
  natsMiB: number
  diskMiB: number
}

const patienceMs = 120_000

export async function calm(ground: Ground, subscribers: Subscribers, minutes: number): Promise<Sample> {
  await answers(ground)
  await keepsItsWord(ground)
  await isCleared(ground)
  const events = await relayed(ground)
  if (events > 0) await subscribers.compare(BigInt(events), patienceMs)
  await leavesNothing(ground)
  return { minutes, events, ...measure(ground) }
}

/** Events too have gone out: until then listeners may meet a nats-server that is about to be ended or started anew. */
async function answers({ host }: Ground): Promise<void> {
  const served = async () =>
    (await host.ctr('tasks', 'ls')).code === 0 && (await host.ctr('snapshots', 'ls')).code === 0
  await until('the supervisor to serve', served, { timeoutMs: patienceMs })
  const relayed = async () => {
    const metrics = await host.metrics()
    return /^purser_relay_connected 1$/m.test(metrics) && /^purser_relay_lag_events 0$/m.test(metrics)
  }
  await until('all events to be in NATS', relayed, { timeoutMs: patienceMs })
}

/** What was acknowledged as running runs, unless its shim was killed. */
async function keepsItsWord(ground: Ground): Promise<void> {
  const states = async () =>
    new Map(table(await ground.host.ok('tasks', 'ls')).map(({ TASK, STATUS }) => [TASK ?? '', STATUS ?? '']))
  for (const { id, runs, lostShim } of ground.containers.values()) {
    if (!runs || lostShim) continue
    const seen = async () => (await states()).get(id) === 'RUNNING'
    await until(`${id} to run`, seen, { timeoutMs: 10_000 }).catch(async () => {
      ground.problem(`${id} was acknowledged as running, and is ${(await states()).get(id) ?? 'gone'}`, id)
    })
  }
}

async function isCleared(ground: Ground): Promise<void> {
  for (const id of [...ground.containers.keys()]) {
    await until(
      `${id} to be removed`,
      async () => {
        await remove(ground, id)
        return !ground.containers.has(id)
      },
      { timeoutMs: patienceMs },
    ).catch(error => {
      ground.problem(String(error), id)
      ground.containers.delete(id)
    })
  }
  for (const { KEY } of table(await ground.host.ok('snapshots', 'ls')))
    if (KEY?.startsWith('snapshot-')) await ground.host.ctr('snapshots', 'rm', KEY)
  for (const { REF } of table(await ground.host.ok('content', 'active')))
    if (REF?.startsWith('blob-')) ground.tell(`ingest: ${REF} was left for its client to resume`)
}

/** JetStream holds 1 to n once and in order, and each exit once. Answers n, the sequence of an event of its own. */
async function relayed(ground: Ground): Promise<number> {
  const scope = new OpenScope()
  try {
    const events = await listen(scope, ground.host)
    const name = ground.host.id('mark')
    const event = { typeUrl: 'soak.Mark', value: Buffer.alloc(0) }
    await ground.host.call(EventsService.publish, PublishRequest.fromPartial({ topic: `/soak/${name}`, event }))
    const isMark = ({ subject }: RelayedEvent) => subject.includes(name)
    const { sequence: last } = await events.first('the mark in JetStream', isMark, { timeoutMs: patienceMs })
    const wrong = events.items.find(({ sequence }, index) => sequence !== BigInt(index + 1))
    if (wrong) ground.problem(`the stream holds event ${wrong.sequence} where it should not: ${wrong.subject}`, '')
    const exits = new Map<string, number>()
    for (const { subject, data } of events.items) {
      if (!subject.includes('.tasks.exit.')) continue
      const process = `${subject} ${data.id} ${data.pid}`
      exits.set(process, (exits.get(process) ?? 0) + 1)
    }
    for (const [process, times] of exits)
      if (times > 1) ground.problem(`an exit was told ${times} times: ${process}`, '')
    return Number(last)
  } catch (error) {
    ground.problem(`the stream cannot be read back: ${error}`, '')
    return 0
  } finally {
    await scope.close()
  }
}

async function leavesNothing(ground: Ground): Promise<void> {
  const ours = [ground.host.pid, ground.host.daemon('plugin-host')?.pid, ground.host.daemon('nats-server')?.pid]
  const expected = ['network interface ', `mount ${ground.disk.path}`, ...ours.map(pid => `process ${pid}:`)]
  const left = () => ground.host.leftovers().filter(line => !expected.some(start => line.startsWith(start)))
  await until('nothing to be left', () => left().length === 0, { timeoutMs: 60_000 }).catch(() => {
    for (const line of left()) ground.problem(`left: ${line}`, /soak-[0-9a-f]+/.exec(line)?.[0] ?? '')
  })
  const addresses = readdirSync(ground.network.addressDirectory).filter(name => /^\d/.test(name))
  if (addresses.length > 0) ground.problem(`addresses are held by nobody: ${addresses.join(' ')}`, '')
}

function measure(ground: Ground): Omit<Sample, 'minutes' | 'events'> {
  const supervisor = ofProcess(ground.host.pid)
  const pluginHost = ofProcess(ground.host.daemon('plugin-host')?.pid)
  return {
    supervisorMiB: supervisor.mib,
    supervisorFiles: supervisor.files,
    hostMiB: pluginHost.mib,
    hostFiles: pluginHost.files,
    natsMiB: ofProcess(ground.host.daemon('nats-server')?.pid).mib,
    diskMiB: diskOf(ground.host.root),
  }
}

function ofProcess(pid: number | undefined): { mib: number; files: number } {
  if (pid === undefined) return { mib: 0, files: 0 }
  return { mib: Math.round(memoryOf(pid).rssKiB / 1024), files: readdirSync(`/proc/${pid}/fd`).length }
}

function diskOf(directory: string): number {
  const [kib] = execFileSync('du', ['-sk', directory], { encoding: 'utf8' }).split('\t')
  return Math.round(Number(kib) / 1024)
}
