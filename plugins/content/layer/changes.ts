// What differs between two trees, or what the upper directory of an overlay holds, in a fixed order.
import { type BigIntStats, closeSync, constants, lstatSync, openSync, readlinkSync, readSync } from 'node:fs'
import { getXattr, listXattrs, type Path } from '../../kit/linux.js'
import { LayerError, shown } from './errors.js'
import { at } from './names.js'
import { namesIn } from './remove.js'
import { O_PATH } from './root.js'

/** Names are one character a byte; paths are relative to the tree's root, without a slash at either end. */
export type Change =
  | { kind: 'put'; path: string; node: Node }
  /** Only its names matter: if another name of the same inode changed, this one has to be linked to it again. */
  | { kind: 'same'; path: string; node: Node }
  | { kind: 'hide'; path: string }
  /** The directory hides all that lies below it. */
  | { kind: 'opaque'; path: string }

/** Something in an open directory; valid until the next change is asked for. */
export interface Node {
  directory: number
  name: string
  stats: BigIntStats
  xattrs: Map<string, Buffer>
}

/** Between two trees; without `left` everything in `right` is new. */
export function* changesBetween(left: string | undefined, right: string): Generator<Change> {
  const leftFd = left === undefined ? undefined : openDirectory(left)
  try {
    const rightFd = openDirectory(right)
    try {
      yield* compare(leftFd, rightFd, '')
    } finally {
      closeSync(rightFd)
    }
  } finally {
    if (leftFd !== undefined) closeSync(leftFd)
  }
}

function* compare(left: number | undefined, right: number, prefix: string): Generator<Change> {
  const names = new Set([...(left === undefined ? [] : namesIn(left)), ...namesIn(right)])
  for (const name of [...names].sort(byBytes)) {
    const path = prefix + name
    const old = left === undefined ? undefined : nodeAt(left, name)
    const node = nodeAt(right, name)
    if (!node) {
      if (old) yield { kind: 'hide', path }
      continue
    }
    const isSame = old && isUnchanged(old, node)
    yield { kind: isSame ? 'same' : 'put', path, node }
    if (!node.stats.isDirectory()) continue
    yield* within(old?.stats.isDirectory() ? old : undefined, node, (inLeft, inRight) =>
      compare(inLeft, inRight, `${path}/`),
    )
  }
}

function* within(
  old: Node | undefined,
  node: Node,
  walk: (left: number | undefined, right: number) => Generator<Change>,
): Generator<Change> {
  const left = old && openDirectory(at(old.directory, old.name))
  try {
    const right = openDirectory(at(node.directory, node.name))
    try {
      yield* walk(left, right)
    } finally {
      closeSync(right)
    }
  } finally {
    if (left !== undefined) closeSync(left)
  }
}

/** The upper directory of an overlay is the difference already, in overlayfs' own words. */
export function* changesInUpper(upper: string): Generator<Change> {
  const fd = openDirectory(upper)
  try {
    yield* walkUpper(fd, '')
  } finally {
    closeSync(fd)
  }
}

function* walkUpper(directory: number, prefix: string): Generator<Change> {
  for (const name of namesIn(directory).sort(byBytes)) {
    const path = prefix + name
    const node = nodeAt(directory, name)
    if (!node) continue
    const overlay = overlayXattrs(node)
    // Both refer to other layers by overlayfs' rules: only a mount shows what they mean.
    if (overlay.has('redirect') || overlay.has('metacopy'))
      throw new LayerError('unsupported', `${shown(path)} was moved or only its metadata copied by overlayfs`)
    if ((node.stats.isCharacterDevice() && node.stats.rdev === 0n) || overlay.has('whiteout')) {
      yield { kind: 'hide', path }
      continue
    }
    yield { kind: 'put', path, node }
    if (!node.stats.isDirectory()) continue
    if (overlay.get('opaque') === 'y') yield { kind: 'opaque', path }
    yield* within(undefined, node, (_, inUpper) => walkUpper(inUpper, `${path}/`))
  }
}

function overlayXattrs({ directory, name }: Node): Map<string, string> {
  const path = at(directory, name)
  const found = new Map<string, string>()
  for (const key of listXattrs(path)) {
    const match = /^(?:trusted|user)\.overlay\.(\w+)$/.exec(key)
    if (match?.[1]) found.set(match[1], getXattr(path, key)?.toString('latin1') ?? '')
  }
  return found
}

function nodeAt(directory: number, name: string): Node | undefined {
  const path = at(directory, name)
  const stats = lstatSync(path, { bigint: true, throwIfNoEntry: false })
  return stats && { directory, name, stats, xattrs: layerXattrs(path) }
}

/** Those that mean the same on another machine; security labels and overlayfs' notes do not. */
export function layerXattrs(path: Path): Map<string, Buffer> {
  const xattrs = new Map<string, Buffer>()
  for (const key of listXattrs(path).sort()) {
    const isPortable = key === 'security.capability' || key.startsWith('system.posix_acl_') || key.startsWith('user.')
    const value = isPortable && !key.startsWith('user.overlay.') ? getXattr(path, key) : undefined
    if (value) xattrs.set(key, value)
  }
  return xattrs
}

function isUnchanged(old: Node, node: Node): boolean {
  const [a, b] = [old.stats, node.stats]
  if (a.dev === b.dev && a.ino === b.ino) return true
  if (a.mode !== b.mode || a.uid !== b.uid || a.gid !== b.gid || a.rdev !== b.rdev) return false
  if (!haveSameXattrs(old.xattrs, node.xattrs)) return false
  if (b.isSymbolicLink()) return linkOf(old) === linkOf(node)
  if (!b.isFile()) return true
  if (a.size !== b.size) return false
  // Whole seconds were probably cut by a tar, so that equal times prove nothing (containerd decides by content, too).
  const areCut = a.mtimeNs % 1_000_000_000n === 0n && b.mtimeNs % 1_000_000_000n === 0n
  return a.mtimeNs === b.mtimeNs && (!areCut || haveSameBytes(old, node))
}

function haveSameXattrs(a: Map<string, Buffer>, b: Map<string, Buffer>): boolean {
  return a.size === b.size && [...a].every(([key, value]) => b.get(key)?.equals(value))
}

export function linkOf({ directory, name }: Node): string {
  return readlinkSync(at(directory, name), { encoding: 'latin1' })
}

function haveSameBytes(old: Node, node: Node): boolean {
  const [a, b] = [openFile(old), openFile(node)]
  try {
    const [inA, inB] = [Buffer.allocUnsafe(1 << 18), Buffer.allocUnsafe(1 << 18)]
    while (true) {
      const [readA, readB] = [readSync(a, inA), readSync(b, inB)]
      if (readA !== readB || !inA.subarray(0, readA).equals(inB.subarray(0, readB))) return false
      if (readA === 0) return true
    }
  } finally {
    closeSync(a)
    closeSync(b)
  }
}

/** Never blocks and never leads elsewhere, even if the tree changes under us. */
export function openFile({ directory, name }: Node): number {
  return openSync(at(directory, name), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
}

function openDirectory(path: Path): number {
  return openSync(path, O_PATH | constants.O_DIRECTORY | constants.O_NOFOLLOW)
}

const byBytes = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0)
