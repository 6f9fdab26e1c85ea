// Reads a journal out as lines of JSON (lines.ts), whole or a part of it. Changes nothing.
import { basename } from 'node:path'
import { readFormat } from '../format.js'
import type { JournalRecord, Sequence } from '../journal.js'
import { SegmentReader } from '../reader.js'
import { readSnapshot } from '../snapshots.js'
import { encodeHead, encodeRecordLine, encodeSnapshot } from './lines.js'
import { type SurveyOptions, survey } from './survey.js'

export interface Selection {
  from?: Sequence
  to?: Sequence
  namespace?: string
  /** An event's name, "TaskExited". */
  type?: string
  /** "task/default/redis" */
  stream?: string
}

/** Throws when the journal is damaged, but for what lies behind the last selected record. */
export async function* exportLines(
  options: Omit<SurveyOptions, 'visit' | 'between'>,
  selection: Selection,
): AsyncGenerator<string> {
  const { disk, dir } = options
  const seen = await survey(options)
  const [finding] = seen.damage
  if (finding)
    throw new Error(
      `the journal is damaged (${basename(finding.file)} at byte ${finding.offset}: ${finding.what}): repair it first, with purser journal repair`,
    )
  const first = selection.from !== undefined && selection.from > seen.first ? selection.from : seen.first
  const end = seen.segments.at(-1)?.last ?? seen.last
  const last = selection.to !== undefined && selection.to < end ? selection.to : end
  const complete = Object.values(selection).every(bound => bound === undefined)
  const program = (await readFormat(disk, dir))?.program ?? ''
  yield encodeHead({ journal: seen.journal ?? '', first, last, complete, program })
  if (complete)
    for (const { sequence, file } of seen.snapshots.filter(({ sequence }) => sequence <= last).slice(0, 2)) {
      const snapshot = await readSnapshot(disk, file, seen.journal ?? '', sequence)
      if (typeof snapshot === 'string') continue
      yield encodeSnapshot(snapshot)
    }
  const reader = new SegmentReader(disk, seen.segments)
  let place: Awaited<ReturnType<SegmentReader['piece']>>['next']
  for (let next = first; next <= last; ) {
    const piece = await reader.piece(next, last, place)
    place = piece.next
    next += BigInt(piece.records.length)
    for (const record of piece.records) if (isSelected(record, selection)) yield encodeRecordLine(record)
  }
}

function isSelected(record: JournalRecord, { namespace, type, stream }: Selection): boolean {
  return (
    (namespace === undefined || record.namespace === namespace) &&
    (type === undefined || record.type === type) &&
    (stream === undefined || record.stream === stream)
  )
}
