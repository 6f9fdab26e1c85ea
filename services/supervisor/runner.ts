// The one way in which anything changes. For every command, in this order:
//
//   1. decide   pure, on the durable fold; a refusal leaves everything untouched
//   2. append   the facts are on disk when this ends, and folded in
//   3. perform  what the facts ask for (a plugin call) is begun
//   4. reply    the caller hears the sequence, and may wait for what was begun
//
// Decisions on one lane wait for each other up to step 2; no lane is held while a plugin works.

import { Code, StatusError } from '../../plugins/kit/errors.js'
import { failpoint } from '../../plugins/kit/failpoint.js'
import { Lanes } from '../../plugins/kit/lanes.js'
import type { Actor } from '../../proto/gen/purser/journal/v1/record.js'
import type { Clock } from './clock.js'
import { type Decision, type DomainEvent, type Fact, isRefusal, type Refusal } from './domain/decision.js'
import { type Journal, JournalUnavailable, type Sequence, VersionConflict } from './journal/journal.js'
import { NamespaceGate } from './namespaceGate.js'
import { encodeFact } from './state/codec.js'
import type { Store } from './state/store.js'
import type { World } from './state/world.js'

/** Who wants it, and why. */
export interface Cause {
  actor: Actor
  /** The command: an RPC's path, or `#<sequence>` of the intent that is answered. */
  causation: string
  /** The request's id, kept through everything that follows from it. */
  correlation: string
  /** Of a request that must not be carried out twice. */
  once?: Once
}

/** Recorded with the first facts of a request, so that after a crash a repeat is known to be one. */
export interface Once {
  readonly fact: Fact
  taken: boolean
}

/** An intent that has become durable, and what it came with. */
export interface Intent {
  namespace: string
  event: DomainEvent
  sequence: Sequence
  cause: Cause
}

/** Does what an event asks for. Resolves when the answer is journaled; rejects with the failure for the caller. */
export type Perform = (intent: Intent) => Promise<void> | undefined

export interface Outcome {
  /** Of the last fact; 0 when there was nothing to do. */
  sequence: Sequence
  /** Settles when what the facts asked for is done and journaled. Never left unhandled. */
  settled: Promise<void>
}

/** Conflicts in a row; each means that somebody else got through. */
const conflictsMax = 100
const flushWaitMs = 100

export class Runner {
  private readonly lanes = new Lanes()
  private readonly gate = new NamespaceGate()
  private perform: Perform = () => undefined

  constructor(
    private readonly store: Store,
    private readonly journal: Journal,
    private readonly clock: Clock,
  ) {}

  /** Said once, when the process managers are there. */
  performWith(perform: Perform): void {
    this.perform = perform
  }

  /** Runs a command to step 3. A refusal is thrown as the status that the caller's peer shall see. */
  async run(cause: Cause, lane: string, decide: (world: World) => Decision): Promise<Outcome> {
    const outcome = await this.attempt(cause, lane, decide)
    if (isRefusal(outcome)) throw refusalStatus(outcome)
    return outcome
  }

  /** Runs a command and waits until what it asked for is done. */
  async complete(cause: Cause, lane: string, decide: (world: World) => Decision): Promise<Sequence> {
    const { sequence, settled } = await this.run(cause, lane, decide)
    await settled
    return sequence
  }

  /** As `run`, for those who can answer a refusal themselves. */
  async attempt(cause: Cause, lane: string, decide: (world: World) => Decision): Promise<Outcome | Refusal> {
    const decided = await this.lanes.run(lane, () => this.decideAndAppend(cause, decide))
    if (isRefusal(decided)) return decided
    failpoint('runner.appended')
    const settled = this.begin(cause, decided.facts, decided.last)
    failpoint('runner.performed')
    return { sequence: decided.last, settled }
  }

  /**
   * Runs a command that depends on everything in a namespace: what was decided there before is folded in first, and
   * nothing else is until its own facts are on disk. It takes no longer than two flushes.
   */
  async alone(cause: Cause, namespace: string, decide: (world: World) => Fact[]): Promise<Fact[]> {
    const { facts, last } = await this.gate.alone(namespace, async () => {
      const facts = decide(this.store.world)
      return { facts, last: await this.append(cause, facts) }
    })
    failpoint('runner.appended')
    this.begin(cause, facts, last)
    failpoint('runner.performed')
    return facts
  }

