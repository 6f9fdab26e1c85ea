// One supervisor that is ended at point after point: each time it has to be as before the operation, or as after it.
import { join } from 'node:path'
import { status as Code } from '@grpc/grpc-js'
import {
  Kind,
  ListSnapshotsRequest,
  SnapshotsService,
} from '../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import type { Host } from '../../harness/host.js'
import { bridge, type TestNetwork } from '../../harness/network.js'
import { alive } from '../../harness/process.js'
import { purser, type SupervisorOptions } from '../../harness/supervisor.js'
import { type Scope, until } from '../../harness/wait.js'
import { Failpoints, type Moment, type Pass } from './failpoints.js'
import { auditJournal } from './journal.js'
import { leaks } from './leaks.js'
import { type Operation, segmentBytes } from './operations.js'
import { codeOf, type Ground, Stage, snapshotter } from './stage.js'

export type Victim = 'supervisor' | 'plugin host'

/** For anything on a machine that is busy with other tests. */
const patienceMs = 90_000
/** Long enough for what an operation leaves to the background: the mark of the journal comes after 250 ms. */
const quietMs = 400
/** A pass that came when it was recorded need not come again: some depend on who was faster. */
const strikeMs = 3000
/** Further passes of a point in one operation are more of the same. */
const passesMax = 6

/** Between these and the point before them nothing has happened that outlives the process. */
const sameMoment = /^(runner\.performed|registry\.recorded)$/
/** Of these, once in an operation: others have heard of what was written, and forget it with the process. */
const onlyTold = /^runner\.appended$/
/** In the background of any operation: some have these for their own. */
const background = /^journal\.(marked|segment)/

export interface Plan {
  operation: Operation
  /** What is seen behind it. */
  after: string
  moments: Record<Victim, Moment[]>
}

export class Campaign {
  #hostDeaths = 0
  /** What trials before have left: told once. */
  readonly #told = new Set<string>()

  private constructor(
    readonly host: Host,
    private readonly points: Failpoints,
    private readonly network: TestNetwork,
    private readonly ground: Ground,
  ) {}

  static async open(scope: Scope, options: SupervisorOptions = {}): Promise<Campaign> {
    const network = bridge(scope, 'crash')
    const host = await purser(scope, {
      config: `[network]\nconf_dirs = ["${network.confDirectory}"]\n[journal]\nsegment_bytes = ${segmentBytes}\n`,
      ...options,
      start: false,
      env: { PURSER_FAILPOINTS: '' },
    })
    const points = new Failpoints(join(host.directory, 'failpoints'))
    host.launch.env = { PURSER_FAILPOINTS: points.directory }
    host.networkInterfaces.push(network.bridge)
    await host.start(patienceMs)
    await host.load()
    return new Campaign(host, points, network, { network: network.name, layer: await topLayer(host) })
  }

