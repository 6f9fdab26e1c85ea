// One simulation: clients and faults by a seed, then quiet, then the question whether everything is as it must be.
import { type Logger, pino } from 'pino'
import type { Journal, JournalRecord } from '../../services/supervisor/journal/journal.js'
import { HeavyParts } from '../../services/supervisor/state/heavy.js'
import { encodeWorld } from '../../services/supervisor/state/snapshot.js'
import { Broker } from './broker.js'
import { unsettled } from './checks.js'
import { Clients } from './clients.js'
import { SimulatedDisk } from './disk.js'
import { type Fault, faultOf } from './faults.js'
import { Host } from './host.js'
import { Model } from './model.js'
import { outside } from './outside/current.js'
import { Chance } from './random.js'
import { Supervisor } from './supervisor.js'
import { Party, Time } from './time.js'

export interface SimulationOptions {
  seed: number
  /** How long it storms, in steps. */
  steps: number
  /** Wishes and faults that are left out: "wish 3", "fault 1". */
  without?: ReadonlySet<string>
  /** Hears what happens, line by line. */
  tell?: (line: string) => void
}

export interface Outcome {
  seed: number
  steps: number
  hash: number
  wishes: number
  granted: number
  faults: number
  records: number
  /** The wishes and faults whose time came: "wish 0", "fault 0" … */
  drawn: readonly string[]
  /** What should not have been; undefined when all is well. */
  wrong: string | undefined
}

const seconds = 1_000_000
const patience = 900 * seconds
/** As long as systemd would wait. */
const stopPatience = 90 * seconds

export function simulate(options: SimulationOptions): Promise<Outcome> {
  return new Simulation(options).run()
}

class Simulation {
  private readonly time = new Time()
  private readonly disk: SimulatedDisk
  private readonly host: Host
  private readonly broker: Broker
  private readonly clients: Clients
  private readonly chance: Chance
  private readonly log: Logger
  private readonly operator = new Party('operator')
  private readonly acknowledged = new Map<string, string>()
  private supervisor: Supervisor | undefined
  private stopping: Supervisor | undefined
  private wrong: string | undefined
  private storming = true
  private faults = 0
  private readonly drawn: string[] = []
  private readonly history: JournalRecord[] = []
  private records = 0
  private lives = 0
  private about = 0

  constructor(private readonly options: SimulationOptions) {
    const { seed } = options
    this.disk = new SimulatedDisk(this.time, seed)
    this.host = new Host(this.time, seed, options.tell && (line => this.tell(line)))
    this.broker = new Broker(this.time, seed)
    this.chance = new Chance(seed, 'network')
    this.clients = new Clients(seed, {
      tell: line => this.tell(line),
      acknowledged: (request, promised) => this.acknowledged.set(`${request} ${promised}`, promised),
      wrong: what => this.fail(what),
    })
    this.log = logger(options.tell !== undefined, line => this.logged(line))
    Object.assign(outside, {
      time: this.time,
      chance: new Chance(seed, 'outside'),
      disk: this.disk,
      broker: this.broker,
    })
    this.time.party = this.operator
  }

  async run(): Promise<Outcome> {
    const rejected = (error: unknown) => this.fail(`a promise was left alone: ${describe(error)}`)
    process.on('unhandledRejection', rejected)
    try {
      this.start()
      this.nextWish(0)
      this.nextFault(0)
      await this.time.run(Number.POSITIVE_INFINITY, () => !!this.wrong || this.time.steps >= this.options.steps)
      if (!this.wrong) await this.rest()
      if (!this.wrong) await this.readBack()
    } catch (error) {
      this.fail(describe(error))
    } finally {
      process.off('unhandledRejection', rejected)
    }
    const { steps, hash } = this.time
    const { records, drawn } = this
    const { made: wishes, granted } = this.clients
    const { seed } = this.options
    return { seed, steps, hash, wishes, granted, faults: this.faults, records, drawn, wrong: this.wrong }
  }

