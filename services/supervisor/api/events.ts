// containerd.services.events.v1.Events: what happens, as it becomes durable; and what others say that happened.
import { invalidArgument } from '../../../plugins/kit/errors.js'
import { type CallContext, unary } from '../../../plugins/kit/serve.js'
import type { EventsServer, SubscribeRequest } from '../../../proto/gen/containerd/services/events/v1/events.js'
import type { Envelope } from '../../../proto/gen/containerd/types/event.js'
import { accept } from '../domain/decision.js'
import type { EventPublished } from '../domain/event/events.js'
import { eventStream } from '../domain/streams.js'
import { checkIdentifier, checkTopic, type Objection } from '../domain/validate.js'
import { keys } from '../feed/errors.js'
import type { Feed } from '../feed/feed.js'
import { parseSince } from '../feed/since.js'
import type { Cause, Runner } from '../runner.js'
import { isUnset, smallFromAny, timestampFromProto } from '../state/convert.js'
import { causeOf, filtersOf, insist, namespacedCall } from './call.js'
import { type FeedDeps, feedStream, type Wish } from './feedStream.js'
import { single } from './request.js'

export interface EventsDeps extends FeedDeps {
  runner: Runner
}

/** A published payload lies in the journal for as long as the event does. */
const payloadBytesMax = 1 << 20

export function eventsService({ runner, ...deps }: EventsDeps): EventsServer {
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

    subscribe: feedStream(deps, (request, context) => subscription(deps.feed, request, context)),
  }
}

/** Everything that containerd has an event for, in all namespaces; history first when the caller says since when. */
function subscription(feed: Feed, { filters }: SubscribeRequest, context: CallContext): Wish<Envelope> {
  const filter = filters.length === 0 ? undefined : filtersOf(filters)
  const from = single(context.metadata, keys.since)
  const numbered = from !== undefined
  return {
    since: numbered ? parseSince(from, keys.since) : feed.returning(),
    accepts: happening => happening.envelope !== undefined && (filter?.(happening.fields) ?? true),
    marks: false,
    tell(news) {
      if (news.kind === 'mark') return undefined
      const { envelope, sequence } = news.happening
      return envelope && numbered ? { ...envelope, sequence } : envelope
    },
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

const nothing: Envelope = { timestamp: undefined, namespace: '', topic: '', event: undefined, sequence: 0n }
