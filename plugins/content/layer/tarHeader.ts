// One header block of a tar, with what extended headers said before it, as an entry.
//
// What is ambiguous is read as Go's archive/tar reads it (types without data have none, global pax headers change
// nothing), because that is what containerd and the registries' scanners see in the same bytes.
import { invalid, shown } from './errors.js'
import { bounds } from './limits.js'
import type { PaxRecords } from './pax.js'
import { decimal, nanoseconds, number, text } from './tarNumbers.js'

export type EntryType = 'file' | 'link' | 'symlink' | 'character' | 'block' | 'directory' | 'fifo'

/** Names are one character a byte, and as the tar has them: nothing is cleaned yet. */
export interface TarEntry {
  name: string
  type: EntryType
  linkName: string
  /** Permission bits, with setuid, setgid and sticky. */
  mode: number
  uid: number
  gid: number
  /** Of a file, with its holes. */
  size: number
  /** Nanoseconds since 1970. */
  mtimeNs: bigint
  atimeNs: bigint
  major: number
  minor: number
  xattrs: Map<string, Buffer>
}

/** What extended headers told about the entry that follows them. */
export interface Extensions {
  pax?: PaxRecords
  longName?: string
  longLink?: string
}

/** How the stored bytes of a file tell where they belong. */
export type SparseFormat = 'none' | 'old' | 'records' | 'stored'

export interface Header {
  entry: TarEntry
  /** Bytes that follow in the tar. */
  stored: number
  sparse: SparseFormat
}

export function decodeHeader(block: Buffer, flag: string, size: number, extensions: Extensions): Header {
  const { pax } = extensions
  const entry = decodeEntry(block, flag, extensions)
  if (entry.type !== 'file') return { entry, stored: 0, sparse: 'none' }
  const stored = integer(pax, 'size') ?? size
  if (flag === 'S') return { entry: { ...entry, size: number(block, 483, 12, 'size') }, stored, sparse: 'old' }
  const realSize = integer(pax, 'GNU.sparse.realsize') ?? integer(pax, 'GNU.sparse.size')
  if (realSize === undefined) return { entry: { ...entry, size: stored }, stored, sparse: 'none' }
  const name = pax?.values.get('GNU.sparse.name') ?? entry.name
  return { entry: { ...entry, name, size: realSize }, stored, sparse: sparseFormat(pax, name) }
}

function sparseFormat(pax: PaxRecords | undefined, name: string): SparseFormat {
  const version = `${pax?.values.get('GNU.sparse.major') ?? 0}.${pax?.values.get('GNU.sparse.minor') ?? 0}`
  if (version === '1.0') return 'stored'
  if (version === '0.0' || version === '0.1') return 'records'
  throw invalid(`entry ${shown(name)} has the unknown sparse format ${JSON.stringify(version.slice(0, 40))}`)
}

function decodeEntry(block: Buffer, flag: string, extensions: Extensions): TarEntry {
  const { pax } = extensions
  const name = nameOf(block, extensions)
  const type = flag === '\0' && name.endsWith('/') ? 'directory' : entryTypes[flag]
  if (!type) throw invalid(`entry ${shown(name)} has the unknown type ${JSON.stringify(flag)}`)
  const isDevice = type === 'character' || type === 'block'
  const mtimeNs = time(pax, 'mtime') ?? BigInt(number(block, 136, 12, 'mtime')) * 1_000_000_000n
  return {
    name,
    type,
    linkName: bounded(extensions.longLink ?? pax?.values.get('linkpath') ?? text(block, 157, 100)),
    mode: number(block, 100, 8, 'mode') & 0o7777,
    uid: owner(integer(pax, 'uid') ?? number(block, 108, 8, 'uid'), name),
    gid: owner(integer(pax, 'gid') ?? number(block, 116, 8, 'gid'), name),
    size: 0,
    mtimeNs,
    atimeNs: time(pax, 'atime') ?? mtimeNs,
    major: isDevice ? number(block, 329, 8, 'device number') : 0,
    minor: isDevice ? number(block, 337, 8, 'device number') : 0,
    xattrs: pax?.xattrs ?? noXattrs,
  }
}

function nameOf(block: Buffer, { longName, pax }: Extensions): string {
  const prefix = block.toString('latin1', 257, 263) === 'ustar\0' ? text(block, 345, 155) : ''
  const short = text(block, 0, 100)
  return bounded(longName ?? pax?.values.get('path') ?? (prefix ? `${prefix}/${short}` : short))
}

function bounded(name: string): string {
  if (name.length <= bounds.nameBytes) return name
  throw invalid(`entry ${shown(name)} has a name of ${name.length} bytes, at most ${bounds.nameBytes}`)
}

function integer(pax: PaxRecords | undefined, key: string): number | undefined {
  const digits = pax?.values.get(key)
  return digits === undefined ? undefined : decimal(digits, key)
}

function time(pax: PaxRecords | undefined, key: string): bigint | undefined {
  const digits = pax?.values.get(key)
  return digits === undefined ? undefined : nanoseconds(digits, key)
}

/** The last id, 2³²-1, would tell chown to leave the owner as it is. */
function owner(id: number, name: string): number {
  if (id >= 0 && id < 0xffff_ffff) return id
  throw invalid(`entry ${shown(name)} belongs to ${id}, which is no user or group`)
}

const noXattrs: Map<string, Buffer> = new Map()

const entryTypes: Record<string, EntryType> = {
  '0': 'file',
  '\0': 'file',
  '7': 'file',
  S: 'file',
  '1': 'link',
  '2': 'symlink',
  '3': 'character',
  '4': 'block',
  '5': 'directory',
  '6': 'fifo',
}
