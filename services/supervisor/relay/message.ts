// A durable event as the NATS message that tells of it: a CloudEvent 1.0 in binary mode.
import type { JournalRecord, Sequence } from '../journal/journal.js'
import type { Publication } from '../state/publication.js'
import { encodeToken, subject } from './subject.js'

export interface Message {
  sequence: Sequence
  /** `<journal id>/<sequence>`: what JetStream recognises a repeat by. */
  id: string
  subject: string
  headers: [name: string, value: string][]
  data: Uint8Array
}

/** Where an event lies in both worlds. */
export interface Place {
  sequence: Sequence
  /** The message's sequence within the stream. */
  position: number
}

export interface Origin {
  node: string
  /** The journal's id. */
  journal: string
}

export const messageIdHeader = 'Nats-Msg-Id'
/** Everything up to this place was in the stream when the message left: where a restart has to look for gaps. */
export const settledHeader = 'purser-settled'

/** The broker counts the protocol's own framing of headers as payload. */
const framingBytes = 64
const headerTextMax = 512

/**
 * The message of a record. `bytesMax` is what the broker takes, headers included: data beyond it is replaced by a
 * note of its size, so that one huge event cannot hold up all that come after it.
 * Source: CloudEvents' NATS protocol binding, "Binary Content Mode".
 */
export function message(
  record: JournalRecord,
  publication: Publication,
  origin: Origin,
  settled: Place,
  bytesMax: number,
): Message {
  const id = messageId(origin.journal, record.sequence)
  const headers: Message['headers'] = [
    ['ce-specversion', '1.0'],
    ['ce-id', id],
    ['ce-source', headerText(`/purser/${encodeToken(origin.node)}`)],
    ['ce-type', headerText(publication.type)],
    ['ce-time', rfc3339Nano(record.timeUnixNano)],
    ['ce-datacontenttype', publication.contentType],
    ['content-type', publication.contentType],
    ['purser-sequence', record.sequence.toString()],
    ['purser-stream', headerText(record.stream)],
    [settledHeader, `${settled.sequence}/${settled.position}`],
  ]
  // CloudEvents: an optional attribute that is there must not be empty.
  if (publication.id !== '') headers.push(['ce-subject', headerText(publication.id)])
  if (record.correlation !== '') headers.push(['purser-correlation', headerText(record.correlation)])

  let data = publication.data
  const room = bytesMax - headersBytes(headers, id)
  if (data.length > room) {
    headers.push(['purser-omitted-bytes', String(data.length)])
    data = Buffer.from(JSON.stringify({ omitted: { bytes: data.length, sequence: record.sequence.toString() } }))
  }
  const { topic } = publication
  const to = subject({ node: origin.node, namespace: record.namespace, topic, id: publication.id })
  return { sequence: record.sequence, id, subject: to, headers, data }
}

export const messageId = (journal: string, sequence: Sequence): string => `${journal}/${sequence}`

/** The sequence in a message id, if the id is one of this journal's. */
export function sequenceOf(id: string, journal: string): Sequence | undefined {
  if (!id.startsWith(`${journal}/`)) return undefined
  const digits = id.slice(journal.length + 1)
  return /^[1-9]\d{0,19}$/.test(digits) ? BigInt(digits) : undefined
}

export function parsePlace(value: string): Place | undefined {
  const match = /^(\d{1,20})\/(\d{1,15})$/.exec(value)
  return match?.[1] && match[2] ? { sequence: BigInt(match[1]), position: Number(match[2]) } : undefined
}

export function rfc3339Nano(timeUnixNano: bigint): string {
  const whole = new Date(Number(timeUnixNano / 1_000_000n)).toISOString().slice(0, 19)
  const fraction = (timeUnixNano % 1_000_000_000n).toString().padStart(9, '0').replace(/0+$/, '')
  return fraction === '' ? `${whole}Z` : `${whole}.${fraction}Z`
}

/** A header's value as the binding wants it: what is not printable ASCII, and space, `"` and `%`, percent-encoded. */
export function headerText(text: string): string {
  const short = text.length <= headerTextMax ? text : `${text.slice(0, headerTextMax)}…`
  return short.replace(/[^\x21\x23\x24\x26-\x7e]/gu, character =>
    Buffer.from(character).reduce(
      (encoded, byte) => `${encoded}%${byte.toString(16).toUpperCase().padStart(2, '0')}`,
      '',
    ),
  )
}

function headersBytes(headers: Message['headers'], id: string): number {
  let bytes = framingBytes + 2 * (messageIdHeader.length + id.length) + 64
  for (const [name, value] of headers) bytes += name.length + value.length + 4
  return bytes
}
