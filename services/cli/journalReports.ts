// What `purser journal …` prints: sentences for people, JSON for programs.
import { basename } from 'node:path'
import type { AcceptResponse } from '../../proto/gen/purser/journal/v1/journal.js'
import type { Compaction, Repair, Stats, Survey } from '../supervisor/maintenance.js'

/** Sequences and times as text: they are larger than a number of JSON may be. */
export function json(value: unknown): string {
  return JSON.stringify(value, (_key, each) => {
    if (typeof each === 'bigint') return String(each)
    return each instanceof Map ? Object.fromEntries(each) : each
  })
}

export function verifyReport({ journal, segments, snapshots, first, last, records, damage, notes }: Survey): string[] {
  const count = `${records} events, ${first} to ${last}, in ${segments.length} files; ${snapshots.length} snapshots`
  const found = [...damage.map(finding => ['damaged', finding] as const), ...notes.map(note => ['note', note] as const)]
  return [
    `journal ${journal ?? 'of an unknown id'}: ${count}`,
    ...found.map(([word, { file, offset, what, lost }]) => {
      const gone = lost ? ` (events ${rangeOf(lost)} can't be read)` : ''
      return `${word}: ${basename(file)} at byte ${offset}: ${what}${gone}`
    }),
    damage.length === 0
      ? 'every record, checksum and link is as it was written'
      : 'restore the named files from a backup, or see what `purser journal repair` can keep; containers go on meanwhile',
  ]
}

export function statsReport(stats: Stats): string[] {
  const { journal, records, first, last, bytes, attachmentBytes, segments, snapshots, oldest, newest } = stats
  const seconds = oldest === undefined || newest === undefined ? 0 : Number((newest - oldest) / 1_000_000_000n)
  const rate = seconds > 0 ? `, ${(records / (seconds / 3600)).toFixed(1)} an hour` : ''
  const span =
    oldest === undefined || newest === undefined ? [] : [`from ${instant(oldest)} to ${instant(newest)}${rate}`]
  const table = (title: string, tallies: Stats['byType']) => [
    title,
    ...[...tallies]
      .sort(([, a], [, b]) => b.bytes - a.bytes)
      .map(([name, { events, bytes }]) => `  ${name || '(none)'}: ${events} events, ${bytes} bytes`),
  ]
  return [
    `journal ${journal ?? '(none)'}: ${records} events, ${first} to ${last}`,
    ...span,
    `${bytes} bytes, of them ${attachmentBytes} of specs and other attachments`,
    ...table('by type:', stats.byType),
    ...table('by namespace:', stats.byNamespace),
    'files:',
    ...segments.map(({ file, first, last, bytes }) => `  ${basename(file)}: ${first} to ${last}, ${bytes} bytes`),
    ...snapshots.map(({ file, problem }) => `  ${basename(file)}${problem ? `: ${problem}` : ''}`),
    ...(stats.damaged ? ['it is damaged: `purser journal verify` tells where'] : []),
  ]
}

export function compactionReport({ first, droppedSegments, droppedEvents, moved, heldBy }: Compaction): string[] {
  return [
    `${droppedEvents} events in ${droppedSegments} files were dropped; the journal begins with event ${first}`,
    ...(moved > 0 ? [`the specs of ${moved} old containers were brought to its end`] : []),
    ...(heldBy ? [`more would be dropped, but for ${heldBy}`] : []),
  ]
}

export function repairReport(repair: Repair, isDone: boolean): string[] {
  const { damage, unfinished, lost, rewritten, replaced, aside, first, last } = repair
  if (unfinished && !isDone)
    return ['a repair was interrupted: run it again with --write to finish it', 'nothing was changed']
  if (damage.length === 0)
    return [
      unfinished
        ? 'the repair that was interrupted is finished: start purserd'
        : 'nothing is damaged: there is nothing to repair',
    ]
  return [
    ...damage.map(({ file, offset, what }) => `damaged: ${basename(file)} at byte ${offset}: ${what}`),
    lost.length === 0 ? 'no event is lost' : `events that are lost: ${lost.map(rangeOf).join(', ')}`,
    `${isDone ? 'kept' : 'would keep'} everything else of ${first} to ${last}; ${rewritten} events are written anew`,
    ...replaced.map(file => `${isDone ? 'moved' : 'would move'} ${basename(file)} to ${aside}`),
    isDone
      ? 'done: start purserd; it asks the runtime what is true of containers whose events are lost'
      : 'nothing was changed: run it again with --write to do it',
  ]
}

export function acceptReport({ lostEvents, orphans, unasked }: AcceptResponse, isDone: boolean): string[] {
  if (lostEvents === 0n) return ['no event is lost, or all was accepted before: there is nothing to accept']
  return [
    `${lostEvents} events are lost; ${orphans.length} things that the journal does not know ${isDone ? 'are removed now' : 'would be removed'}:`,
    ...orphans.map(
      ({ kind, plugin, namespace, name }) => `  ${kind}/${plugin}: ${namespace && `${namespace}/`}${name}`,
    ),
    ...unasked.map(
      plugin => `  ${plugin} is away; what it holds and the journal does not know, is removed when it is back`,
    ),
    isDone ? 'accepted' : 'nothing was changed: keep what you need of it, and run it again with --write to remove it',
  ]
}

const rangeOf = ({ from, to }: { from: bigint; to: bigint }) => (from === to ? `${from}` : `${from} to ${to}`)
const instant = (nanos: bigint) => new Date(Number(nanos / 1_000_000n)).toISOString()