  /** The supervisor begins a life; what keeps it from opening lets it be tried again. */
  private start(): void {
    const party = new Party(`supervisor ${++this.lives}`)
    this.time.after(1_000, party, 'supervisor starts', () => {
      this.tell(() => `supervisor ${this.lives} starts`)
      const { time, disk, host, chance, log } = this
      Supervisor.open({ time, disk, host, chance, log }, party).then(
        opened => {
          this.supervisor = opened
          void this.recall(opened.journal).catch(error => this.fail(describe(error)))
          this.tell(() => `supervisor ${this.lives} serves`)
        },
        error => {
          const { name } = error instanceof Error ? error : { name: '' }
          if (name !== 'JournalUnavailable') return this.fail(`the supervisor cannot start: ${describe(error)}`)
          party.alive = false
          this.time.after(seconds, this.operator, 'operator starts again', () => this.start())
        },
      )
    })
  }

  private crash(power: boolean): void {
    const supervisor = this.supervisor ?? this.stopping
    if (!supervisor) return // it is opening: let it
    this.supervisor = undefined
    this.stopping = undefined
    supervisor.crash()
    if (power) this.disk.cutPower()
    else this.disk.crash()
    if (power) {
      this.host.die()
      this.host.shims.forget()
    } else if (this.chance.happens(0.6)) {
      this.host.linger()
      // What makes a supervisor die may keep others waiting too.
      if (this.chance.happens(0.5)) this.host.stop(this.chance.delay(50_000))
    } else
      this.time.after(this.chance.delay(5_000), this.operator, 'host follows the supervisor', () => this.host.die())
    const pause = this.chance.happens(0.4) ? 2_000 : 100_000
    this.time.after(this.chance.delay(pause), this.operator, 'operator starts', () => this.start())
  }

  /** It ends as a signal asks it to; what still goes on after it has said that it ended is a fault. */
  private stop(): void {
    const { supervisor } = this
    if (!supervisor) return
    this.supervisor = undefined
    this.stopping = supervisor
    const late = this.time.after(stopPatience, this.operator, 'operator waits no longer', () => {
      if (supervisor.party.alive) this.fail('the supervisor does not stop')
    })
    void supervisor.stop().then(
      () => {
        late.cancelled = true
        if (!supervisor.party.alive) return // it was killed meanwhile
        this.tell(() => 'the supervisor has stopped')
        this.stopping = undefined
        supervisor.crash()
        this.disk.crash()
        this.host.die()
        this.time.after(this.chance.delay(100_000), this.operator, 'operator starts', () => this.start())
      },
      error => this.fail(`the supervisor cannot stop: ${describe(error)}`),
    )
  }

  /** What is dropped must have been written down by the broker at some time: it cannot come from here any more. */
  private compact(): void {
    const { supervisor, broker } = this
    if (!supervisor) return
    this.time.party = supervisor.party
    void supervisor.retention.run().then(
      ({ first, droppedEvents }) => {
        if (droppedEvents === 0n) return
        this.tell(() => `events before ${first} were dropped`)
        if (first - 1n > BigInt(broker.taken))
          this.fail(`events up to ${first - 1n} were dropped, the broker took ${broker.taken}`)
      },
      error => this.tell(() => `old events could not be dropped: ${describe(error)}`),
    )
  }

  /** Every record as it became durable, in order: what is dropped later is remembered here. */
  private remember(record: JournalRecord): void {
    const known = this.history[Number(record.sequence) - 1]
    if (!known && Number(record.sequence) !== this.history.length + 1)
      this.fail(`record ${record.sequence} was dropped unread`)
    else if (known && !Buffer.from(known.payload).equals(record.payload))
      this.fail(`record ${record.sequence} has changed`)
    else if (!known) this.history.push(record)
  }

