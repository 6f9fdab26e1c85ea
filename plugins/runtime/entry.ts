// One line of a bundle's history, to text and back.
import type { Timestamp } from '../../proto/gen/google/protobuf/timestamp.js'
import type { ProcessIdentity } from '../kit/identity.js'
import type { Json } from '../kit/plugin.js'
import type { HistoryEntry } from './history.js'
import { asObject, asString, type JsonObject } from './json.js'
import type { Stdio } from './stdio.js'

export function printEntry(entry: HistoryEntry): string {
  const line = entry.kind === 'exited' ? { ...entry, at: printTime(entry.at) } : entry
  return `${JSON.stringify(line)}\n`
}

/** Undefined for what is no entry. */
export function parseEntry(line: string): HistoryEntry | undefined {
  const entry = parseLine(line)
  if (!entry) return undefined
  const execId = asString(entry.execId)
  if (entry.kind === 'made') return parseMade(entry)
  if (entry.kind === 'shim') return parseShim(entry)
  if (execId === undefined) return undefined
  if (entry.kind === 'told' || entry.kind === 'removed') return { kind: entry.kind, execId }
  if (entry.kind === 'added') return { kind: 'added', execId, stdio: parseStdio(asObject(entry.stdio)) }
  const { kind, pid, status } = entry
  if (typeof pid !== 'number') return undefined
  if (kind === 'started') return { kind, execId, pid }
  const at = parseTime(asString(entry.at))
  if (kind === 'exited' && typeof status === 'number' && at) return { kind, execId, pid, status, at }
  return undefined
}

/** Seconds and nanoseconds, as precise as they came. */
export const printTime = ({ seconds, nanos }: Timestamp): string => `${seconds}.${String(nanos).padStart(9, '0')}`

function parseTime(text: string | undefined): Timestamp | undefined {
  const [, seconds, nanos] = text?.match(/^(-?\d+)\.(\d{9})$/) ?? []
  return seconds === undefined ? undefined : { seconds: BigInt(seconds), nanos: Number(nanos) }
}

function parseMade(entry: JsonObject): HistoryEntry | undefined {
  const { namespace, id, runtime, binary, group, ownUserNamespace } = entry
  if (typeof namespace !== 'string' || typeof id !== 'string') return undefined
  if (typeof runtime !== 'string' || typeof binary !== 'string' || typeof group !== 'string') return undefined
  const mark = asString(entry.mark) ?? ''
  return { kind: 'made', namespace, id, runtime, binary, group, ownUserNamespace: ownUserNamespace === true, mark }
}

function parseShim(entry: JsonObject): HistoryEntry | undefined {
  const { address, version } = entry
  const process = parseIdentity(asObject(entry.process))
  if (typeof address !== 'string' || typeof version !== 'number' || !process) return undefined
  return { kind: 'shim', address, version, process, mark: asString(entry.mark) ?? '' }
}

function parseIdentity(object: JsonObject | undefined): ProcessIdentity | undefined {
  const { pid, startTime, bootId } = object ?? {}
  if (typeof pid !== 'number' || typeof startTime !== 'string' || typeof bootId !== 'string') return undefined
  return { pid, startTime, bootId }
}

function parseStdio(object: JsonObject | undefined): Stdio {
  const text = (value: Json | undefined) => asString(value) ?? ''
  const { stdin, stdout, stderr, terminal } = object ?? {}
  return { stdin: text(stdin), stdout: text(stdout), stderr: text(stderr), terminal: terminal === true }
}

function parseLine(line: string): JsonObject | undefined {
  try {
    return asObject(JSON.parse(line))
  } catch {
    return undefined
  }
}
