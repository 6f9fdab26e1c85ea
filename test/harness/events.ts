// What `ctr events` prints, line by line, as facts to await.
import type { Running } from './ctr.js'
import { Arrivals } from './wait.js'

export interface PrintedEvent {
  time: string
  namespace: string
  topic: string
  /** The event's fields as ctr prints them: JSON with Go's names. */
  event: Record<string, unknown>
}

export class EventLog {
  readonly #events = new Arrivals<PrintedEvent>()
  readonly #running: Running
  #marks: string[] = []

  constructor(running: Running) {
    this.#running = running
    running.lines.each(line => this.#take(line))
  }

  get all(): PrintedEvent[] {
    return this.#events.items
  }

  sawMarker(marker: string): boolean {
    return this.#marks.includes(marker)
  }

  /** Those that match a condition: topics of one container, for example. */
  topics(matches: (event: PrintedEvent) => boolean = () => true): string[] {
    return this.all.filter(matches).map(({ topic }) => topic)
  }

  async first(topic: string, matches: (event: PrintedEvent) => boolean = () => true, timeoutMs = 10_000) {
    const wanted = (event: PrintedEvent) => event.topic === topic && matches(event)
    return this.#events.first(`event ${topic}`, wanted, { timeoutMs }).catch((error: unknown) => {
      throw new Error(`${String(error)}; seen: ${this.topics().join(' ')}`)
    })
  }

  close(): void {
    this.#running.kill()
  }

  #take(line: string): void {
    const match = /^(\S+ \S+ \S+ \S+) (\S+) (\/\S+) (.*)$/.exec(line)
    if (match === null) return
    const [, time = '', namespace = '', topic = '', text = ''] = match
    const event: unknown = text === '' ? {} : JSON.parse(text)
    const fields = typeof event === 'object' && event !== null ? { ...event } : {}
    if (topic !== '/harness/mark') this.#events.push({ time, namespace, topic, event: fields })
    else if ('name' in fields && typeof fields.name === 'string') this.#marks.push(fields.name)
  }
}
