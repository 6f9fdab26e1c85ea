// Every point of some operations for one victim, with the list of them printed.
import type { Test } from 'tap'
import { Campaign, type Victim } from './campaign.js'
import type { Moment } from './failpoints.js'
import type { Operation } from './operations.js'

/** PURSER_CRASHPOINTS chooses among `operation: point`, to look at one again. */
export async function strikeAll(t: Test, victim: Victim, operations: readonly Operation[]): Promise<void> {
  const campaign = await Campaign.open(t)
  const plans = await campaign.plan(operations)
  const only = process.env.PURSER_CRASHPOINTS ?? ''
  let [tried, missed] = [0, 0]
  for (const plan of plans) {
    const moments = plan.moments[victim]
    t.comment(`${plan.operation.name}: ${moments.map(nameOf).join(' ')}`)
    for (const moment of moments) {
      const title = `${plan.operation.name}: ${nameOf(moment)}`
      if (!title.includes(only)) continue
      const begun = performance.now()
      const result = await campaign.strike(plan, victim, moment)
      tried += 1
      if (result === 'missed') missed += 1
      t.same(result === 'missed' ? [] : result, [], `${title}, ${Math.round(performance.now() - begun)} ms`)
    }
  }
  t.comment(`${tried} points; ${missed} of them were not passed when it was their turn`)
  t.ok(missed < tried / 4, 'nearly every point was met')
  t.same(await campaign.audit(), [], 'the journal is whole')
}

const nameOf = ({ point, pass }: Moment) => (pass > 1 ? `${point} ${pass}` : point)
