// Runs a machine as a pure function: a lifecycle and an event in, the next lifecycle out, or a refusal.
import {
  type AnyActorScope,
  type AnyMachineSnapshot,
  type AnyStateMachine,
  type AnyStateNode,
  createActor,
  initialTransition,
} from 'xstate'
import type { Refusal, RefusalReason } from './decision.js'

/** Where a lifecycle is, and what it has learnt on the way. The state that stands for "there is none" is `absent`. */
export interface Lifecycle<State extends string, Facts> {
  readonly state: State
  readonly facts: Facts
}

/** A machine with the types of its states, facts and events. */
export interface LifecycleMachine<State extends string, Facts, Event extends { type: string }> {
  readonly absent: Lifecycle<State, Facts>
  /** The next lifecycle, or undefined when the machine has no transition for the event. */
  next(current: Lifecycle<State, Facts>, event: Event): Lifecycle<State, Facts> | undefined
  /**
   * When what came before is not known any more: where an event leads that did happen, from whichever state allows it.
   * undefined for an event that no state allows.
   */
  infer(known: Lifecycle<State, Facts>, event: Event): Lifecycle<State, Facts> | undefined
  /** Whether something was asked for and not answered yet. Of such a state recovery asks the plugin what is true. */
  awaitsAnswer(state: State): boolean
  /** The machine itself, for diagrams. */
  readonly machine: AnyStateMachine
}

/** The tag of states that wait for an answer from outside. */
export const intent = 'intent'

/** Gives an xstate machine, whose states are flat and whose context is `Facts`, the shape of a pure lifecycle. */
export function lifecycleOf<State extends string, Facts, Event extends { type: string }>(
  machine: AnyStateMachine,
  read: (snapshot: AnyMachineSnapshot) => Lifecycle<State, Facts>,
): LifecycleMachine<State, Facts, Event> {
  const [initial] = initialTransition(machine)
  const scope = inertScope(machine)
  const states: Record<string, AnyStateNode> = machine.root.states
  const intents = new Set(Object.keys(states).filter(name => states[name]?.tags.includes(intent)))
  return {
    machine,
    absent: read(initial),
    awaitsAnswer: state => intents.has(state),
    infer({ facts }, event) {
      const before = Object.keys(states)
        .map(value => machine.resolveState({ value, context: facts }))
        .find(snapshot => snapshot.can(event))
      return before && read(machine.transition(before, event, scope))
    },
    next(current, event) {
      const snapshot = machine.resolveState({ value: current.state, context: current.facts })
      if (!snapshot.can(event)) return undefined
      return read(machine.transition(snapshot, event, scope))
    },
  }
}

/**
 * What a machine's step needs of an actor, without one that lives. xstate's `transition` makes it anew for each step,
 * which is most of that step's cost; ours is made once. Its shape is xstate's own affair: therefore its version is
 * pinned, and a test compares every step with `transition`.
 */
function inertScope(machine: AnyStateMachine): AnyActorScope {
  const self = createActor(machine) // never started
  const nothing = () => {}
  const scope = { self, system: self.system, id: '', sessionId: '' }
  return { ...scope, logger: nothing, defer: nothing, emit: nothing, stopChild: nothing, actionExecutor: nothing }
}

/** The words for a command that the machine has no transition for: it is there already, it is not there, or not now. */
export function illegal(what: string, state: string, wish: { creates: boolean; verb: string }): Refusal {
  if (wish.creates) return { refused: 'already-exists', message: what }
  if (state === 'absent') return { refused: 'not-found', message: what }
  const reason: RefusalReason = 'failed-precondition'
  return { refused: reason, message: `cannot ${wish.verb} ${what}: it is ${state}` }
}
