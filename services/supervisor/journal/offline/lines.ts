// A journal as lines of JSON: a head, the snapshots that its state needs, then one line for each record. Nothing is lost
// on the way there and back; a payload that is JSON, as all of ours are, can be read and searched as it stands.
import type { JournalRecord, Sequence } from '../journal.js'

const FORMAT = 1

/** The first line. `complete`: everything that the journal has; only such an export can be imported. */
export interface Head {
  journal: string
  first: Sequence
  last: Sequence
  complete: boolean
  /** The program that wrote the journal, if it is known. */
  program: string
}

export interface SnapshotLine {
  sequence: Sequence
  state: Uint8Array
  versions: ReadonlyMap<string, Sequence>
}

export type Line = { head: Head } | { snapshot: SnapshotLine } | { record: JournalRecord }

export function encodeHead({ journal, first, last, complete, program }: Head): string {
  return JSON.stringify({ purserJournal: FORMAT, journal, first: String(first), last: String(last), complete, program })
}

export function encodeSnapshot({ sequence, state, versions }: SnapshotLine): string {
  const streams = Object.fromEntries([...versions].map(([stream, sequence]) => [stream, String(sequence)]))
  return JSON.stringify({ snapshot: String(sequence), state: base64(state), versions: streams })
}

export function encodeRecordLine(record: JournalRecord): string {
  const { sequence, timeUnixNano, payload, attachments, ...rest } = record
  const text = Buffer.from(payload).toString()
  const said = isCanonicalJson(text, payload) ? { payload: JSON.parse(text) } : { payloadBase64: base64(payload) }
  return JSON.stringify({
    sequence: String(sequence),
    timeUnixNano: String(timeUnixNano),
    ...rest,
    ...said,
    attachments: attachments.map(base64),
  })
}

/** Throws with what is wrong. */
export function decodeLine(text: string): Line {
  const line = JSON.parse(text)
  if ('purserJournal' in line) {
    if (line.purserJournal !== FORMAT)
      throw new Error(`it is an export of version ${line.purserJournal}, this program knows version ${FORMAT}`)
    return { head: { ...line, first: BigInt(line.first), last: BigInt(line.last) } }
  }
  if ('snapshot' in line) {
    const versions = new Map(
      Object.entries<string>(line.versions).map(([stream, sequence]) => [stream, BigInt(sequence)]),
    )
    return { snapshot: { sequence: BigInt(line.snapshot), state: Buffer.from(line.state, 'base64'), versions } }
  }
  const { sequence, timeUnixNano, payload, payloadBase64, attachments, ...rest } = line
  if (sequence === undefined) throw new Error('it is no line of a journal')
  return {
    record: {
      ...rest,
      sequence: BigInt(sequence),
      timeUnixNano: BigInt(timeUnixNano),
      payload:
        payloadBase64 === undefined ? Buffer.from(JSON.stringify(payload)) : Buffer.from(payloadBase64, 'base64'),
      attachments: attachments.map((attachment: string) => Buffer.from(attachment, 'base64')),
    },
  }
}

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')

/** What comes out of JSON byte for byte as it went in. */
function isCanonicalJson(text: string, bytes: Uint8Array): boolean {
  try {
    return JSON.stringify(JSON.parse(text)) === text && Buffer.from(text).equals(bytes)
  } catch {
    return false
  }
}
