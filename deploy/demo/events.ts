// Lifecycle events from NATS, each as one line that a newcomer can read.
import type { RelayedEvent } from '../../test/harness/jetstream.js'
import { event } from './screen.js'

/** Six plugins come and go together: one line tells them. */
const gatherMs = 250

interface Plugins {
  topic: string
  first: bigint
  last: bigint
  names: string[]
}

/** Prints what belongs to a lifecycle; the bookkeeping of content and leases and the wishes before deeds are left out. */
export class EventPrinter {
  readonly #seen: RelayedEvent[] = []
  #plugins: Plugins | undefined
  #timer: NodeJS.Timeout | undefined

  /** Everything that came, printed or not. */
  get seen(): readonly RelayedEvent[] {
    return this.#seen
  }

  take(arrived: RelayedEvent): void {
    this.#seen.push(arrived)
    const topic = topicOf(arrived)
    if (/^purser\.plugins\.(ready|lost)$/.test(topic)) this.#gather(arrived, topic)
    else if (/^(images|snapshot|containers|tasks)\.|^purser\.networks\.(attached|detached)$/.test(topic)) {
      this.flush()
      event(`#${arrived.sequence}`, topic.replace('purser.', ''), about(arrived))
    }
  }

  /** Prints the plugins that are waiting for each other. */
  flush(): void {
    clearTimeout(this.#timer)
    const plugins = this.#plugins
    this.#plugins = undefined
    if (plugins === undefined) return
    const place = plugins.first === plugins.last ? `#${plugins.first}` : `#${plugins.first}–${plugins.last}`
    event(place, plugins.topic.replace('purser.', ''), plugins.names.join(', '))
  }

  #gather({ sequence, data }: RelayedEvent, topic: string): void {
    if (this.#plugins?.topic !== topic) this.flush()
    this.#plugins ??= { topic, first: sequence, last: sequence, names: [] }
    this.#plugins.last = sequence
    this.#plugins.names.push(`${data.kind} ${data.id}`)
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.flush(), gatherMs)
  }
}

/** "tasks.start", "purser.plugins.ready": the subject without node, namespace and id. */
export const topicOf = ({ subject }: RelayedEvent): string => subject.split('.').slice(3, -1).join('.')

/** What an event is about, in a few words. */
function about({ data }: RelayedEvent): string {
  const words: string[] = []
  const add = (label: string, value: unknown) => {
    if (value !== undefined && value !== '') words.push(`${label}${shorten(String(value))}`)
  }
  add('', data.containerId ?? data.container ?? data.name ?? data.id ?? data.key)
  if (data.containerId !== undefined && data.id !== data.containerId) add('process ', data.id ?? data.execId)
  add('on ', data.parent)
  add('image ', data.image)
  add('pid ', data.pid)
  if (data.exitedAt !== undefined) add('status ', data.exitStatus ?? 0)
  if (Array.isArray(data.addresses)) add('', data.addresses.join(' '))
  return words.join(', ')
}

/** Digests are long, and their first digits tell them apart. Keys of layers under way end in one. */
const shorten = (text: string) =>
  text.replace(/^extract-\S+ /, 'unpacking ').replace(/(sha256:[0-9a-f]{8})[0-9a-f]{56}/, '$1…')
