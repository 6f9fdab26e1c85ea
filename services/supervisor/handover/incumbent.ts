// The side that gives way: starts a successor, hands over, and goes on as before when that fails. The order is the
// promise; each step says who serves when either process dies there.
import { EventEmitter, once } from 'node:events'
import { closeSync } from 'node:fs'
import { isAbsolute, join } from 'node:path'
import type { Logger } from 'pino'
import { Code, invalidArgument, StatusError } from '../../../plugins/kit/errors.js'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import type { UpgradeRequest, UpgradeStep } from '../api/upgrade.js'
import type { Settings } from '../config.js'
import type { Descriptors, GivenWay, Succession, Supervisor } from '../supervisor.js'
import { placesOf } from './messages.js'
import { notTakenOver, SuccessorProcess } from './program.js'

export interface IncumbentOptions {
  settings: Settings
  log: Logger
  /** Opens a supervisor, with plugins of its own. */
  open(upgrade: Incumbent['upgrade'], succession: Succession | undefined): Promise<Supervisor>
  tellServiceManager(message: string): void
}

/** To load, to read the journal, to open the API: each normally takes a tenth of a second. */
const stepMs = 60_000

export class Incumbent {
  /** Resolves when a successor serves and nobody needs this process any more; rejects when nobody serves any more. */
  readonly succeeded: Promise<number>
  private tellSucceeded: (pid: number) => void = () => {}
  private tellFailed: (error: unknown) => void = () => {}
  private supervisor: Supervisor | undefined
  private underWay = false
  /** How often this process followed itself. */
  private returns = 0
  /** The ways that were given, to itself or to a successor: callers may still wait behind each. */
  private readonly given: GivenWay[] = []

  constructor(private readonly options: IncumbentOptions) {
    this.succeeded = new Promise((resolve, reject) => {
      this.tellSucceeded = resolve
      this.tellFailed = reject
    })
  }

  async open(succession?: Succession): Promise<Supervisor> {
    this.supervisor = await this.options.open(request => this.upgrade(request), succession)
    return this.supervisor
  }

  /** Once a successor serves, nothing is left to close. */
  async close(): Promise<void> {
    await this.supervisor?.close()
  }

  /** Goes on when the one who asked has left. */
  async *upgrade(request: UpgradeRequest): AsyncGenerator<UpgradeStep> {
    const steps: UpgradeStep[] = []
    const changes = new EventEmitter()
    let over = false
    const tell = (step: UpgradeStep) => {
      this.options.log.info({ successor: step.pid }, step.step)
      steps.push(step)
      changes.emit('change')
    }
    const running = this.run(request, tell).finally(() => {
      over = true
      changes.emit('change')
    })
    running.catch(error => this.options.log.error({ reason: String(error) }, 'no upgrade'))
    for (;;) {
      for (let step = steps.shift(); step; step = steps.shift()) yield step
      if (over) return void (await running)
      await once(changes, 'change')
    }
  }

  /** For SIGUSR2. Where it leads to is in the log. */
  async upgradeBySignal(): Promise<void> {
    try {
      for await (const _ of this.upgrade({ program: '', patienceMs: stepMs }));
    } catch {
      // Told already.
    }
  }

  private async run(request: UpgradeRequest, tell: (step: UpgradeStep) => void): Promise<void> {
    const { supervisor } = this
    if (!supervisor || this.underWay) throw new StatusError(Code.ABORTED, 'another upgrade is under way: wait for it')
    if (request.program !== '' && !isAbsolute(request.program))
      throw invalidArgument(`program "${request.program}": write an absolute path`)
    this.underWay = true
    this.options.tellServiceManager(`RELOADING=1\nMONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`)
    try {
      await this.handOver(supervisor, request, tell)
    } finally {
      this.underWay = false
      if (this.supervisor) this.options.tellServiceManager('READY=1')
    }
  }

  private async handOver(supervisor: Supervisor, request: UpgradeRequest, tell: (step: UpgradeStep) => void) {
    const { settings } = this.options
    const descriptors = await supervisor.descriptors()
    const successor = SuccessorProcess.start(request.program, placesOf(settings), descriptors)
    const { pid } = successor
    let isOurs = true
    try {
      // We serve. The successor dies with us.
      const { version } = await successor.hear('prepared', stepMs)
      failpoint('handover.prepared')
      tell({ step: 'the new version is loaded', pid, version })
      const givenWay = await supervisor.giveWay(request.patienceMs)
      this.supervisor = undefined
      this.given.push(givenWay)
      failpoint('handover.gaveWay')
      // Nobody serves, clients wait. When the successor dies, we come back; when we die, it does too.
      try {
        await this.letTakeOver(successor, givenWay)
      } catch (error) {
        await successor.end()
        isOurs = false
        await this.comeBack(givenWay, descriptors).catch(this.tellFailed)
        throw error
      }
      // The successor serves.
      this.options.tellServiceManager(`MAINPID=${pid}`)
      successor.say({ is: 'yours' })
      successor.release()
      tell({ step: `the new version serves ${settings.address}`, pid, version })
      void Promise.all(this.given.map(given => given.passed())).then(() => this.tellSucceeded(pid))
    } catch (error) {
      await successor.end()
      throw error
    } finally {
      // For as long as we hold them, nobody else can listen there, though the successor may die.
      if (isOurs) closeDescriptors(descriptors)
    }
  }

  private async letTakeOver(successor: SuccessorProcess, givenWay: GivenWay): Promise<void> {
    successor.say({ is: 'go' })
    const { path } = await successor.hear('opened', stepMs)
    failpoint('handover.opened')
    await givenWay.passTo(path).catch(error => {
      throw notTakenOver(`nobody answers on ${path} (${error instanceof Error ? error.message : error})`)
    })
    successor.say({ is: 'passed' })
    await successor.hear('serving', stepMs)
    failpoint('handover.served')
  }

  /** As a successor of ourselves: clients and calls wait as they would for another. */
  private async comeBack(givenWay: GivenWay, descriptors: Descriptors): Promise<void> {
    const path = join(this.options.settings.state, `handover.${process.pid}.${++this.returns}.sock`)
    const supervisor = await this.open({ descriptors, path, served: () => givenWay.passTo(path) })
    this.options.log.warn('the upgrade failed: this version serves again')
    void supervisor.ready(stepMs)
  }
}

function closeDescriptors({ api, metrics }: Descriptors): void {
  closeSync(api)
  if (metrics !== undefined) closeSync(metrics)
}
