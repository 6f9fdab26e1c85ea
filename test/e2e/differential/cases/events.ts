// Events: what clients publish themselves, and what a subscription with filters is told.
import { EventsService } from '../../../../proto/gen/containerd/services/events/v1/events.js'
import { Envelope } from '../../../../proto/gen/containerd/types/event.js'
import { Any } from '../../../../proto/gen/google/protobuf/any.js'
import { Arrivals } from '../../../harness/wait.js'
import type { Case, Stage } from '../stage.js'

const event = Any.fromPartial({ typeUrl: 'test', value: Buffer.from('payload') })

const publishing = (name: string, topic: string, payload: Any | undefined = event): Case => ({
  name: `events: publish with ${name}`,
  steps: at => at.call(EventsService.publish, { topic, event: payload }),
})

type Fields = Parameters<typeof Envelope.fromPartial>[0]
const forwarding = (name: string, fields: (at: Stage) => Fields): Case => ({
  name: `events: forward ${name}`,
  steps: at =>
    at.call(EventsService.forward, {
      envelope: Envelope.fromPartial({
        ...{ timestamp: { seconds: 1_700_000_000n, nanos: 5 }, namespace: at.namespace, topic: '/a/b', event },
        ...fields(at),
      }),
    }),
})

/** Publishes some topics, and observes which of them a subscription with the filters is told. */
const filtered = (name: string, filters: (at: Stage) => string[]): Case => ({
  name: `events: subscribe: ${name}`,
  async steps(at) {
    at.order = 'chance'
    const told = new Arrivals<string>()
    const ours = filters(at)
    const stream = at.host.rpc.stream(
      EventsService.subscribe,
      { filters: ours.length === 0 ? [] : [...ours, `topic=="/live",namespace==${at.namespace}`] },
      { namespace: at.namespace },
    )
    const failed = new Promise<never>((_, reject) => stream.on('error', reject))
    stream.on('data', ({ namespace, topic }: Envelope) => namespace === at.namespace && told.push(topic))
    try {
      await at.watch(
        'Events/Subscribe',
        Promise.race([
          failed,
          (async () => {
            await live(at, told)
            for (const topic of ['/a/one', '/a/two', '/b']) await at.do(EventsService.publish, { topic, event })
            await at.do(EventsService.publish, { topic: '/live', event })
            const from = told.items.findIndex(topic => topic !== '/live')
            await told.first('the end', topic => topic === '/live', { from: Math.max(from, told.items.length - 1) })
            return {}
          })(),
        ]),
      )
      at.see('told', [...new Set(told.items)])
    } finally {
      stream.on('error', () => undefined)
      stream.cancel()
    }
  },
})

/** Until the subscription is known to be there. */
async function live(at: Stage, told: Arrivals<string>): Promise<void> {
  while (told.items.length === 0) {
    await at.do(EventsService.publish, { topic: '/live', event })
    await told.first('the subscription', () => true, { timeoutMs: 50 }).catch(() => undefined)
  }
}

export const events: Case[] = [
  publishing('a topic', '/test/topic'),
  publishing('no payload', '/test/topic', undefined),
  publishing('no topic', ''),
  publishing('a topic that is only a slash', '/'),
  publishing('a topic without a slash', 'test'),
  publishing('an empty part in the topic', '/a//b'),
  publishing('a slash at the end of the topic', '/a/'),
  publishing('a space in the topic', '/a b'),
  publishing('a long topic', `/${'a'.repeat(100)}`),
  {
    name: 'events: publish without a namespace',
    steps: at => at.call(EventsService.publish, { topic: '/a', event }, { namespace: '' }),
  },
  {
    name: 'events: publish in a namespace that cannot be',
    steps: at => at.call(EventsService.publish, { topic: '/a', event }, { namespace: 'a/b' }),
  },
  forwarding('an envelope', () => ({})),
  forwarding('without a time', () => ({ timestamp: undefined })),
  forwarding('without a namespace', () => ({ namespace: '' })),
  forwarding('in a namespace that cannot be', () => ({ namespace: 'a/b' })),
  forwarding('without a topic', () => ({ topic: '' })),
  forwarding('with a topic that is none', () => ({ topic: 'a' })),
  // Not without a payload or an envelope: containerd 1.6 dies of that.
  filtered('everything', () => []),
  filtered('one topic', () => ['topic=="/a/one"']),
  filtered('topics by pattern', () => ['topic~=|^/a/|']),
  filtered('any of two', () => ['topic=="/a/one"', 'topic=="/b"']),
  filtered('another namespace', () => ['namespace==elsewhere']),
  filtered('this namespace', at => [`namespace==${at.namespace}`]),
  filtered('both of two', at => [`namespace==${at.namespace},topic~=two`]),
  filtered('a field of the event that is not there', () => ['event.nonsense==x']),
  filtered('a filter that is none', () => ['topic==']),
  filtered('a pattern that is none', () => ['topic~="("']),
]
