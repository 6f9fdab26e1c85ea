// `ctr run --rm`, several at a time: how many are done in a second.
import type { Host } from '../harness/host.js'
import { type Contest, runTrue, takeTurns } from './contest.js'
import { comparison, type Outcome, summaryOf } from './report.js'

const atATime = 8
/** Runs of one turn. */
const turnRuns = 64
/** One turn says as much as many single runs: this many of those are worth one. */
const runsPerTurn = 4

export async function measureThroughput(contest: Contest): Promise<Outcome> {
  const runs = Math.max(1, Math.ceil(contest.runs / runsPerTurn))
  const warmUps = Math.min(1, contest.warmUps)
  const perSecond = await takeTurns({ ...contest, runs, warmUps }, host => turn(host, contest.image))
  return {
    tables: [comparison(`Throughput: containers in a second, ${atATime} at a time, ${turnRuns} in a turn`, perSecond)],
    data: { perSecond, summary: summaryOf(perSecond), atATime, turnRuns },
  }
}

async function turn(host: Host, image: string): Promise<number> {
  let left = turnRuns
  const worker = async () => {
    while (left-- > 0) await runTrue(host, image)
  }
  const begun = performance.now()
  await Promise.all(Array.from({ length: atATime }, worker))
  return turnRuns / ((performance.now() - begun) / 1000)
}