  /** A fact of another lane can meet ours on a stream that they share, such as a lease's: then ours is decided again. */
  private async decideAndAppend(
    cause: Cause,
    decide: (world: World) => Decision,
  ): Promise<{ facts: Fact[]; last: Sequence } | Refusal> {
    for (let conflicts = 0; ; ) {
      const decision = decide(this.store.world)
      if (isRefusal(decision)) return decision
      const { facts } = decision
      const obstacle = this.gate.obstacle(facts)
      if (obstacle) {
        await obstacle
        continue
      }
      try {
        return { facts, last: await this.gate.pass(facts, () => this.append(cause, facts)) }
      } catch (error) {
        if (!(error instanceof VersionConflict) || ++conflicts === conflictsMax) throw error
        await this.folded(error.actual)
      }
    }
  }

  /** Until what was in our way is durable and folded in; or not much longer, should it have failed. */
  private folded(sequence: Sequence): Promise<void> {
    const isFolded = () => sequence > 0n && this.store.world.sequence >= sequence
    if (isFolded()) return Promise.resolve()
    return new Promise(resolve => {
      const done = () => {
        clearTimeout(timer)
        forget()
        resolve()
      }
      const timer = setTimeout(done, flushWaitMs)
      // A stream that ends on its way to the disk is at 0: then the next flush is what there is to wait for.
      const forget = this.journal.onDurable(() => (sequence === 0n || isFolded()) && done())
    })
  }

  private async append(cause: Cause, facts: Fact[]): Promise<Sequence> {
    if (facts.length === 0) return 0n
    const { world } = this.store
    const { actor, causation, correlation, once } = cause
    const all = once && !once.taken ? [once.fact, ...facts] : facts
    const expected = new Map(all.map(({ stream }) => [stream, world.version(stream)]))
    try {
      const last = await this.journal.append({
        entries: all.map(encodeFact),
        expected,
        actor,
        causation,
        correlation,
        timeUnixNano: this.clock.now(),
        mayUseReserve: facts.some(({ event }) => freesSpace(event)),
      })
      if (once) once.taken = true
      return last
    } catch (error) {
      throw error instanceof JournalUnavailable ? unavailableStatus(error) : error
    }
  }

  private begin(cause: Cause, facts: Fact[], last: Sequence): Promise<void> {
    const first = last - BigInt(facts.length) + 1n
    const begun = facts.map(({ namespace, event }, index) =>
      this.perform({ namespace, event, sequence: first + BigInt(index), cause }),
    )
    const settled = Promise.all(begun).then(() => {})
    settled.catch(() => {}) // whoever waits sees it; the failure itself is a fact by now
    return settled
  }
}

/**
 * Ends and removals may use the reserve of a full disk, with what goes along with them: they make room, and an exit that
 * happened must be recorded, its start included.
 * So may plugins that come and go, without which nothing could be removed.
 */
function freesSpace({ type }: DomainEvent): boolean {
  if (/^Plugin(Registered|Ready|Draining|Lost|Left)$/.test(type)) return true
  return /(Deleted|DeleteRequested|Removed|Exited|Failed|Detached|DetachRequested|ShutdownRequested|Abandoned|Signalled)$/.test(
    type,
  )
}

const refusalCodes = {
  'already-exists': Code.ALREADY_EXISTS,
  'failed-precondition': Code.FAILED_PRECONDITION,
  'invalid-argument': Code.INVALID_ARGUMENT,
  'not-found': Code.NOT_FOUND,
} as const satisfies Record<Refusal['refused'], Code>

/** The one place where a refusal becomes a gRPC status. */
export function refusalStatus({ refused, message }: Refusal): StatusError {
  return new StatusError(refusalCodes[refused], `${message}: ${refused.replace('-', ' ')}`)
}

/** The same for a journal that takes no writes. */
export function unavailableStatus(error: JournalUnavailable): StatusError {
  const code = error.reason === 'full' ? Code.RESOURCE_EXHAUSTED : Code.UNAVAILABLE
  return new StatusError(code, error.message, { cause: error })
}
