// How a layer hides what is below it: `.wh.name` and `.wh..wh..opq`. Source: OCI image spec, layer.md, "Whiteouts";
// kernel documentation of overlayfs, "whiteouts and opaque directories".
import { closeSync, constants, fstatSync, openSync } from 'node:fs'
import { FileType, mknod, openat2, Resolve, SystemCallError, setXattr } from '../../kit/linux.js'
import { copyAttributes } from './attributes.js'
import { invalid, shown } from './errors.js'
import { at, toPath } from './names.js'
import { lstatAt, removeExcept, removeTree, withDirectory } from './remove.js'
import { type Directory, O_CLOEXEC, O_PATH } from './root.js'
import type { TarEntry } from './tarHeader.js'
import type { Touched } from './touched.js'

/** Where a layer goes: a plain tree, or the upper directory of an overlay that is not mounted. */
export interface LayerTarget {
  root: string
  overlay?: {
    /** Below the root, the nearest first: they lend their attributes to directories that a layer only passes through. */
    lowers: string[]
    opaqueXattr: 'trusted.overlay.opaque' | 'user.overlay.opaque'
  }
}

type Times = Pick<TarEntry, 'mtimeNs' | 'atimeNs'>

export interface Whiteouts {
  /** `name` is a whiteout's. Answers whether a directory may have gone. */
  apply(directory: Directory, name: string): boolean
  /** The directory `name`, just made, hides all that lies below it. */
  makeOpaque(directory: Directory, name: string): void
  /** A directory was made on the way to an entry. Answers the times it should get. */
  parentMade(directory: Directory, name: string): Times | undefined
  close(): void
}

const prefix = '.wh.'
const metaPrefix = '.wh..wh.'
const opaque = '.wh..wh..opq'

export const isWhiteout = (name: string) => name.startsWith(prefix)

export function whiteoutsFor({ overlay }: LayerTarget, touched: Touched): Whiteouts {
  return overlay ? new OverlayWhiteouts(overlay, touched) : new PlainWhiteouts(touched)
}

/** What is hidden is removed. */
class PlainWhiteouts implements Whiteouts {
  constructor(protected readonly touched: Touched) {}

  apply(directory: Directory, name: string): boolean {
    if (name === opaque) this.clear(directory)
    else if (name.startsWith(metaPrefix))
      return false // bookkeeping of AUFS
    else this.hide(directory, hiddenName(name))
    return true
  }

  makeOpaque(_directory: Directory, _name: string): void {}

  parentMade(_directory: Directory, _name: string): Times | undefined {
    return undefined
  }

  close(): void {}

  protected hide(directory: Directory, name: string): void {
    if (!this.touched.has(directory.path + name)) removeTree(directory.fd, name)
    else if (lstatAt(directory.fd, name)?.isDirectory())
      withDirectory(directory.fd, name, fd => this.clear({ fd, path: `${directory.path}${name}/` }))
  }

  protected clear({ fd, path }: Directory): void {
    removeExcept(fd, path, kept => this.touched.has(kept))
  }
}

/** What is hidden lies in other directories: a device 0:0 stands for a missing name, an attribute for a fresh start. */
class OverlayWhiteouts extends PlainWhiteouts {
  readonly #opaqueXattr: string
  readonly #lowers: number[] = []

  constructor({ lowers, opaqueXattr }: NonNullable<LayerTarget['overlay']>, touched: Touched) {
    super(touched)
    this.#opaqueXattr = opaqueXattr
    for (const lower of lowers) this.#lowers.push(openSync(lower, O_PATH | constants.O_DIRECTORY))
  }

  override makeOpaque(directory: Directory, name: string): void {
    setXattr(at(directory.fd, name), this.#opaqueXattr, Buffer.from('y'))
  }

  override parentMade(directory: Directory, name: string): Times | undefined {
    const lower = this.#findLower(directory.path + name)
    if (lower === undefined) return undefined
    try {
      return copyAttributes(lower, directory.fd, name)
    } finally {
      closeSync(lower)
    }
  }

  override close(): void {
    for (const lower of this.#lowers.splice(0)) closeSync(lower)
  }

  protected override hide(directory: Directory, name: string): void {
    super.hide(directory, name)
    const stats = lstatAt(directory.fd, name)
    if (!stats) mknod(at(directory.fd, name), FileType.character)
    else if (stats.isDirectory()) this.makeOpaque(directory, name)
  }

  protected override clear(directory: Directory): void {
    super.clear(directory)
    this.makeOpaque(directory, '.')
  }

  /** The directory of that path that shows through, opened; the first layer that knows the name decides. */
  #findLower(path: string): number | undefined {
    for (const lower of this.#lowers) {
      try {
        const fd = openat2(lower, toPath(path), O_PATH | O_CLOEXEC | constants.O_NOFOLLOW, 0, lowerResolve)
        if (fstatSync(fd).isDirectory()) return fd
        closeSync(fd)
        return undefined
      } catch (error) {
        if (!(error instanceof SystemCallError)) throw error
        if (error.code !== 'ENOENT') return undefined // something that is no directory hides the layers below
      }
    }
    return undefined
  }
}

const lowerResolve = Resolve.beneath | Resolve.noSymlinks | Resolve.noMagicLinks

function hiddenName(name: string): string {
  const hidden = name.slice(prefix.length)
  if (hidden === '' || hidden === '.' || hidden === '..') throw invalid(`${shown(name)} is no whiteout's name`)
  return hidden
}
