// What is remembered of containers that are gone, when retention has dropped their events: one line for each.
import type { ContainerRecord } from '../domain/container/events.js'
import type { DomainEvent } from '../domain/decision.js'
import { formatNanos } from '../domain/time.js'
import type { Timestamp } from '../domain/values.js'
import type { JournalRecord } from '../journal/journal.js'

/** The life of a container. Times that did not come are ''. */
export interface Summary {
  namespace: string
  id: string
  image: string
  runtime: string
  createdAt: Timestamp
  /** Of its last task. */
  startedAt: Timestamp
  exitedAt: Timestamp
  /** 128 + n after signal n; null while no task of it has ended. */
  exitStatus: number | null
  /** How many tasks of it were started. */
  starts: number
  deletedAt: Timestamp
  /** Decimal: the records of its creation and of its deletion; '' while it lives. */
  firstSequence: string
  lastSequence: string
}

/** More are not remembered, nor those that ended longer ago; both bound memory and the fold's snapshots. */
const finishedMax = 5_000
const finishedAgeMaxNanos = 90n * 86_400n * 1_000_000_000n

/** What the fold keeps of it in its snapshots. */
export interface StoredSummaries {
  finished: Summary[]
  living: Summary[]
}

export class Summaries {
  /** In the order in which they were deleted. */
  private finished: Summary[] = []
  /** By namespace, then id: no name that a client chooses may pass for another. */
  private readonly living = new Map<string, Map<string, Summary>>()

  static from({ finished, living }: StoredSummaries): Summaries {
    const summaries = new Summaries()
    summaries.finished = finished
    for (const summary of living) summaries.begin(summary)
    return summaries
  }

  toStored(): StoredSummaries {
    return { finished: this.finished, living: [...this.living.values()].flatMap(byId => [...byId.values()]) }
  }

  /** All lives of the containers of that name, the oldest first; the last may still go on. */
  of(namespace: string, id: string): Summary[] {
    const finished = this.finished.filter(summary => summary.id === id && summary.namespace === namespace)
    const living = this.living.get(namespace)?.get(id)
    return living ? [...finished, living] : finished
  }

  /** Of containers that are gone, in the order in which they were deleted. */
  ended(namespace?: string): Summary[] {
    return this.finished.filter(summary => namespace === undefined || summary.namespace === namespace)
  }

  apply(record: JournalRecord, event: DomainEvent): void {
    const { namespace } = record
    switch (event.type) {
      case 'ContainerCreated':
        this.begin(newSummary(namespace, event.container, formatNanos(record.timeUnixNano), String(record.sequence)))
        return
      case 'ContainerUpdated':
        this.change(namespace, event.container.id, ({ starts }) => ({ image: event.container.image, starts }))
        return
      case 'TaskStarted':
        this.change(namespace, event.containerId, ({ starts }) => ({
          startedAt: formatNanos(record.timeUnixNano),
          exitedAt: '',
          exitStatus: null,
          starts: starts + 1,
        }))
        return
      case 'TaskExited':
        this.change(namespace, event.containerId, () => ({ exitedAt: event.exit.at, exitStatus: event.exit.status }))
        return
      case 'ContainerDeleted':
        this.end(namespace, event.id, record)
    }
  }

  private begin(summary: Summary): void {
    const { namespace, id } = summary
    const byId = this.living.get(namespace) ?? new Map<string, Summary>()
    this.living.set(namespace, byId.set(id, summary))
  }

  private change(namespace: string, id: string, change: (summary: Summary) => Partial<Summary>): void {
    const summary = this.living.get(namespace)?.get(id)
    if (summary) this.begin({ ...summary, ...change(summary) })
  }

  private end(namespace: string, id: string, { timeUnixNano, sequence }: JournalRecord): void {
    const byId = this.living.get(namespace)
    const summary = byId?.get(id)
    if (!summary) return
    byId?.delete(id)
    if (byId?.size === 0) this.living.delete(namespace)
    this.finished.push({ ...summary, deletedAt: formatNanos(timeUnixNano), lastSequence: String(sequence) })
    const oldest = formatNanos(timeUnixNano > finishedAgeMaxNanos ? timeUnixNano - finishedAgeMaxNanos : 0n)
    while (this.finished.length > finishedMax || (this.finished[0]?.deletedAt ?? oldest) < oldest) this.finished.shift()
  }
}

/** Of a container that has just been made, or of which only its record is known. */
export function newSummary(
  namespace: string,
  { id, image, runtime }: ContainerRecord,
  createdAt: Timestamp,
  firstSequence: string,
): Summary {
  const unknown = { startedAt: '', exitedAt: '', exitStatus: null, starts: 0, deletedAt: '', lastSequence: '' }
  return { namespace, id, image, runtime: runtime.name, createdAt, ...unknown, firstSequence }
}
