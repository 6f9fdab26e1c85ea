// Turns changes of a tree into the bytes of a tar. Source: OCI image spec, layer.md, "Creating".
import { type BigIntStats, closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'
import { openat2, Resolve } from '../../kit/linux.js'
import { type Change, layerXattrs, linkOf, type Node, openFile } from './changes.js'
import { LayerError, shown } from './errors.js'
import { toPath } from './names.js'
import { O_CLOEXEC, O_PATH } from './root.js'
import type { EntryType, TarEntry } from './tarHeader.js'
import { encodeEntry, endMarker, padding } from './tarWriter.js'

const dataChunk = 1 << 18
const warningsMax = 20

export class Packer {
  /** What could not be part of the layer. */
  readonly warnings: string[] = []
  readonly #root: number
  readonly #epochNs: bigint | undefined
  readonly #isCancelled: () => boolean
  /** First name in the layer, by inode: the others become links to it. */
  readonly #firstNames = new Map<string, string>()
  /** Unchanged names of inodes that may turn out to have changed under another name. */
  readonly #sameNames = new Map<string, string[]>()
  readonly #directories = new Set<string>()

  constructor(root: string, epochNs: bigint | undefined, isCancelled: () => boolean) {
    this.#root = openSync(root, O_PATH | constants.O_DIRECTORY)
    this.#epochNs = epochNs
    this.#isCancelled = isCancelled
  }

  close(): void {
    closeSync(this.#root)
  }

  /** In chunks that are worth passing on. */
  *tar(changes: Iterable<Change>): Generator<Buffer> {
    let pieces: Buffer[] = []
    let size = 0
    for (const piece of this.#pieces(changes)) {
      if (this.#isCancelled()) throw new LayerError('cancelled', 'the caller cancelled the diff')
      pieces.push(piece)
      size += piece.length
      if (size < dataChunk) continue
      yield Buffer.concat(pieces)
      pieces = []
      size = 0
    }
    yield Buffer.concat([...pieces, endMarker])
  }

  *#pieces(changes: Iterable<Change>): Generator<Buffer> {
    for (const change of changes) {
      if (/(^|\/)\.wh\./.test(change.path)) this.#warn(`${shown(change.path)} looks like a whiteout: left out`)
      else if (change.kind === 'put') yield* this.#put(change.path, change.node)
      else if (change.kind === 'same') yield* this.#same(change.path, change.node)
      else {
        yield* this.#parents(change.path)
        const slash = change.path.lastIndexOf('/') + 1
        const whiteout =
          change.kind === 'opaque'
            ? `${change.path}/.wh..wh..opq`
            : `${change.path.slice(0, slash)}.wh.${change.path.slice(slash)}`
        yield encodeEntry({ ...emptyEntry, name: whiteout })
      }
    }
  }

  *#put(path: string, node: Node): Generator<Buffer> {
    const type = typeOf(node.stats)
    if (!type) return // a socket: it means nothing in another place
    yield* this.#parents(path)
    const inode = inodeOf(node.stats)
    const first = inode && this.#firstNames.get(inode)
    if (first !== undefined) {
      yield this.#link(path, node, first)
      return
    }
    if (type === 'directory') this.#directories.add(path)
    const linkName = type === 'symlink' ? linkOf(node) : ''
    if (type === 'file') yield* this.#file(path, node)
    else yield encodeEntry(this.#entry(path, node.stats, node.xattrs, type, linkName))
    if (!inode) return
    this.#firstNames.set(inode, path)
    for (const same of this.#sameNames.get(inode) ?? []) {
      yield* this.#parents(same)
      yield this.#link(same, node, path)
    }
  }

  *#same(path: string, node: Node): Generator<Buffer> {
    const inode = inodeOf(node.stats)
    if (!inode) return
    const first = this.#firstNames.get(inode)
    if (first !== undefined) {
      yield* this.#parents(path)
      yield this.#link(path, node, first)
      return
    }
    const names = this.#sameNames.get(inode)
    if (names) names.push(path)
    else this.#sameNames.set(inode, [path])
  }

  #link(path: string, { stats, xattrs }: Node, target: string): Buffer {
    return encodeEntry(this.#entry(path, stats, xattrs, 'link', target))
  }

  *#file(path: string, node: Node): Generator<Buffer> {
    const fd = openFile(node)
    try {
      const stats = fstatSync(fd, { bigint: true })
      if (!stats.isFile()) throw changed(path)
      const entry = this.#entry(path, stats, node.xattrs, 'file', '')
      yield encodeEntry(entry)
      for (let left = entry.size; left > 0; ) {
        const chunk = Buffer.allocUnsafe(Math.min(dataChunk, left))
        const read = readSync(fd, chunk)
        if (read === 0) throw changed(path)
        yield chunk.subarray(0, read)
        left -= read
      }
      yield padding(entry.size)
    } finally {
      closeSync(fd)
    }
  }

  /** Directories that did not change but hold something that did: whoever unpacks needs their owner and mode. */
  *#parents(path: string): Generator<Buffer> {
    for (let end = path.indexOf('/'); end > 0; end = path.indexOf('/', end + 1)) {
      const parent = path.slice(0, end)
      if (this.#directories.has(parent)) continue
      this.#directories.add(parent)
      const fd = openat2(this.#root, toPath(parent), O_PATH | O_CLOEXEC, 0, Resolve.beneath | Resolve.noSymlinks)
      try {
        const xattrs = layerXattrs(`/proc/self/fd/${fd}/.`)
        yield encodeEntry(this.#entry(parent, fstatSync(fd, { bigint: true }), xattrs, 'directory', ''))
      } finally {
        closeSync(fd)
      }
    }
  }

  #entry(path: string, stats: BigIntStats, xattrs: Map<string, Buffer>, type: EntryType, linkName: string): TarEntry {
    const isDevice = type === 'character' || type === 'block'
    const isLate = this.#epochNs !== undefined && stats.mtimeNs > this.#epochNs
    return {
      ...emptyEntry,
      name: type === 'directory' ? `${path}/` : path,
      type,
      linkName,
      mode: Number(stats.mode) & 0o7777,
      uid: Number(stats.uid),
      gid: Number(stats.gid),
      size: type === 'file' ? Number(stats.size) : 0,
      mtimeNs: isLate ? (this.#epochNs ?? 0n) : stats.mtimeNs,
      major: isDevice ? majorOf(stats.rdev) : 0,
      minor: isDevice ? minorOf(stats.rdev) : 0,
      xattrs,
    }
  }

  #warn(message: string): void {
    if (this.warnings.length < warningsMax) this.warnings.push(message)
  }
}

/** Also how a whiteout looks: since containerd 2.0 their time is 1970, which keeps layers reproducible. */
const emptyEntry: TarEntry = {
  name: '',
  type: 'file',
  linkName: '',
  mode: 0,
  uid: 0,
  gid: 0,
  size: 0,
  mtimeNs: 0n,
  atimeNs: 0n,
  major: 0,
  minor: 0,
  xattrs: new Map(),
}

function typeOf(stats: BigIntStats): EntryType | undefined {
  if (stats.isFile()) return 'file'
  if (stats.isDirectory()) return 'directory'
  if (stats.isSymbolicLink()) return 'symlink'
  if (stats.isCharacterDevice()) return 'character'
  if (stats.isBlockDevice()) return 'block'
  return stats.isFIFO() ? 'fifo' : undefined
}

/** Undefined for what has one name only. */
function inodeOf(stats: BigIntStats): string | undefined {
  return stats.nlink > 1n && !stats.isDirectory() ? `${stats.dev}:${stats.ino}` : undefined
}

// The kernel's dev_t in its long form, see makedev(3).
const majorOf = (device: bigint) => Number(((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn))
const minorOf = (device: bigint) => Number((device & 0xffn) | ((device >> 12n) & ~0xffn))

function changed(path: string): LayerError {
  return new LayerError(
    'failed',
    `${shown(path)} changed while it was read: pause or stop the container, then try again`,
  )
}
