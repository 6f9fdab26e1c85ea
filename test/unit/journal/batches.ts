// Batches and loggers for the journal's tests.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino, { type Logger } from 'pino'
import type { Test } from 'tap'
import type { Batch, Entry, Journal, JournalRecord, Sequence } from '../../../services/supervisor/journal/journal.js'

export const silent = pino({ level: 'silent' })

/** A logger whose lines can be looked at. */
export function recordingLogger(): { log: Logger; lines: { level: number; msg: string }[] } {
  const lines: { level: number; msg: string }[] = []
  return { log: pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line)) }), lines }
}

export function entry(stream: string, more: Partial<Entry> = {}): Entry {
  return {
    namespace: 'default',
    stream,
    type: 'TaskStarted',
    schema: 1,
    payload: Buffer.from(JSON.stringify({ stream })),
    attachments: [],
    ends: false,
    ...more,
  }
}

/** A batch of entries, or of one entry for each stream's name. */
export function batch(entries: (Entry | string)[], more: Partial<Batch> = {}): Batch {
  return {
    entries: entries.map(each => (typeof each === 'string' ? entry(each) : each)),
    expected: new Map(),
    causation: '/containerd.services.tasks.v1.Tasks/Start',
    correlation: 'request-1',
    actor: { uid: 0, gid: 0, pid: 42, name: '' },
    timeUnixNano: 1_700_000_000_123_456_789n,
    mayUseReserve: false,
    ...more,
  }
}

export function expecting(expected: Record<string, Sequence>): Pick<Batch, 'expected'> {
  return { expected: new Map(Object.entries(expected)) }
}

export async function readAll(journal: Journal, from: Sequence = 1n): Promise<JournalRecord[]> {
  const records: JournalRecord[] = []
  for await (const record of journal.read(from)) records.push(record)
  return records
}

export function sequences(records: readonly JournalRecord[]): number[] {
  return records.map(({ sequence }) => Number(sequence))
}

export function streams(records: readonly JournalRecord[]): string[] {
  return records.map(({ stream }) => stream)
}

/** A directory that is gone after the test. */
export function directory(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'purser-journal-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}
