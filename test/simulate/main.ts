// npm run simulate -- --seed N --steps N [--keep-going] [--shrink]: one simulation after the other, seed by seed.
import { parseArgs } from 'node:util'
import { shrink } from './shrink.js'
import { type Outcome, simulate } from './simulation.js'

const usage = `simulate [--seed N] [--steps N] [--each N] [--without LIST] [--keep-going] [--shrink] [--story] [--json]
  --seed N        the first seed; each simulation takes the next (1)
  --steps N       how many steps in all (1000000); 0 for one simulation alone
  --each N        how many steps a simulation storms before it comes to rest (10000)
  --without LIST  wishes and faults to leave out, as --shrink prints them: "wish 3,fault 1"
  --keep-going    do not stop at the first failure
  --shrink        leave out what a failure does not need, and tell the story of what is left
  --story         tell what happens
  --json          one line of JSON in the end`

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    steps: { type: 'string', default: '1000000' },
    each: { type: 'string', default: '10000' },
    without: { type: 'string', default: '' },
    'keep-going': { type: 'boolean', default: false },
    shrink: { type: 'boolean', default: false },
    story: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})

async function main(): Promise<number> {
  if (values.help) {
    console.log(usage)
    return 0
  }
  const [first, wanted, each] = [values.seed, values.steps, values.each].map(Number)
  if (first === undefined || wanted === undefined || each === undefined || [first, wanted, each].some(Number.isNaN)) {
    console.error(usage)
    return 64
  }
  const without = new Set(values.without.split(',').filter(name => name !== ''))
  const begun = process.hrtime() // the one clock that is real here
  const total = { seeds: 0, steps: 0, wishes: 0, granted: 0, faults: 0, records: 0, failures: 0, hash: 0 }
  for (let seed = first; total.steps < wanted || total.seeds === 0; seed++) {
    const outcome = await simulate({ seed, steps: each, without, ...(values.story && { tell: console.log }) })
    count(total, outcome)
    if (outcome.wrong === undefined) continue
    total.failures += 1
    console.error(`seed ${seed}: ${outcome.wrong}`)
    if (values.shrink) console.error(await shrink({ seed, steps: each, without }, outcome.wrong))
    else console.error(`again: npm run simulate -- --seed ${seed} --steps 0 --each ${each} --shrink`)
    if (!values['keep-going']) break
  }
  const [wholeSeconds, nanoseconds] = process.hrtime(begun)
  const took = wholeSeconds + nanoseconds / 1e9
  const rate = Math.round(total.steps / took)
  if (values.json) console.log(JSON.stringify({ ...total, seconds: took, rate }))
  else
    console.log(
      `${total.seeds} seeds from ${first}: ${total.steps} steps, ${total.wishes} wishes (${total.granted} granted), ` +
        `${total.faults} faults, ${total.records} records, ${total.failures} failures; ` +
        `${took.toFixed(1)} s, ${rate} steps/s; trace ${total.hash.toString(16)}`,
    )
  return total.failures > 0 ? 1 : 0
}

type Total = { [Name in 'seeds' | 'steps' | 'wishes' | 'granted' | 'faults' | 'records' | 'hash']: number }

function count(total: Total, outcome: Outcome): void {
  total.seeds += 1
  total.hash = (Math.imul(total.hash, 31) + outcome.hash) >>> 0
  for (const name of ['steps', 'wishes', 'granted', 'faults', 'records'] as const) total[name] += outcome[name]
}

void main().then(code => {
  process.exitCode = code
})
