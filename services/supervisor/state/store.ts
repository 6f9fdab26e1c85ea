// The world kept up with the journal: opened by folding what is there, then moved on by each durable record.
import type { Logger } from 'pino'
import type { DomainEvent } from '../domain/decision.js'
import type { Journal, JournalRecord, Sequence } from '../journal/journal.js'
import { decodeWorld, encodeWorld } from './snapshot.js'
import { World } from './world.js'

/** A durable event as the supervisor's rooms hear it, after it was folded in. */
export interface Told {
  record: JournalRecord
  event: DomainEvent
}

export type Listener = (told: Told) => void

/**
 * After so many records the fold is written out, so that a restart reads little: folding a record takes a fresh process
 * some 70 µs. A large state is written less often, a record for each of so many bytes of it, so that writing it takes the
 * same share of the work whatever its size.
 */
const recordsMin = 500
const bytesPerRecord = 1024

/** The records from which the state grew were dropped, and no snapshot that can be read holds it. */
export class StateUnknown extends Error {
  constructor(first: Sequence, known: Sequence) {
    const from = known === 0n ? 'no snapshot of the state can be read' : `the newest readable snapshot is of ${known}`
    super(
      `the journal begins with record ${first}, and ${from} (purser journal verify tells why): start the version of purserd that wrote it, or put the journal back from a backup`,
    )
    this.name = 'StateUnknown'
  }
}

/** The newest snapshot, up to a sequence, whose shape this version knows. */
export async function newestWorld(journal: Journal, log: Logger, upTo?: Sequence): Promise<World | undefined> {
  for (let before = upTo; ; ) {
    const snapshot = await journal.loadSnapshot(before)
    if (!snapshot) return undefined
    const world = decodeWorld(snapshot.state)
    if (world) return world
    log.warn(
      { sequence: snapshot.sequence },
      'a snapshot of the state was written by another version and is passed over: more of the journal is read instead',
    )
    before = snapshot.sequence - 1n
  }
}

export class Store {
  private readonly listeners = new Set<Listener>()
  private readonly byStream = new Map<string, Set<Listener>>()
  private readonly savedListeners = new Set<() => void>()
  private sinceSnapshot = 0
  private recordsPerSnapshot = recordsMin
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
    const world = (await newestWorld(journal, log)) ?? new World()
    const known = world.sequence
    if (known + 1n < journal.first()) throw new StateUnknown(journal.first(), known)
    for await (const record of journal.read(known + 1n)) world.apply(record)
    const store = new Store(world, journal, log)
    store.sinceSnapshot = Number(world.sequence - known)
    return store
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

  /** Resolves with true at the next event of a lifecycle, with false when none has come in time; rejects when aborted. */
  next(stream: string, withinMs: number, signal?: AbortSignal): Promise<boolean> {
    return new Promise((resolve, reject) => {
      const end = (settle: () => void) => {
        clearTimeout(timer)
        forget()
        signal?.removeEventListener('abort', abort)
        settle()
      }
      const abort = () => end(() => reject(signal?.reason))
      const timer = setTimeout(() => end(() => resolve(false)), withinMs)
      const forget = this.subscribeStream(stream, () => end(() => resolve(true)))
      if (signal?.aborted) abort()
      else signal?.addEventListener('abort', abort)
    })
  }

  /** Called each time that the fold was written out. */
  onSaved(listener: () => void): () => void {
    this.savedListeners.add(listener)
    return () => this.savedListeners.delete(listener)
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
    if (++this.sinceSnapshot >= this.recordsPerSnapshot && !this.saving) void this.save()
  }

  private async write(): Promise<void> {
    this.sinceSnapshot = 0
    const { sequence } = this.world
    try {
      const state = encodeWorld(this.world)
      this.recordsPerSnapshot = Math.max(recordsMin, Math.ceil(state.length / bytesPerRecord))
      await this.journal.saveSnapshot({ sequence, state })
      for (const listener of this.savedListeners) listener()
    } catch (error) {
      this.log.error(
        { err: error, sequence },
        'the fold could not be written out; the next start reads more of the journal',
      )
    }
  }
}
