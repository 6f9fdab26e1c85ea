// The port of the journal: what the supervisor asks of a durable, ordered, gap-free log of events.
import type { Actor } from '../../../proto/gen/purser/journal/v1/record.js'

/** 1, 2, 3 … with no gaps. 0 stands for "before the first". */
export type Sequence = bigint

/** An event that is to be appended. The journal does not know what it means. */
export interface Entry {
  namespace: string
  /** The lifecycle that it belongs to: `task/default/redis`. */
  stream: string
  type: string
  schema: number
  payload: Uint8Array
  /** Heavy bytes that the fold keeps only the place of. */
  attachments: Uint8Array[]
  /** The stream is over: its next entry starts it anew. */
  ends: boolean
}

/** Entries that become durable together or not at all. */
export interface Batch {
  entries: Entry[]
  /** By stream: the sequence of its last record as the decider saw it, 0 for none. Others are not checked. */
  expected: ReadonlyMap<string, Sequence>
  /** The command that caused the entries, and the request it came with. */
  causation: string
  correlation: string
  actor: Actor
  /** Nanoseconds since 1970 UTC. */
  timeUnixNano: bigint
  /** A batch that frees space (deletes, exits) may use the reserve of a full disk. */
  mayUseReserve: boolean
}

/** A durable event. */
export interface JournalRecord extends Entry {
  sequence: Sequence
  timeUnixNano: bigint
  node: string
  causation: string
  correlation: string
  actor: Actor
}

/** The fold's state at a sequence, so that a restart reads only what came after. */
export interface FoldSnapshot {
  sequence: Sequence
  state: Uint8Array
}

/** Records that are given up together. */
export interface KeptSegment {
  first: Sequence
  /** `first - 1` when it has none yet. */
  last: Sequence
  bytes: number
}

export type JournalHealth =
  | { writable: true }
  /** `advice` says what to do, to an operator. */
  | { writable: false; reason: 'full' | 'read-only' | 'failed' | 'damaged'; message: string; advice: string }

export interface JournalStats {
  /** Records and bytes appended, flushes made, since open. */
  appends: number
  bytes: number
  flushes: number
  /** On disk now, in bytes. */
  size: number
  segments: number
  /** Since open: calls of `dropBefore` that dropped something, and what they dropped. */
  compactions: number
  droppedSegments: number
  /** Places that were found damaged when it was opened, and ends that a crash had torn. */
  damagedPlaces: number
  tornEnds: number
}

/**
 * Order and promises:
 * 1. `append` writes, and waits until the bytes are on disk; appends that arrive meanwhile share the next flush.
 * 2. Then `onDurable` listeners hear the records, in sequence order, each exactly once.
 * 3. Then `append` resolves with the last sequence of its batch.
 * Nothing shows a record before it is durable. A batch that is refused leaves no trace.
 */
export interface Journal {
  /** Unique to this journal for ever: a random id made with its first file. */
  readonly id: string
  /** Rejects with VersionConflict or JournalUnavailable. */
  append(batch: Batch): Promise<Sequence>
  /** Durable records from `from` on, up to the last one durable when the iteration ends. */
  read(from: Sequence): AsyncIterable<JournalRecord>
  /** The attachment `index` of record `sequence`. */
  attachment(sequence: Sequence, index: number): Promise<Uint8Array>
  /** The last durable sequence, 0 when empty. */
  last(): Sequence
  /** The first sequence that can still be read. */
  first(): Sequence
  onDurable(listener: (records: readonly JournalRecord[]) => void): () => void
  onFlush(listener: (flush: { records: number; bytes: number; seconds: number }) => void): () => void
  health(): JournalHealth
  stats(): JournalStats
  saveSnapshot(snapshot: FoldSnapshot): Promise<void>
  /**
   * The newest whole snapshot, of those at or before `upTo` if that is given; undefined when there is none. Beside the
   * newest two some older ones are kept, far apart. A damaged one is passed over with a log line.
   */
  loadSnapshot(upTo?: Sequence): Promise<FoldSnapshot | undefined>
  /** The sequences of the snapshots that are there, newest first. */
  snapshots(): Promise<Sequence[]>
  /** All that is kept, oldest first; the last one is being written to. */
  segments(): readonly KeptSegment[]
  /**
   * Drops the segments whose records all lie before `sequence`, except for what the second newest snapshot or a
   * reader needs, and answers the first sequence that is left. Appends don't wait for it.
   */
  dropBefore(sequence: Sequence): Promise<Sequence>
  close(): Promise<void>
}

/** Somebody else wrote to the stream first: decide again. */
export class VersionConflict extends Error {
  constructor(
    readonly stream: string,
    readonly expected: Sequence,
    readonly actual: Sequence,
  ) {
    super(`stream ${stream} is at ${actual}, not at ${expected}`)
    this.name = 'VersionConflict'
  }
}

/** Writes are refused for now; reads go on. */
export class JournalUnavailable extends Error {
  constructor(
    readonly reason: 'full' | 'read-only' | 'failed' | 'damaged' | 'closed',
    message: string,
    readonly advice: string,
  ) {
    super(`${message}; ${advice}`)
    this.name = 'JournalUnavailable'
  }
}
