// Two hosts' observations of the same case, side by side: each that differs becomes one line.
import { type Rule, rules } from './accepted.js'
import type { Observation } from './stage.js'

/** By what was observed, with its number among those of one name: "Containers/Get 2". Notes which rules were needed. */
export function differences(
  ours: readonly Observation[],
  theirs: readonly Observation[],
  needed: Set<Rule>,
): Map<string, string> {
  const [mine, reference] = [numbered(ours), numbered(theirs)]
  const found = new Map<string, string>()
  for (const title of new Set([...mine.keys(), ...reference.keys()])) {
    const [a, b] = [mine.get(title), reference.get(title)]
    if (say(a) === say(b)) continue
    const rule = a && b && rules.find(({ fits }) => fits(a, b))
    if (rule) needed.add(rule)
    else found.set(title, `purserd: ${say(a)}\n    containerd: ${say(b)}`)
  }
  return found
}

function numbered(observations: readonly Observation[]): Map<string, Observation> {
  const counts = new Map<string, number>()
  return new Map(
    observations.map(observation => {
      const number = (counts.get(observation.what) ?? 0) + 1
      counts.set(observation.what, number)
      return [`${observation.what} ${number}`, observation]
    }),
  )
}

const say = (observation: Observation | undefined) =>
  observation ? `${observation.code} ${observation.text} ${JSON.stringify(observation.answer)}` : 'nothing'