  /** Lets each operation happen undisturbed, and writes down what it passes. */
  async plan(chosen: readonly Operation[]): Promise<Plan[]> {
    const plans: Plan[] = []
    for (const operation of chosen) {
      const stage = this.#stage(operation)
      await operation.setup?.(stage)
      const before = [this.host.pid, this.#pluginHost()]
      const passes = await this.points.record(async () => void (await operation.run(stage)), quietMs)
      const after = [this.host.pid, this.#pluginHost()]
      const of = (index: number) =>
        momentsOf(
          passes.filter(({ pid }) => pid === before[index] || pid === after[index]),
          operation,
        )
      plans.push({ operation, after: await stage.observe(), moments: { supervisor: of(0), 'plugin host': of(1) } })
      await this.#clear(stage)
    }
    return plans
  }

  /** Answers what is wrong, a line each; nothing when all is well. `missed` when the point was not passed this time. */
  async strike({ operation, after }: Plan, victim: Victim, moment: Moment): Promise<string[] | 'missed'> {
    const stage = this.#stage(operation)
    await operation.setup?.(stage)
    const before = await stage.observe()
    this.points.arm(moment)
    const outcome = await attempt(() => operation.run(stage))
    const struck = await this.#struck()
    this.points.disarm()
    if (struck === undefined) {
      await this.#clear(stage)
      return 'missed'
    }
    await until(`the ${victim} to end`, () => alive(struck) === undefined, { timeoutMs: patienceMs, intervalMs: 2 })
    await this.#recover(victim)
    const isDone = outcome.error === undefined
    const wrong = isDone || operation.restarts || codeOf(outcome.error) === Code.UNAVAILABLE ? [] : [told(outcome)]
    wrong.push(...(await this.#settle(stage, isDone || operation.isFinished ? [after] : [before, after])))
    if (!isDone) wrong.push(...(await this.#askAgain(stage, operation, after)))
    wrong.push(...(await this.#clear(stage)))
    return wrong
  }

  /** Ends the supervisor in order, and reads its whole journal. Answers what is wrong with it. */
  async audit(): Promise<string[]> {
    await this.host.stop()
    return auditJournal(join(this.host.root, 'journal'))
  }

  async #struck(): Promise<number | undefined> {
    return until('the end', () => this.points.struck(), { timeoutMs: strikeMs, intervalMs: 5 }).catch(() => undefined)
  }

  /** As a client does who was told that nobody was there. What is still in doubt waits until recovery knows. */
  async #askAgain(stage: Stage, operation: Operation, after: string): Promise<string[]> {
    let last: unknown
    const done = async () => {
      if ((await stage.observe()) === after) return true
      last = (await attempt(() => operation.run(stage))).error
      return (await stage.observe()) === after
    }
    const isDone = await until('it to be done', done, { timeoutMs: patienceMs }).catch(() => false)
    return isDone ? [] : [`asked again: ${last ?? 'done'}`, `seen: ${await stage.observe()}`, `not: ${after}`]
  }

  /** Until one of these states is seen. */
  async #settle(stage: Stage, allowed: string[]): Promise<string[]> {
    let now = ''
    const known = async () => {
      now = await stage.observe()
      return allowed.includes(now)
    }
    const settled = await until('a known state', known, { timeoutMs: patienceMs }).catch(() => false)
    return settled ? [] : [`seen: ${now}`, ...allowed.map(state => `not: ${state}`)]
  }

  /** Answers what is left. */
  async #clear(stage: Stage): Promise<string[]> {
    const cleared = await attempt(() => stage.clear())
    const refusal = cleared.error === undefined ? [] : [`it cannot be removed: ${cleared.error}`]
    let left: string[] = []
    await until(
      'nothing to be left',
      () => {
        left = leaks(stage, this.#staying(), this.network.addressDirectory).filter(line => !this.#told.has(line))
        return left.length === 0
      },
      { timeoutMs: refusal.length > 0 ? 1000 : patienceMs, intervalMs: 10 },
    ).catch(() => undefined)
    for (const line of left) this.#told.add(line)
    return [...refusal, ...left.map(line => `left: ${line}`)]
  }

  async #recover(victim: Victim): Promise<void> {
    if (!this.host.isRunning) {
      await this.host.ended()
      return this.#startAgain()
    }
    if (victim === 'supervisor') return // the operation itself has started it again
    // So often in a row that the supervisor would wait before it starts another one: then it ends as well.
    this.#hostDeaths += 1
    if (this.#hostDeaths % 3 === 0) {
      await this.host.kill()
      return this.#startAgain()
    }
    const from = this.host.log.items.findLastIndex(({ msg }) => msg.startsWith('the plugin host starts')) + 1
    const compared = () =>
      this.host.log.items.slice(from).filter(({ msg }) => msg === 'reconciled with the plugin').length >= plugins
    await until('all plugins to be back', compared, { timeoutMs: patienceMs, intervalMs: 5 })
  }

  async #startAgain(): Promise<void> {
    await this.host.start(patienceMs)
    await until('the supervisor to answer', () => this.host.answers(), { timeoutMs: patienceMs, intervalMs: 5 })
  }

  #stage({ name }: Operation): Stage {
    return new Stage(
      this.host,
      this.host.id(
        name
          .split(' ')
          .map(word => word[0])
          .join(''),
      ),
      this.ground,
    )
  }

  /** The supervisor and what it runs. */
  #staying(): number[] {
    const daemons = ['plugin-host', 'nats-server'].map(program => this.host.daemon(program)?.pid)
    return [this.host.pid, ...daemons.filter(pid => pid !== undefined)]
  }

  #pluginHost(): number {
    return this.host.daemon('plugin-host')?.pid ?? 0
  }
}

const plugins = 6

/** The moments of one kind of process, each once. */
function momentsOf(passes: Pass[], operation: Operation): Moment[] {
  const counts = new Map<string, number>()
  const moments: Moment[] = []
  for (const { point } of passes) {
    const pass = (counts.get(point) ?? 0) + 1
    counts.set(point, pass)
    if (sameMoment.test(point) || pass > (onlyTold.test(point) ? 1 : passesMax)) continue
    if (operation.points ? !operation.points.test(point) : background.test(point)) continue
    moments.push({ point, pass })
  }
  return moments
}

const told = ({ error }: { error: unknown }) => `the client was told: ${error ?? 'done'}`

async function topLayer(host: Host): Promise<string> {
  const parts = await host.rpc.collect(SnapshotsService.list, ListSnapshotsRequest.fromPartial({ snapshotter }))
  const all = parts.flatMap(({ info }) => info).filter(({ kind }) => kind === Kind.COMMITTED)
  const top = all.find(({ name }) => !all.some(({ parent }) => parent === name))
  if (!top) throw new Error('the image has no unpacked layer')
  return top.name
}

async function attempt(work: () => Promise<unknown>): Promise<{ error: unknown }> {
  try {
    await work()
    return { error: undefined }
  } catch (error) {
    return { error }
  }
}
