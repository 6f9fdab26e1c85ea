// The world kept up with the journal: opened by folding what is there, then moved on by each durable record.
import type { Logger } from 'pino'
import type { DomainEvent } from '../domain/decision.js'
import type { Journal, JournalRecord } from '../journal/journal.js'
import { decodeWorld, encodeWorld } from './snapshot.js'
import { World } from './world.js'

/** A durable event as the supervisor's rooms hear it, after it was folded in. */
export interface Told {
  record: JournalRecord
  event: DomainEvent
}

export type Listener = (told: Told) => void

/** After this many records the fold is written out, so that a restart reads little. */
const recordsPerSnapshot = 20_000

export class Store {
  private readonly listeners = new Set<Listener>()
  private readonly byStream = new Map<string, Set<Listener>>()
  private sinceSnapshot = 0
  private saving: Promise<void> | undefined
  private readonly unsubscribe: () => void

  private constructor(
    readonly world: World,
    private readonly journal: Journal,
    private readonly log: Logger,
  ) {
    this.unsubscribe = journal.onDurable(records => {
      for (const record of records) this.take(record)
    })
  }

  /** Folds the journal from its newest snapshot on. Throws when history is illegal: then nothing may be decided. */
  static async open(journal: Journal, log: Logger): Promise<Store> {
    const snapshot = await journal.loadSnapshot()
    const world = snapshot ? decodeWorld(snapshot.state) : new World()
    for await (const record of journal.read(world.sequence + 1n)) world.apply(record)
    return new Store(world, journal, log)
  }

  /** Hears every event from now on, in order. A listener must not throw and must not wait. */
  subscribe(listener: Listener): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  /** Hears the events of one lifecycle. */
  subscribeStream(stream: string, listener: Listener): () => void {
    const listeners = this.byStream.get(stream) ?? new Set()
    this.byStream.set(stream, listeners.add(listener))
    return () => {
      listeners.delete(listener)
      if (listeners.size === 0) this.byStream.delete(stream)
    }
  }

  /** Writes the fold out now, unless that is being done already. */
  async save(): Promise<void> {
    this.saving ??= this.write().finally(() => {
      this.saving = undefined
    })
    await this.saving
  }

  async close(): Promise<void> {
    this.unsubscribe()
    if (this.sinceSnapshot > 0 && this.journal.health().writable) await this.save()
  }

  private take(record: JournalRecord): void {
    const told = { record, event: this.world.apply(record) }
    for (const listener of this.byStream.get(record.stream) ?? []) listener(told)
    for (const listener of this.listeners) listener(told)
    if (++this.sinceSnapshot >= recordsPerSnapshot && !this.saving) void this.save()
  }

  private async write(): Promise<void> {
    this.sinceSnapshot = 0
    const { sequence } = this.world
    try {
      await this.journal.saveSnapshot({ sequence, state: encodeWorld(this.world) })
    } catch (error) {
      this.log.error(
        { err: error, sequence },
        'the fold could not be written out; the next start reads more of the journal',
      )
    }
  }
}
