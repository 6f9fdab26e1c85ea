// From the mounts of a snapshot to directories: without mounting where that is possible, else below a temporary one.

import { randomUUID } from 'node:crypto'
import { mkdirSync, readdirSync, rmdirSync } from 'node:fs'
import { isAbsolute, join } from 'node:path'
import { failedPrecondition, invalidArgument, unimplemented } from '../../kit/errors.js'
import { failpoint } from '../../kit/failpoint.js'
import { MountFlag, SystemCallError, UmountFlag, umount } from '../../kit/linux.js'
import type { LayerTarget } from '../layer/whiteouts.js'
import { type MountSpec, mountAt, optionValue, parseOptions } from './mountOptions.js'

const mountsMax = 100
/** What mount(2) takes is one page, with some room for the other options. */
const lowerdirMax = 4000

export class Trees {
  /** Temporary mount points are made in `state`. */
  constructor(private readonly state: string) {}

  /** Takes away what a crash left mounted. */
  open(): void {
    mkdirSync(this.state, { recursive: true, mode: 0o700 })
    for (const name of readdirSync(this.state)) this.#unmount(join(this.state, name))
  }

  /** Where a layer can be unpacked; `use` must be done with it when its promise settles. */
  async withTarget<T>(mounts: MountSpec[], use: (target: LayerTarget) => Promise<T>): Promise<T> {
    const [only] = mounts
    if (only && mounts.length === 1 && !only.target) {
      if (isBind(only)) return use({ root: writable(only, only.source) })
      const upper = only.type === 'overlay' ? overlayOf(only) : undefined
      // Written to directly: the files of other layers must not be copied up, and nothing has to be unmounted.
      if (upper?.upper) {
        const { lowers, opaqueXattr } = upper
        return use({ root: writable(only, upper.upper), overlay: { lowers, opaqueXattr } })
      }
      if (only.type === 'overlay') throw failedPrecondition('the mount has no upperdir: it is read-only')
    }
    return this.withMounted(mounts, root => use({ root }))
  }

  /** The tree that `mounts` show, to be read only; without mounts an empty one. */
  async withTree<T>(mounts: MountSpec[], use: (root: string) => Promise<T>): Promise<T> {
    const layers = layersOf(mounts)
    const [only] = mounts
    if (layers?.length === 1 && layers[0]) return use(layers[0])
    // An upper directory in use must not be mounted a second time as one: as the topmost lower it may.
    if (layers && only) return this.withMounted([readOnlyOverlay(layers, only)], use)
    return this.withMounted(mounts.map(readOnly), use)
  }

  async withMounted<T>(mounts: MountSpec[], use: (root: string) => Promise<T>): Promise<T> {
    if (mounts.length > mountsMax) throw invalidArgument(`${mounts.length} mounts, at most ${mountsMax}`)
    if (mounts.some(({ target }) => target)) throw unimplemented('mounts with a target')
    const root = join(this.state, randomUUID())
    mkdirSync(root, { mode: 0o700 })
    try {
      for (const spec of mounts) mountAt(spec, root)
      failpoint('tree.mounted')
      return await use(root)
    } finally {
      this.#unmount(root)
      failpoint('tree.unmounted')
    }
  }

  /** Several mounts may lie on one another. Detached, so that a reader of files in there cannot keep us. */
  #unmount(root: string): void {
    for (let mounts = 0; mounts < mountsMax && unmounted(root); mounts++);
    rmdirSync(root)
  }
}

/** False when nothing was mounted there. */
function unmounted(path: string): boolean {
  try {
    umount(path, UmountFlag.detach | UmountFlag.noFollow)
    return true
  } catch (error) {
    if (error instanceof SystemCallError && error.code === 'EINVAL') return false
    throw error
  }
}

/** The directories of which one bind or one overlay is made, the topmost first; undefined for anything else. */
export function layersOf(mounts: MountSpec[]): string[] | undefined {
  const [only] = mounts
  if (!only || mounts.length > 1 || only.target) return undefined
  if (isBind(only)) return [absolute(only.source)]
  if (only.type !== 'overlay') return undefined
  const { upper, lowers } = overlayOf(only)
  return upper ? [upper, ...lowers] : lowers
}

function readOnlyOverlay(layers: string[], { options }: MountSpec): MountSpec {
  const lowerdir = layers.map(layer => layer.replace(/[\\:]/g, '\\$&')).join(':')
  const kept = options.filter(option => option === 'userxattr')
  if (Buffer.byteLength(lowerdir) > lowerdirMax)
    throw failedPrecondition(`${layers.length} layers are too many to be mounted for a diff: name the parent's mounts`)
  return { type: 'overlay', source: 'overlay', target: '', options: ['ro', ...kept, `lowerdir=${lowerdir}`] }
}

function readOnly(spec: MountSpec): MountSpec {
  return { ...spec, options: [...spec.options.filter(option => option !== 'rw'), 'ro'] }
}

interface Overlay {
  upper: string | undefined
  /** The nearest first. */
  lowers: string[]
  opaqueXattr: 'trusted.overlay.opaque' | 'user.overlay.opaque'
}

function overlayOf({ options }: MountSpec): Overlay {
  const upper = optionValue(options, 'upperdir')
  return {
    upper: upper && absolute(upper),
    lowers: splitLowers(optionValue(options, 'lowerdir') ?? '').map(absolute),
    opaqueXattr: options.includes('userxattr') ? 'user.overlay.opaque' : 'trusted.overlay.opaque',
  }
}

const isBind = ({ type, options }: MountSpec) =>
  type === 'bind' || options.includes('bind') || options.includes('rbind')

/** A backslash makes the next character part of the name. */
function splitLowers(text: string): string[] {
  const lowers = text.match(/(?:\\.|[^:\\])+/gs) ?? []
  return lowers.map(lower => lower.replace(/\\(.)/gs, '$1'))
}

function writable({ options }: MountSpec, path: string): string {
  if (parseOptions(options).flags & MountFlag.readOnly) throw failedPrecondition('the mount is read-only')
  return absolute(path)
}

function absolute(path: string): string {
  if (isAbsolute(path)) return path
  throw invalidArgument(`mount of ${JSON.stringify(path)}: not an absolute path`)
}
