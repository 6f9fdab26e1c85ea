// purser.events.v1.Events: what happens, what happened, and what was the case at any moment.
import type { Logger } from 'pino'
import { invalidArgument, notFound, outOfRange } from '../../../plugins/kit/errors.js'
import { type CallContext, serverStream, unary } from '../../../plugins/kit/serve.js'
import type {
  EventsServer,
  HistoryRequest,
  StateRequest,
  StateResponse,
  SubscribeRequest,
  SubscribeResponse,
  WatchRequest,
  WatchResponse,
} from '../../../proto/gen/purser/events/v1/events.js'
import type { Fields } from '../domain/filter.js'
import { checkIdentifier } from '../domain/validate.js'
import { dropped, stopping as isStopping, keys } from '../feed/errors.js'
import { Happening } from '../feed/happening.js'
import { historyOf } from '../feed/history.js'
import { recordAt, type Since } from '../feed/since.js'
import { type Moment, Past } from '../feed/state.js'
import { nanosFromProto } from '../state/convert.js'
import type { Store } from '../state/store.js'
import { filtersOf, insist } from './call.js'
import { checkJournal, type FeedDeps, feedStream, journalMetadata, type Wish } from './feedStream.js'
import { bookmarkToProto, containerToProto, eventToProto, lifeToProto, standings } from './happenings.js'
import { single } from './request.js'

export interface PurserEventsDeps extends FeedDeps {
  store: Store
  log: Logger
}

const pageDefault = 500
const pageMax = 5000

export function purserEventsService({ store, log, ...deps }: PurserEventsDeps): EventsServer {
  const { feed } = deps
  const { journal } = feed
  const past = new Past(journal, log)

  return {
    subscribe: feedStream(deps, (request: SubscribeRequest): Wish<SubscribeResponse> => {
      checkJournal(request.journal, feed)
      const tell: Wish<SubscribeResponse>['tell'] = news =>
        news.kind === 'event'
          ? { message: { $case: 'event', value: eventToProto(news.happening) } }
          : { message: { $case: 'bookmark', value: bookmarkToProto(news) } }
      return { since: sinceOf(request), accepts: accepting(request), marks: true, tell }
    }),

    // Between the look at the world and the subscription nothing is waited for, so nothing can happen.
    watch: feedStream(deps, (request: WatchRequest): Wish<WatchResponse> => {
      const { sequence } = store.world
      const standing = standings(store.world, request.namespaces)
      const tell: Wish<WatchResponse>['tell'] = news =>
        news.kind === 'event'
          ? { message: { $case: 'event', value: eventToProto(news.happening) } }
          : { message: { $case: 'bookmark', value: bookmarkToProto(news) } }
      const prelude = function* (): Generator<WatchResponse> {
        for (const each of standing) yield { message: { $case: 'container', value: containerToProto(each) } }
        yield { message: { $case: 'bookmark', value: { sequence, time: undefined, present: true } } }
      }
      return { since: { sequence }, accepts: accepting(request), marks: true, prelude: prelude(), tell }
    }),

    get: unary(async ({ sequence }) => {
      const record = await recordAt(journal, sequence)
      if (record) return { event: eventToProto(new Happening(record)) }
      if (sequence > 0n && sequence < journal.first()) throw dropped(journal.first())
      throw outOfRange(`there is no event ${sequence}: they go from ${journal.first()} to ${journal.last()}`)
    }),

    history: unary(async (request, context) => {
      const wish = historyWish(request, context)
      const { happenings, next, lives } = await historyOf(journal, store.world, wish)
      // Behind the first page the caller knows whether there was anything.
      if (happenings.length === 0 && lives.length === 0 && next === undefined && wish.after === 0n)
        throw notFound(`history of container ${JSON.stringify(wish.id)} in namespace ${JSON.stringify(wish.namespace)}`)
      const events = happenings.map(eventToProto)
      return { events, next: next ?? 0n, lives: lives.map(lifeToProto), firstKept: journal.first() }
    }),

    state: call =>
      serverStream<StateRequest, StateResponse>(async function* (request, { metadata, signal }) {
        checkJournal(single(metadata, keys.journal), feed)
        namespacesOf(request)
        const moment = momentOf(request)
        const sequence = moment ? await past.sequenceAt(moment) : store.world.sequence
        const world = sequence === store.world.sequence ? store.world : await past.at(sequence)
        // The present world goes on while this is told: what is told is taken from it at once.
        const standing = standings(world, request.namespaces)
        const last = await recordAt(journal, sequence)
        call.sendMetadata(journalMetadata(feed))
        for (const each of standing) {
          if (signal.aborted || deps.stopping.aborted) throw isStopping()
          yield { message: { $case: 'container', value: containerToProto(each) } }
        }
        const mark = { kind: 'mark', sequence, timeUnixNano: last?.timeUnixNano } as const
        const present = sequence === journal.last()
        yield { message: { $case: 'bookmark', value: bookmarkToProto({ ...mark, present }) } }
      })(call),
  }
}

interface Wanted {
  filters: string[]
  namespaces: string[]
  topicPrefixes: string[]
}

function accepting(wanted: Wanted): (happening: Happening) => boolean {
  const namespaces = new Set(namespacesOf(wanted))
  const { topicPrefixes } = wanted
  const misspelt = topicPrefixes.find(prefix => !prefix.startsWith('/'))
  if (misspelt !== undefined)
    throw invalidArgument(`topic prefix ${JSON.stringify(misspelt)}: topics begin with "/", as in "/tasks/"`)
  const filter = wanted.filters.length === 0 ? undefined : filtersOf(wanted.filters)
  return happening => {
    if (namespaces.size > 0 && !namespaces.has(happening.record.namespace)) return false
    if (topicPrefixes.length > 0 && !topicPrefixes.some(prefix => happening.topic.startsWith(prefix))) return false
    return filter?.(fieldsOf(happening)) ?? true
  }
}

/** '' is the namespace of the supervisor's own events. */
function namespacesOf({ namespaces }: Pick<Wanted, 'namespaces'>): string[] {
  for (const name of namespaces) if (name !== '') insist(checkIdentifier(name), 'namespace')
  return namespaces
}

const own = ['type', 'stream', 'node', 'causation', 'correlation'] as const

/** containerd's fields, and what only the journal knows. */
function fieldsOf({ record, fields }: Happening): Fields {
  return path => {
    const [name, ...rest] = path
    const known = rest.length === 0 ? own.find(field => field === name) : undefined
    return known ? record[known] : fields(path)
  }
}

function sinceOf({ since }: SubscribeRequest): Since | undefined {
  switch (since?.$case) {
    case 'after':
      return { sequence: since.value }
    case 'sinceTime':
      return { timeUnixNano: nanosFromProto(since.value) }
    default:
      return undefined
  }
}

function momentOf({ at }: StateRequest): Moment | undefined {
  switch (at?.$case) {
    case 'sequence':
      return { sequence: at.value }
    case 'time':
      return { timeUnixNano: nanosFromProto(at.value) }
    default:
      return undefined
  }
}

function historyWish({ container, after, limit, ...request }: HistoryRequest, context: CallContext) {
  const namespace = request.namespace || context.namespace
  insist(checkIdentifier(namespace), 'namespace')
  insist(checkIdentifier(container), 'container id')
  if (limit > pageMax) throw invalidArgument(`limit ${limit}: a page has at most ${pageMax} events`)
  return { namespace, id: container, after, limit: limit || pageDefault, signal: context.signal }
}
