// Given a history, when something is wished, then these facts follow or that refusal: lifecycle tests in one line each.
import type { Test } from 'tap'
import { type Decision, isRefusal, type RefusalReason } from '../../../services/supervisor/domain/decision.js'
import type { Lifecycle, LifecycleMachine } from '../../../services/supervisor/domain/lifecycle.js'

/** The lifecycle after a history; throws when the history itself is not legal. */
export function lived<State extends string, Facts, Event extends { type: string }>(
  machine: LifecycleMachine<State, Facts, Event>,
  history: readonly Event[],
): Lifecycle<State, Facts> {
  return history.reduce((current, event) => {
    const next = machine.next(current, event)
    if (!next) throw new Error(`the history is not legal: ${event.type} while ${current.state}`)
    return next
  }, machine.absent)
}

export function givenFor<State extends string, Facts, Event extends { type: string }>(
  machine: LifecycleMachine<State, Facts, Event>,
) {
  return (...history: Event[]) => ({
    when: (wish: (current: Lifecycle<State, Facts>) => Decision) => {
      const decision = wish(lived(machine, history))
      return {
        /** The types of the facts, in order; none means that the wish was granted before. */
        thenFacts: (t: Test, ...types: string[]) => t.same(isRefusal(decision) ? decision : typesOf(decision), types),
        thenRefused: (t: Test, refused: RefusalReason, message: RegExp | string) =>
          t.match(decision, { refused, message }),
      }
    },
  })
}

const typesOf = ({ facts }: { facts: readonly { event: { type: string } }[] }) => facts.map(({ event }) => event.type)

/** What a machine should do, in full: by state, the events that it takes and where they lead. */
export type Transitions<State extends string, Type extends string> = Record<State, Partial<Record<Type, State>>>

/** Holds a machine against a table of all its transitions: what the table does not have, the machine must refuse. */
export function holdsTo<State extends string, Facts, Event extends { type: string }>(
  t: Test,
  machine: LifecycleMachine<State, Facts, Event>,
  table: Transitions<State, Event['type']>,
  reach: Readonly<Record<State, readonly Event[]>>,
  samples: Readonly<Record<Event['type'], Event>>,
): void {
  const expected = new Map<string, Readonly<Record<string, string>>>(Object.entries(table))
  for (const [state, history] of Object.entries<readonly Event[]>(reach)) {
    const current = lived(machine, history)
    t.equal(current.state, state, `the way to ${state}`)
    for (const [type, sample] of Object.entries<Event>(samples)) {
      const verdict = machine.next(current, sample)?.state ?? 'refused'
      t.equal(verdict, expected.get(state)?.[type] ?? 'refused', `${type} while ${state}`)
    }
  }
}
