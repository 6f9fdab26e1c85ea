// The machines as diagrams, made from the machines themselves: text in, text out.
import type { AnyStateMachine, AnyStateNode } from 'xstate'

/** A Mermaid state diagram. The state `absent`, where a lifecycle begins and ends, is drawn as its dot. */
export function diagram(machine: AnyStateMachine): string {
  const edges = new Map<string, string[]>()
  for (const state of Object.values<AnyStateNode>(machine.root.states)) {
    for (const [event, to, guard] of transitionsOf(machine, state)) {
      const edge = `${dot(state.key)} --> ${dot(to)}`
      edges.set(edge, [...(edges.get(edge) ?? []), guard ? `${event} [${guard}]` : event])
    }
  }
  const lines = [...edges].map(([edge, events]) => `  ${edge}: ${events.join(', ')}`)
  return ['stateDiagram-v2', ...lines].join('\n')
}

/** The document with the diagrams in their places: behind each `<!-- diagram: NAME -->`. Throws for an unknown name. */
export function withDiagrams(document: string, machines: Readonly<Record<string, AnyStateMachine>>): string {
  return document.replace(place, (_block, name: string) => {
    const machine = machines[name]
    if (!machine) throw new Error(`the document wants a diagram of "${name}", but there is no such machine`)
    return `<!-- diagram: ${name} -->\n\`\`\`mermaid\n${diagram(machine)}\n\`\`\`\n`
  })
}

const place = /<!-- diagram: (\w+) -->\n(?:```mermaid\n[^`]*```\n)?/g

type Transition = [event: string, to: string, guard: string | undefined]

/** Of a state, with those of the whole machine that it does not take or forbid itself. */
function transitionsOf(machine: AnyStateMachine, state: AnyStateNode): Transition[] {
  const inherited = [...machine.root.transitions].filter(([event]) => !state.transitions.has(event))
  return [...state.transitions, ...inherited].flatMap(([event, alternatives]) =>
    alternatives
      .filter(({ target, actions }) => target !== undefined || actions.length > 0) // neither: it is forbidden
      .map(({ target, guard }): Transition => [event, target?.[0]?.key ?? state.key, nameOf(guard)]),
  )
}

function nameOf(guard: unknown): string | undefined {
  if (typeof guard === 'string') return guard
  if (typeof guard !== 'object' || guard === null || !('type' in guard)) return undefined
  return typeof guard.type === 'string' ? guard.type : undefined
}

const dot = (state: string): string => (state === 'absent' ? '[*]' : state)
