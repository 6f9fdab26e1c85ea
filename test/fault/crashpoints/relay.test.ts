// The supervisor, killed between the journal and NATS: the stream holds every event once, in order.
import t from 'tap'
import { EventsService, PublishRequest } from '../../../proto/gen/containerd/services/events/v1/events.js'
import type { Host } from '../../harness/host.js'
import { listen } from '../../harness/jetstream.js'
import { OpenScope } from '../../harness/wait.js'
import { Campaign } from './campaign.js'
import { onEnds, onStores } from './operations.js'

t.test('killed while it publishes, the supervisor leaves a stream without gap or double', async t => {
  const campaign = await Campaign.open(t, { nats: 'embedded' })
  const some = [...onStores, ...onEnds].filter(
    ({ name }) => name === 'create a namespace' || name === 'end a task by a signal',
  )
  const plans = await campaign.plan(some.map(operation => ({ ...operation, points: /^relay/ })))
  const struck = new Set<string>()
  for (const plan of plans)
    for (const moment of plan.moments.supervisor) {
      const wrong = await campaign.strike(plan, 'supervisor', moment)
      // Events that come close together go out together: then there is no second or third pass.
      if (wrong === 'missed') continue
      struck.add(moment.point)
      t.same(wrong, [], `${plan.operation.name}: ${moment.point} ${moment.pass}`)
    }
  t.same([...struck].sort(), ['relay.acknowledged', 'relay.published'])
  const sequences = await relayed(campaign.host)
  t.same(
    sequences,
    sequences.map((_, index) => index + 1),
  )
  t.same(await campaign.audit(), [])
})

/** The journal's sequences as they stand in the stream, up to an event of our own. */
async function relayed(host: Host): Promise<number[]> {
  const scope = new OpenScope()
  try {
    const events = await listen(scope, host)
    const event = { typeUrl: 'crashpoints.End', value: Buffer.alloc(0) }
    await host.call(EventsService.publish, PublishRequest.fromPartial({ topic: '/crashpoints/end', event }))
    await events.first('the last event', ({ subject }) => subject.includes('crashpoints'), { timeoutMs: 90_000 })
    return events.items.map(({ sequence }) => Number(sequence))
  } finally {
    await scope.close()
  }
}
