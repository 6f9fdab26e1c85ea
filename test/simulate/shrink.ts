// Makes a failure short: a shorter storm first, then fewer wishes and faults, as long as it still fails; then the story.
import { type SimulationOptions, simulate } from './simulation.js'

/** Of wishes and faults halves first, then ever smaller parts, as long as something could be left out. */
export async function shrink(options: SimulationOptions, wrong: string): Promise<string> {
  const { seed } = options
  const kind = kindOf(wrong)
  const failsWith = async (changed: Partial<SimulationOptions>) => {
    const outcome = await simulate({ ...options, ...changed })
    return outcome.wrong !== undefined && kindOf(outcome.wrong) === kind
  }
  const steps = await shortestStorm(options.steps, steps => failsWith({ steps }))
  const fails = (without: ReadonlySet<string>) => failsWith({ steps, without })
  const { drawn } = await simulate({ ...options, steps })
  let needed = drawn.filter(name => !options.without?.has(name))
  const leftOut = new Set(options.without)
  for (let size = Math.ceil(needed.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let at = 0; at < needed.length; ) {
      const part = needed.slice(at, at + size)
      if (await fails(new Set([...leftOut, ...part]))) {
        for (const name of part) leftOut.add(name)
        needed = [...needed.slice(0, at), ...needed.slice(at + size)]
      } else at += size
    }
  }
  const story: string[] = []
  const outcome = await simulate({ ...options, steps, without: leftOut, tell: line => story.push(line) })
  return [
    `seed ${seed} with ${needed.join(', ')} alone, of ${steps} steps: ${outcome.wrong}`,
    ...story.slice(-120),
  ].join('\n')
}

/** Each run costs as much as its storm is long: most is won here. */
async function shortestStorm(longest: number, fails: (steps: number) => Promise<boolean>): Promise<number> {
  let [passes, failing] = [0, longest]
  while (failing - passes > longest / 100) {
    const steps = Math.ceil((passes + failing) / 2)
    if (await fails(steps)) failing = steps
    else passes = steps
  }
  return failing
}

/** Failures count as the same when only names and numbers differ. */
const kindOf = (wrong: string): string =>
  wrong
    .split('\n')[0]
    ?.replace(/[^ ]*[\d/][^ ]*/g, '#')
    .slice(0, 60) ?? ''
