// A call that is answered from the feed: where it begins, how long its caller may sleep, and with what it ends.
import { type handleServerStreamingCall, Metadata } from '@grpc/grpc-js'
import { failedPrecondition, toStatusError } from '../../../plugins/kit/errors.js'
import { type CallContext, serverStream } from '../../../plugins/kit/serve.js'
import { keys, stopping, tooSlow, withSequence } from '../feed/errors.js'
import type { Feed } from '../feed/feed.js'
import type { Happening } from '../feed/happening.js'
import type { Since } from '../feed/since.js'
import type { News, Subscriber } from '../feed/subscriber.js'
import { single } from './request.js'

export interface FeedDeps {
  feed: Feed
  /** Aborts when the supervisor stops: subscribers are then told, so that they come back. */
  stopping: AbortSignal
}

/** What a call wants to hear, and how it is told. */
export interface Wish<Response> {
  since: Since | undefined
  accepts(happening: Happening): boolean
  marks: boolean
  /** What is told before anything else. */
  prelude?: Iterable<Response>
  tell(news: News): Response | undefined
}

/** `wishOf` may throw what the caller should see. */
export function feedStream<Request, Response>(
  deps: FeedDeps,
  wishOf: (request: Request, context: CallContext) => Wish<Response>,
): handleServerStreamingCall<Request, Response> {
  const { feed } = deps
  return call => {
    let subscriber: Subscriber | undefined
    const answers = async function* (request: Request, context: CallContext): AsyncGenerator<Response> {
      checkJournal(single(context.metadata, keys.journal), feed)
      const { since, accepts, marks, prelude = [], tell } = wishOf(request, context)
      const signal = AbortSignal.any([context.signal, deps.stopping])
      subscriber = await feed.subscribe({ since, accepts, signal, marks })
      // At once, not with the first event: from now on nothing is missed, and the caller may rely on that.
      call.sendMetadata(journalMetadata(feed))
      yield* prelude
      yield* told(subscriber, tell, deps.stopping)
    }
    const over = () => {
      feed.endedSlow()
      const next = subscriber?.next ?? 1n
      return withSequence(tooSlow(next), next)
    }
    serverStream(answers, { ms: feed.stallMs, over })(call)
  }
}

/** Whatever ends it says how far it came. */
async function* told<Response>(
  subscriber: Subscriber,
  tell: (news: News) => Response | undefined,
  stop: AbortSignal,
): AsyncGenerator<Response> {
  try {
    for await (const news of subscriber) {
      const response = tell(news)
      if (response !== undefined) yield response
    }
    if (stop.aborted) throw stopping()
  } catch (error) {
    throw withSequence(toStatusError(error), subscriber.next)
  }
}

export function journalMetadata({ journal }: Pick<Feed, 'journal'>): Metadata {
  const metadata = new Metadata()
  metadata.set(keys.journal, journal.id)
  return metadata
}

/** A sequence means nothing in another journal. */
export function checkJournal(meant: string | undefined, { journal }: Pick<Feed, 'journal'>): void {
  if (meant === undefined || meant === '' || meant === journal.id) return
  throw failedPrecondition(
    `the journal here is ${journal.id}, not ${meant}: sequences of the one mean nothing in the other; begin anew without ${keys.since}`,
  )
}
