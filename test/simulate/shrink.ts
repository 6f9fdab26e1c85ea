// Makes a failure short: leaves out wishes and faults while it still fails, then tells the story of what is left.
import { type SimulationOptions, simulate } from './simulation.js'

/** Halves first, then ever smaller parts, as long as something could be left out. */
export async function shrink(options: SimulationOptions, wrong: string): Promise<string> {
  const { seed, steps } = options
  const kind = kindOf(wrong)
  const fails = async (without: ReadonlySet<string>) => {
    const outcome = await simulate({ ...options, without })
    return outcome.wrong !== undefined && kindOf(outcome.wrong) === kind
  }
  const { wishes } = await simulate(options)
  const names = [
    ...Array.from({ length: 200 }, (_, number) => `fault ${number}`),
    ...Array.from({ length: 3 * wishes }, (_, number) => `wish ${number}`),
  ]
  let needed = names.filter(name => !options.without?.has(name))
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
  const outcome = await simulate({ ...options, without: leftOut, tell: line => story.push(line) })
  return [
    `seed ${seed} with ${needed.join(', ')} alone, of ${steps} steps: ${outcome.wrong}`,
    ...story.slice(-120),
  ].join('\n')
}

/** Failures count as the same when only names and numbers differ. */
const kindOf = (wrong: string): string =>
  wrong
    .split('\n')[0]
    ?.replace(/[^ ]*[\d/][^ ]*/g, '#')
    .slice(0, 60) ?? ''
