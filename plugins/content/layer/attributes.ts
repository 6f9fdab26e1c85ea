// Owner, mode, times and extended attributes of what is already there, set without following a symlink.
import {
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  futimesSync,
  lchownSync,
  openSync,
} from 'node:fs'
import { getXattr, listXattrs, type Path, SystemCallError, setTimes, setXattr } from '../../kit/linux.js'
import { LayerError, shown } from './errors.js'
import { at } from './names.js'
import { O_PATH } from './root.js'
import type { TarEntry } from './tarHeader.js'

export type Attributes = Pick<TarEntry, 'name' | 'uid' | 'gid' | 'mode' | 'mtimeNs' | 'atimeNs' | 'xattrs'>

/** Of an open file or directory; for a directory the times have to wait until nothing more is put into it. */
export function setOpenAttributes(fd: number, path: Path, attributes: Attributes, warn: Warn): void {
  fchownSync(fd, attributes.uid, attributes.gid) // takes setuid bits and capabilities away, so it comes first
  setXattrs(path, attributes, true, warn)
  fchmodSync(fd, attributes.mode)
}

/** Of what is not opened: a device or fifo (that could block), a symlink, the new name of a file. */
export function setAttributesAt(directory: number, name: string, attributes: Attributes, warn: Warn): void {
  const path = at(directory, name)
  const fd = openSync(path, O_PATH | constants.O_NOFOLLOW)
  try {
    const stats = fstatSync(fd)
    if (stats.uid !== attributes.uid || stats.gid !== attributes.gid) lchownSync(path, attributes.uid, attributes.gid) // for a hard link usually nothing to do: it would drop capabilities
    setXattrs(path, attributes, stats.isFile() || stats.isDirectory(), warn)
    // chmod has no form that leaves symlinks alone, so it goes through the descriptor of what was just examined.
    if (!stats.isSymbolicLink()) chmodSync(`/proc/self/fd/${fd}`, attributes.mode)
  } finally {
    closeSync(fd)
  }
  setAttributeTimes(path, attributes)
}

/** Out of range is 1970 and the access is not before the change, as in containerd. */
export function setAttributeTimes(path: Path, times: Pick<Attributes, 'mtimeNs' | 'atimeNs'>): void {
  const { accessNs, modifyNs } = bounded(times)
  setTimes(path, accessNs, modifyNs)
}

/** The same for an open file. Most layers have whole seconds, which Node's own call sets exactly and much faster. */
export function setOpenTimes(fd: number, path: Path, times: Pick<Attributes, 'mtimeNs' | 'atimeNs'>): void {
  const { accessNs, modifyNs } = bounded(times)
  if (accessNs % second !== 0n || modifyNs % second !== 0n) setTimes(path, accessNs, modifyNs)
  else futimesSync(fd, Number(accessNs / second), Number(modifyNs / second))
}

const second = 1_000_000_000n
const timeMaxNs = 2n ** 63n - 1n

function bounded({ mtimeNs, atimeNs }: Pick<Attributes, 'mtimeNs' | 'atimeNs'>) {
  const inRange = (ns: bigint) => (ns < 0n || ns > timeMaxNs ? 0n : ns)
  return { accessNs: inRange(atimeNs > mtimeNs ? atimeNs : mtimeNs), modifyNs: inRange(mtimeNs) }
}

export type Warn = (message: string) => void

function setXattrs(path: Path, { name, xattrs }: Attributes, isFileOrDirectory: boolean, warn: Warn): void {
  for (const [key, value] of xattrs) {
    // A layer must not steer the overlay that its files are going to be part of.
    const isOverlays = key.startsWith('trusted.') || key.startsWith('user.overlay.')
    const isImpossible = key.startsWith('user.') && !isFileOrDirectory
    if (isOverlays || isImpossible) warn(`${shown(name)}: attribute ${key} ignored`)
    else setOneXattr(path, name, key, value, warn)
  }
}

function setOneXattr(path: Path, name: string, key: string, value: Buffer, warn: Warn): void {
  try {
    setXattr(path, key, value)
  } catch (error) {
    if (!(error instanceof SystemCallError)) throw error
    if (error.code === 'EOPNOTSUPP' || error.code === 'ENOTSUP') warn(`${shown(name)}: attribute ${key} not supported`)
    else throw new LayerError('failed', `attribute ${key}: ${error.code}`, { cause: error })
  }
}

/** What a directory in a lower layer looks like, for one that is made above it. */
export function copyAttributes(from: number, parent: number, name: string): Pick<Attributes, 'mtimeNs' | 'atimeNs'> {
  const stats = fstatSync(from, { bigint: true })
  const source = `/proc/self/fd/${from}/.`
  const xattrs = new Map<string, Buffer>()
  for (const key of listXattrs(source)) xattrs.set(key, getXattr(source, key) ?? Buffer.alloc(0))
  const attributes = {
    name,
    uid: Number(stats.uid),
    gid: Number(stats.gid),
    mode: Number(stats.mode) & 0o7777,
    mtimeNs: stats.mtimeNs,
    atimeNs: stats.atimeNs,
    xattrs,
  }
  setAttributesAt(parent, name, attributes, () => {})
  return attributes
}