  private async recall(journal: Journal): Promise<void> {
    if (journal.last() < BigInt(this.history.length))
      this.fail(`the journal ends at ${journal.last()}, and had ${this.history.length} records`)
    let next = journal.first()
    while (next <= journal.last() && !this.wrong)
      for await (const record of journal.read(next)) {
        this.remember(record)
        next = record.sequence + 1n
      }
    journal.onDurable(records => {
      for (const record of records) this.remember(record)
    })
  }

  private nextWish(number: number): void {
    const chance = new Chance(this.options.seed, `pause ${number}`)
    // Some come together and want something of the same: where one finds the other's work half done.
    const isClose = number > 0 && chance.happens(0.25)
    const about = isClose ? this.about : number
    this.time.after(chance.delay(isClose ? 80 : 5_000), this.operator, 'wish', () => {
      if (!this.storming) return
      this.about = about
      this.drawn.push(`wish ${number}`)
      this.nextWish(number + 1)
      const { supervisor, options } = this
      if (supervisor && !options.without?.has(`wish ${number}`)) {
        this.time.party = this.clients.party
        void this.clients.wish(number, about, supervisor)
      }
    })
  }

  private nextFault(number: number): void {
    const chance = new Chance(this.options.seed, `fault ${number}`)
    this.time.after(chance.delay(250_000), this.operator, 'fault', () => {
      if (!this.storming) return
      this.drawn.push(`fault ${number}`)
      this.nextFault(number + 1)
      if (this.options.without?.has(`fault ${number}`)) return
      const fault = faultOf(chance)
      this.faults += 1
      this.tell(() => `fault ${number}: ${fault.name}`)
      this.strike(fault, chance)
    })
  }

  private strike({ name }: Fault, chance: Chance): void {
    const later = (usual: number, label: string, work: () => void) =>
      this.time.after(chance.delay(usual), this.operator, label, work)
    const acts: Record<Fault['name'], () => void> = {
      'the supervisor is killed': () => this.crash(false),
      'the power goes': () => this.crash(true),
      'the supervisor is stopped': () => this.stop(),
      'the plugin host is killed': () => this.host.die(),
      // For longer, and its plugins would have to register anew: it is killed then.
      'the plugin host hangs': () => this.host.stop(Math.min(chance.delay(20 * seconds), 60 * seconds)),
      'the disk is full': () => {
        this.disk.full = true
        later(seconds, 'room', () => {
          this.disk.full = false
        })
      },
      'the disk fails': () => {
        this.disk.failing = true
        later(seconds, 'operator restarts', () => {
          if (this.supervisor?.journal.health().writable === false) this.crash(false)
        })
      },
      'the broker is killed': () => {
        this.broker.crash()
        later(seconds, 'broker starts', () => this.broker.start())
      },
      'the broker is wiped': () => {
        this.broker.wipe()
        later(seconds, 'broker starts', () => this.broker.start())
      },
      'the broker is cut off': () => this.broker.cut(),
      'a shim is killed': () => {
        const shims = [...this.host.shims.shims.values()]
        if (shims.length > 0) this.host.shims.killShim(chance.pick(shims))
      },
      'old events are dropped': () => this.compact(),
      'a shim is silent': () => {
        const shims = [...this.host.shims.shims.values()]
        // For less than a call may take, or for longer.
        if (shims.length > 0) chance.pick(shims).silentUntil = this.time.now + chance.delay(20 * seconds)
      },
      'the broker is slow': () => {
        this.broker.slowness = chance.happens(0.5) ? 20 : 2_000
        later(2 * seconds, 'broker is fast again', () => {
          this.broker.slowness = 1
        })
      },
      'the broker is full': () => {
        this.broker.full = true
        later(2 * seconds, 'broker has room', () => {
          this.broker.full = false
        })
      },
    }
    acts[name]()
  }

