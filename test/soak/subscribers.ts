// Subscribers that are cut off again and again and go on behind the last sequence they heard of.
import { status as Code } from '@grpc/grpc-js'
import { EventsService as ContainerdEvents } from '../../proto/gen/containerd/services/events/v1/events.js'
import { type Event, EventsService as Events, SubscribeRequest } from '../../proto/gen/purser/events/v1/events.js'
import { pause, until } from '../harness/wait.js'
import type { Chance } from './chance.js'
import type { Ground } from './ground.js'

/** With room for a whole calm. */
const callMs = 600_000

interface Heard {
  sequence: bigint
  /** Undefined: a bookmark. */
  topic: string | undefined
}

interface Kind {
  name: string
  wants(event: Event): boolean
  /** `hangUp` ends it. */
  listen(ground: Ground, after: bigint): { heard: AsyncIterable<Heard>; hangUp(): void }
}

const topics = ['/tasks/', '/soak/']
const isWanted = ({ topic }: Event) => topics.some(prefix => topic.startsWith(prefix))

const kinds: Kind[] = [
  containerd(
    "a subscriber of containerd's API to tasks",
    isWanted,
    topics.map(prefix => `topic~=|^${prefix}|`),
  ),
  containerd("a subscriber of containerd's API to all", ({ payload }) => payload !== undefined, []),
  {
    name: 'a subscriber with bookmarks to tasks',
    wants: isWanted,
    listen(ground, value) {
      const request = SubscribeRequest.fromPartial({ since: { $case: 'after', value }, topicPrefixes: topics })
      const stream = ground.host.rpc.stream(Events.subscribe, request, { timeoutMs: callMs })
      const heard = async function* (): AsyncGenerator<Heard> {
        for await (const { message } of stream) {
          if (message?.$case === 'event') yield { sequence: message.value.sequence, topic: message.value.topic }
          if (message?.$case === 'bookmark') yield { sequence: message.value.sequence, topic: undefined }
        }
      }
      return { heard: heard(), hangUp: () => stream.cancel() }
    },
  },
]

function containerd(name: string, wants: Kind['wants'], filters: string[]): Kind {
  return {
    name,
    wants,
    listen(ground, after) {
      const metadata = { 'purser-since': String(after) }
      const stream = ground.host.rpc.stream(ContainerdEvents.subscribe, { filters }, { metadata, timeoutMs: callMs })
      return { heard: stream, hangUp: () => stream.cancel() }
    },
  }
}

/** They listen until they are stopped, and tell in each calm whether all that was theirs came once and in order. */
export class Subscribers {
  readonly #all: Subscriber[]
  #comparedUpTo = 0n

  constructor(
    readonly ground: Ground,
    chance: Chance,
  ) {
    this.#all = kinds.map(kind => new Subscriber(kind, ground, chance.fork()))
  }

  /** Beside the journal, up to its event `mark`, which all of them want. */
  async compare(mark: bigint, timeoutMs: number): Promise<void> {
    const events = await this.#journal(mark)
    for (const subscriber of this.#all) {
      await until(`${subscriber.kind.name} to hear of event ${mark}`, () => subscriber.cursor >= mark, { timeoutMs })
        .then(() => subscriber.compare(events, mark))
        .catch((error: unknown) => this.ground.problem(String(error), ''))
    }
    this.#comparedUpTo = mark
  }

  async stop(): Promise<void> {
    await Promise.all(this.#all.map(subscriber => subscriber.stop()))
  }

  async #journal(mark: bigint): Promise<Event[]> {
    const since = { $case: 'after', value: this.#comparedUpTo } as const
    const stream = this.ground.host.rpc.stream(Events.subscribe, SubscribeRequest.fromPartial({ since }), {
      timeoutMs: callMs,
    })
    const events: Event[] = []
    for await (const { message } of stream) {
      if (message?.$case === 'event') events.push(message.value)
      if (message?.$case === 'event' && message.value.sequence >= mark) break
    }
    const wrong = events.find(({ sequence }, index) => sequence !== this.#comparedUpTo + BigInt(index + 1))
    if (wrong) this.ground.problem(`the journal tells event ${wrong.sequence} where it should not`, '')
    return events
  }
}

class Subscriber {
  /** Everything up to here was heard, or is not for us. */
  cursor = 0n
  #heard: string[] = []
  #hangUp = () => {}
  #stopped = false
  readonly #over: Promise<void>

  constructor(
    readonly kind: Kind,
    readonly ground: Ground,
    readonly chance: Chance,
  ) {
    this.#over = this.#listen()
  }

  compare(events: Event[], mark: bigint): void {
    const wanted = events.filter(event => this.kind.wants(event)).map(line)
    const ours = this.#heard.findIndex(heard => BigInt(heard.split(' ', 1)[0] ?? '') > mark)
    const heard = this.#heard.splice(0, ours < 0 ? this.#heard.length : ours)
    this.ground.count('heard', heard.length)
    const place = Array.from({ length: Math.max(wanted.length, heard.length) }).findIndex(
      (_, index) => wanted[index] !== heard[index],
    )
    if (place < 0) return
    const [should, did] = [wanted, heard].map(list => list.slice(place, place + 3).join(', ') || 'nothing')
    this.ground.problem(`${this.kind.name} should have heard ${should}: it heard ${did}`, this.kind.name)
  }

  async stop(): Promise<void> {
    this.#stopped = true
    this.#hangUp()
    await this.#over
  }

  async #listen(): Promise<void> {
    while (!this.#stopped) {
      const { heard, hangUp } = this.kind.listen(this.ground, this.cursor)
      const timer = setTimeout(hangUp, this.chance.between(100, 8000))
      this.#hangUp = hangUp
      try {
        for await (const { sequence, topic } of heard) {
          if (topic !== undefined) this.#heard.push(line({ sequence, topic }))
          this.cursor = sequence
        }
      } catch (error) {
        this.#ended(error)
      } finally {
        clearTimeout(timer)
      }
      await pause(this.chance.between(0, 200))
    }
  }

  /** To be cut off is part of it; to be told that one's place is unknown is not. */
  #ended(error: unknown): void {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === Code.CANCELLED || code === Code.UNAVAILABLE) {
      this.ground.tell(`cut: ${this.kind.name} behind ${this.cursor}`)
      return
    }
    this.ground.problem(`${this.kind.name}, behind ${this.cursor}: ${error}`, this.kind.name)
  }
}

const line = ({ sequence, topic }: Pick<Event, 'sequence' | 'topic'>): string => `${sequence} ${topic}`
