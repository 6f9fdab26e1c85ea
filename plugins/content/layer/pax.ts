// Extended headers of pax: "length key=value" records, byte exact. Source: POSIX pax, "Extended Header".
import { invalid } from './errors.js'
import { bounds } from './limits.js'

export interface PaxRecords {
  /** Last value of each key; an empty one means that the key is not set. One character a byte. */
  values: Map<string, string>
  /** Extended attributes: values are any bytes. */
  xattrs: Map<string, Buffer>
  /** Offsets and lengths of GNU sparse 0.0, which repeats its keys. */
  sparse: string[]
}

/**
 * The values stay bytes all the way: capabilities are no text, and decoding them as UTF-8 would lose bits
 * (0x80 is CAP_SETUID), as would names in older encodings.
 */
export function parsePax(data: Buffer): PaxRecords {
  const records: PaxRecords = { values: new Map(), xattrs: new Map(), sparse: [] }
  for (let start = 0; start < data.length; ) {
    const space = data.indexOf(0x20, start)
    const digits = space < 0 || space - start > 10 ? '' : data.toString('latin1', start, space)
    const end = start + (/^\d+$/.test(digits) ? Number(digits) : 0)
    const equals = data.indexOf(0x3d, space)
    if (end <= space || end > data.length || data[end - 1] !== 0x0a || equals < 0 || equals >= end)
      throw invalid('a pax header holds a malformed record')
    add(records, data.toString('latin1', space + 1, equals), data.subarray(equals + 1, end - 1))
    start = end
  }
  return records
}

const schily = 'SCHILY.xattr.'
const libarchive = 'LIBARCHIVE.xattr.'

function add(records: PaxRecords, key: string, value: Buffer): void {
  if (key.startsWith(schily)) addXattr(records, key.slice(schily.length), value)
  else if (key.startsWith(libarchive)) addXattr(records, unescaped(key.slice(libarchive.length)), fromBase64(value))
  else if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') addSparse(records, value)
  else if (value.includes(0)) throw invalid(`pax record ${JSON.stringify(key.slice(0, 100))} holds a NUL`)
  else if (value.length === 0) records.values.delete(key)
  else records.values.set(key, value.toString('latin1'))
}

function addSparse({ sparse }: PaxRecords, value: Buffer): void {
  if (sparse.length >= 2 * bounds.sparseRanges) throw invalid('a sparse file has too many ranges')
  sparse.push(value.toString('latin1'))
}

function addXattr({ xattrs }: PaxRecords, name: string, value: Buffer): void {
  if (name === '' || name.length > bounds.xattrNameBytes || name.includes('\0'))
    throw invalid(`the name of an extended attribute has ${name.length} bytes, at most ${bounds.xattrNameBytes}`)
  if (value.length > bounds.xattrBytes)
    throw invalid(`extended attribute ${JSON.stringify(name)} has ${value.length} bytes, at most ${bounds.xattrBytes}`)
  xattrs.set(name, value)
}

/** %41 for A; the rest stands for itself. */
function unescaped(name: string): string {
  return name.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
}

const fromBase64 = (value: Buffer) => Buffer.from(value.toString('latin1'), 'base64')
