// containerd.services.events.v1.Events: what happens, as it becomes durable; and what others say that happened.
import { Metadata } from '@grpc/grpc-js'
import { invalidArgument, unavailable } from '../../../plugins/kit/errors.js'
import { serverStream, unary } from '../../../plugins/kit/serve.js'
import type { EventsServer, SubscribeRequest } from '../../../proto/gen/containerd/services/events/v1/events.js'
import type { Envelope } from '../../../proto/gen/containerd/types/event.js'
import { accept } from '../domain/decision.js'
import type { EventPublished } from '../domain/event/events.js'
import type { Filter } from '../domain/filter.js'
import { eventStream } from '../domain/streams.js'
import { checkIdentifier, checkTopic, type Objection } from '../domain/validate.js'
import type { Cause, Runner } from '../runner.js'
import { isUnset, smallFromAny, timestampFromProto } from '../state/convert.js'
import { envelopeOf } from '../state/envelopes.js'
import type { Store, Told } from '../state/store.js'
import { causeOf, filtersOf, insist, namespacedCall } from './call.js'
import { fieldsOfEnvelope } from './eventFields.js'
import { type QueueLimits, Subscription } from './subscription.js'

export interface EventsDeps {
  runner: Runner
  store: Store
  /** Aborts when the supervisor stops: subscribers are then told, so that they come back. */
  stopping: AbortSignal
  /** What may wait for one subscriber; 8192 events or 16 MiB unless told. */
  limits?: QueueLimits
}

/** A published payload lies in the journal for as long as the event does. */
const payloadBytesMax = 1 << 20

export function eventsService({ runner, store, stopping, limits }: EventsDeps): EventsServer {
  const exchange = new Exchange(store)

  const publish = async (namespace: string, cause: Cause, event: EventPublished) => {
    await runner.complete(cause, eventStream(namespace), () =>
      accept({ namespace, stream: eventStream(namespace), event }),
    )
    return {}
  }

  return {
    publish: unary(({ topic, event }, context) => {
      const { namespace, cause } = namespacedCall(context, 'Events/Publish')
      insist(objectionToTopic(topic))
      return publish(namespace, cause, { type: 'EventPublished', topic, at: null, event: payloadOf({ event }) })
    }),

    // On behalf of somebody else: the envelope says whose namespace it is, and when it happened.
    forward: unary(({ envelope }, context) => {
      const { namespace, topic, timestamp, event } = envelope ?? nothing
      insist(checkIdentifier(namespace), 'event envelope has invalid namespace')
      insist(objectionToTopic(topic))
      if (isUnset(timestamp)) throw invalidArgument('timestamp must be set on forwarded event')
      const at = timestampFromProto(timestamp)
      const cause = causeOf(context, 'Events/Forward')
      return publish(namespace, cause, { type: 'EventPublished', topic, at, event: payloadOf({ event }) })
    }),

    subscribe: call =>
      serverStream<SubscribeRequest, Envelope>(({ filters }, { signal }) => {
        const filter = filters.length === 0 ? undefined : filtersOf(filters)
        const subscription = new Subscription(AbortSignal.any([signal, stopping]), limits)
        const leave = exchange.join(subscription, filter)
        // At once, not with the first event: from now on nothing is missed, and the caller may rely on that.
        call.sendMetadata(new Metadata())
        return delivered(subscription, leave, stopping)
      })(call),
  }
}

async function* delivered(
  subscription: Subscription,
  leave: () => void,
  stopping: AbortSignal,
): AsyncGenerator<Envelope> {
  try {
    yield* subscription
    if (stopping.aborted) throw unavailable('the supervisor stops: subscribe again when it is back')
  } finally {
    leave()
  }
}

/** Between the journal and the subscribers: each event is put into an envelope once, whoever listens. */
class Exchange {
  private readonly members = new Map<Subscription, Filter | undefined>()
  private unsubscribe: (() => void) | undefined

  constructor(private readonly store: Store) {}

  join(subscription: Subscription, filter: Filter | undefined): () => void {
    this.members.set(subscription, filter)
    this.unsubscribe ??= this.store.subscribe(told => this.tell(told))
    return () => this.leave(subscription)
  }

  private leave(subscription: Subscription): void {
    this.members.delete(subscription)
    if (this.members.size > 0) return
    this.unsubscribe?.()
    this.unsubscribe = undefined
  }

  private tell(told: Told): void {
    const envelope = envelopeOf(told)
    if (!envelope) return
    const fields = fieldsOfEnvelope(envelope)
    for (const [subscription, filter] of this.members) {
      if (filter && !filter(fields)) continue
      // One that fell behind is told when it reads again; no other notices.
      if (!subscription.push(envelope, told.record.sequence)) this.leave(subscription)
    }
  }
}

function objectionToTopic(topic: string): Objection {
  if (topic === '/') return 'envelope topic "/": must have at least one component'
  const objection = checkTopic(topic)
  return objection && `envelope ${objection}`
}

function payloadOf({ event }: Pick<Envelope, 'event'>): EventPublished['event'] {
  if (!event) return null
  if (event.value.length > payloadBytesMax) {
    throw invalidArgument(
      `the event's payload has ${event.value.length} bytes, but at most ${payloadBytesMax} are kept`,
    )
  }
  return smallFromAny(event)
}

const nothing: Envelope = { timestamp: undefined, namespace: '', topic: '', event: undefined }