  /** The storm is over: everything must come to rest by itself, without anybody's help. */
  private async rest(): Promise<void> {
    this.tell(() => 'quiet')
    this.storming = false
    this.disk.full = false
    this.disk.failing = false
    this.broker.start()
    this.broker.full = false
    this.broker.slowness = 1
    for (const part of [this.host, this.broker]) part.calm = true
    if ((this.supervisor ?? this.stopping)?.journal.health().writable === false) this.crash(false)
    const until = this.time.now + patience
    const collection = { isBegun: false, isOver: false }
    for (;;) {
      await this.time.run(this.time.now + seconds, () => this.wrong !== undefined)
      if (this.wrong) return
      const open = this.supervisor
        ? unsettled(this.supervisor, this.host, this.broker, this.clients)
        : ['there is no supervisor']
      if (open.length === 0 && collection.isOver) return
      const { supervisor } = this
      if (open.length === 0 && !collection.isBegun && supervisor) {
        collection.isBegun = true
        this.time.party = supervisor.party
        void supervisor.collect().then(
          () => {
            collection.isOver = true
          },
          error => this.fail(`garbage cannot be collected: ${describe(error)}`),
        )
      }
      if (this.time.now >= until) return this.fail(`it does not come to rest: ${open.join('; ')}`)
    }
  }

  /** Reads the journal back in another life: it tells the same, and everything that was promised. */
  private async readBack(): Promise<void> {
    const before = this.supervisor?.store.world
    if (!before) return
    const state = encodeWorld(before)
    this.storming = false
    this.supervisor?.crash()
    this.supervisor = undefined
    this.disk.cutPower()
    this.host.die()
    const model = new Model()
    let compared = false
    this.time.after(1, this.operator, 'read back', () => {
      void this.compare(model, state).then(
        () => {
          compared = true
        },
        error => this.fail(describe(error)),
      )
    })
    await this.time.run(Number.POSITIVE_INFINITY, () => compared || this.wrong !== undefined)
  }

  private async compare(model: Model, state: Uint8Array): Promise<void> {
    const { journal, store } = await Supervisor.openStore(this.disk, this.log)
    await this.recall(journal)
    for (const record of this.history) model.take(record)
    const heavy = new HeavyParts(journal)
    for (const { containers } of store.world.namespaces.values())
      for (const [id, { lifecycle }] of containers) {
        const { spec } = lifecycle.facts.record ?? {}
        if (!spec || !(await heavy.read(spec)).value.equals(Buffer.alloc(200, id)))
          this.fail(`the spec of ${id} is lost`)
      }
    this.records = Number(model.sequence)
    if (!Buffer.from(encodeWorld(store.world)).equals(state))
      this.fail('the journal folds to another state than the one that was served')
    const garbage = model.garbage()
    if (garbage.length > 0) this.fail(`garbage is left: ${garbage.join(' ')}`)
    const differences = model.differences(store.world)
    if (differences.length > 0) this.fail(`the fold is wrong: ${differences.join('; ')}`)
    for (const promise of this.acknowledged.keys())
      if (!model.effects.has(promise)) this.fail(`what was acknowledged is not in the journal: ${promise}`)
  }

  private logged(line: { level: number; msg: string; err?: { message?: string } }): void {
    this.tell(() => `  log: ${line.msg}${line.err?.message ? ` (${line.err.message})` : ''}`)
    if (line.msg.startsWith('a listener to the journal failed')) this.fail(`${line.msg}: ${line.err?.message}`)
  }

  private tell(line: () => string): void {
    this.options.tell?.(`${(this.time.now / 1000).toFixed(3).padStart(12)} ms  ${line()}`)
  }

  private fail(what: string): void {
    this.wrong ??= what
  }
}

/** Errors are always looked at; the rest only when somebody wants to read it. */
function logger(everything: boolean, write: (line: { level: number; msg: string }) => void): Logger {
  return pino(
    { level: everything ? 'info' : 'error', base: null, timestamp: false },
    { write: (line: string) => write(JSON.parse(line)) },
  )
}

const describe = (error: unknown): string => (error instanceof Error ? (error.stack ?? error.message) : String(error))
