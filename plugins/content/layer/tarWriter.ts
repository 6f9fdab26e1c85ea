// Encodes entries as tar headers: plain ustar, and a pax header before it only for what ustar cannot say.
import { toPath } from './names.js'
import type { EntryType, TarEntry } from './tarHeader.js'

const BLOCK = 512

/** Two empty blocks. */
export const endMarker = Buffer.alloc(2 * BLOCK)

/** What fills up the last block of `size` bytes. */
export function padding(size: number): Buffer {
  return Buffer.alloc((BLOCK - (size % BLOCK)) % BLOCK)
}

/** Names are one character a byte. Times are cut to seconds, as containerd does: a pax header for each file otherwise. */
export function encodeEntry(entry: TarEntry): Buffer {
  const mtime = entry.mtimeNs / 1_000_000_000n
  const { prefix, name } = splitName(entry.name)
  const records: [string, Buffer][] = []
  const say = (key: string, value: string) => records.push([key, Buffer.from(value, 'latin1')])
  if (name === undefined || !isAscii(entry.name)) say('path', entry.name)
  if (entry.linkName.length > 100 || !isAscii(entry.linkName)) say('linkpath', entry.linkName)
  if (entry.size > octalMax(12)) say('size', `${entry.size}`)
  if (entry.uid > octalMax(8)) say('uid', `${entry.uid}`)
  if (entry.gid > octalMax(8)) say('gid', `${entry.gid}`)
  if (mtime < 0n || mtime > BigInt(octalMax(12))) say('mtime', `${mtime}`)
  for (const [key, value] of entry.xattrs) records.push([`SCHILY.xattr.${key}`, value])
  const block = encodeBlock(entry, name ?? entry.name.slice(-100), prefix ?? '', mtime)
  return records.length === 0 ? block : Buffer.concat([encodePax(entry, records), block])
}

function encodeBlock(entry: TarEntry, name: string, prefix: string, mtime: bigint): Buffer {
  const block = Buffer.alloc(BLOCK)
  block.write(name, 0, 100, 'latin1')
  writeOctal(block, 100, 8, entry.mode)
  writeOctal(block, 108, 8, entry.uid)
  writeOctal(block, 116, 8, entry.gid)
  writeOctal(block, 124, 12, entry.size)
  writeOctal(block, 136, 12, mtime < 0n ? 0 : Number(mtime))
  block.write(flags[entry.type], 156, 'latin1')
  block.write(entry.linkName, 157, 100, 'latin1')
  block.write('ustar\x0000', 257, 'latin1')
  writeOctal(block, 329, 8, entry.major)
  writeOctal(block, 337, 8, entry.minor)
  block.write(prefix, 345, 155, 'latin1')
  seal(block)
  return block
}

/** In a fixed order, so that the same tree always makes the same layer. */
function encodePax(entry: TarEntry, records: [string, Buffer][]): Buffer {
  records.sort(([a], [b]) => (a < b ? -1 : 1))
  const data = Buffer.concat(records.map(([key, value]) => encodeRecord(key, value)))
  const base = entry.name.replace(/\/$/, '').slice(-80).replaceAll('/', '_')
  const block = Buffer.alloc(BLOCK)
  block.write(`PaxHeaders.0/${base}`, 0, 100, 'latin1')
  writeOctal(block, 100, 8, 0o644)
  for (const offset of [108, 116]) writeOctal(block, offset, 8, 0)
  writeOctal(block, 124, 12, data.length)
  writeOctal(block, 136, 12, 0)
  block.write('x', 156, 'latin1')
  block.write('ustar\x0000', 257, 'latin1')
  seal(block)
  return Buffer.concat([block, data, padding(data.length)])
}

/** "length key=value\n", where the length counts its own digits. */
function encodeRecord(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`, 'latin1'), value, Buffer.from('\n')])
  let length = rest.length
  while (`${length}`.length + rest.length !== length) length = `${length}`.length + rest.length
  return Buffer.concat([Buffer.from(`${length}`), rest])
}

/** At a slash, so that both parts fit; the name is undefined if they cannot. */
function splitName(path: string): { prefix?: string; name?: string } {
  if (path.length <= 100) return { name: path }
  const slash = path.lastIndexOf('/', 155)
  const name = path.slice(slash + 1)
  return slash > 0 && name.length > 0 && name.length <= 100 ? { prefix: path.slice(0, slash), name } : {}
}

/** Digits, and a NUL behind them. */
function writeOctal(block: Buffer, offset: number, length: number, value: number): void {
  const digits = value > octalMax(length) ? 0 : value // said by a pax record instead
  block.write(digits.toString(8).padStart(length - 1, '0'), offset, 'latin1')
}

const octalMax = (length: number) => 8 ** (length - 1) - 1

function seal(block: Buffer): void {
  block.write('        ', 148, 'latin1')
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
}

const isAscii = (name: string) => typeof toPath(name) === 'string'

const flags: Record<EntryType, string> = {
  file: '0',
  link: '1',
  symlink: '2',
  character: '3',
  block: '4',
  directory: '5',
  fifo: '6',
}
