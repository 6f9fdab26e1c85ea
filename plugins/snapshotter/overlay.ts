// Trees as layers of overlayfs: each snapshot holds only what differs from its parent.
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import type { Mount } from '../../proto/gen/containerd/types/mount.js'
import { isDiskFull } from '../kit/errors.js'
import { mount, UmountFlag, umount } from '../kit/linux.js'
import { bind, files, type TreePlace, type TreeStorage } from './tree.js'

const work = (directory: string) => `${directory}/work`

/** Mounts have the shape of containerd's overlayfs snapshotter (snapshots/overlay, `mounts`): clients look into them. */
export class OverlayTrees implements TreeStorage {
  readonly canRebase = true
  readonly #options: readonly string[]

  /** `options` come first in each overlay mount. */
  constructor(options: readonly string[]) {
    this.#options = options
  }

  async create({ directory, ancestors }: TreePlace, kind: 'active' | 'view'): Promise<void> {
    makeDirectory(files(directory), 0o755)
    // The root of a mount is the uppermost layer's: it looks like the parent's until somebody changes it.
    if (ancestors[0] !== undefined) {
      const { mode, uid, gid } = statSync(files(ancestors[0]))
      chownSync(files(directory), uid, gid)
      chmodSync(files(directory), mode & 0o7777)
    }
    if (kind === 'active') makeDirectory(work(directory), 0o711)
  }

  mounts({ directory, ancestors }: TreePlace, kind: 'active' | 'view'): Mount[] {
    const [parent, ...more] = ancestors
    // overlayfs needs two layers.
    if (parent === undefined) return [bind(files(directory), kind === 'view' ? 'ro' : 'rw')]
    if (kind === 'view' && more.length === 0) return [bind(files(parent), 'ro')]
    const upper = kind === 'active' ? [`workdir=${work(directory)}`, `upperdir=${files(directory)}`] : []
    const lower = `lowerdir=${ancestors.map(files).join(':')}`
    return [{ type: 'overlay', source: 'overlay', target: '', options: [...this.#options, ...upper, lower] }]
  }
}

/** Options that every overlay mount below `root` needs. Throws when overlayfs does not work there at all. */
export function probeOverlay(root: string): string[] {
  const options: string[] = []
  // Without it a kernel that defaults to index=on refuses a layer that it knows from another mount.
  if (existsSync('/sys/module/overlay/parameters/index')) options.push('index=off')
  // In a user namespace trusted.overlay.* cannot be written; user.overlay.* can.
  if (inUserNamespace()) options.push('userxattr')
  let place = ''
  try {
    place = mkdtempSync(`${root}/probe-`)
    tryOverlay(place, options)
    return options
  } catch (error) {
    // A full disk says nothing about overlayfs, and what is there has to be removable.
    if (isDiskFull(error)) return options
    const reason = error instanceof Error ? error.message : String(error)
    throw new Error(
      `overlayfs does not work on ${root} (${reason}): put the root on ext4, xfs or btrfs, or use the snapshotter "native"`,
      { cause: error },
    )
  } finally {
    if (place !== '') rmSync(place, { recursive: true, force: true })
  }
}

/** Two lower layers, a write and a removal: what containers do. */
function tryOverlay(place: string, options: string[]): void {
  for (const name of ['lower', 'lower2', 'upper', 'work', 'merged']) mkdirSync(`${place}/${name}`)
  writeFileSync(`${place}/lower/file`, '')
  const layers = `lowerdir=${place}/lower:${place}/lower2,upperdir=${place}/upper,workdir=${place}/work`
  mount('overlay', `${place}/merged`, 'overlay', 0, [...options, layers].join(','))
  try {
    writeFileSync(`${place}/merged/written`, '')
    rmSync(`${place}/merged/file`)
    if (!existsSync(`${place}/upper/written`)) throw new Error('a write does not reach the upper layer')
    if (existsSync(`${place}/merged/file`)) throw new Error('a removed file stays')
  } finally {
    umount(`${place}/merged`, UmountFlag.detach)
  }
}

function inUserNamespace(): boolean {
  const [inside, outside, size] = readFileSync('/proc/self/uid_map', 'utf8').trim().split(/\s+/)
  return !(inside === '0' && outside === '0' && size === '4294967295')
}

/** Whatever the umask. */
function makeDirectory(path: string, mode: number): void {
  mkdirSync(path)
  chmodSync(path, mode)
}
