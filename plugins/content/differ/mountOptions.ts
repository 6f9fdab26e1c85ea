// Mount options as containerd's mounts carry them, as mount(2) wants them. Source: mount(8), "FILESYSTEM-INDEPENDENT".
import { failedPrecondition } from '../../kit/errors.js'
import { MountFlag, mount } from '../../kit/linux.js'

/** As in containerd.types.Mount. */
export interface MountSpec {
  type: string
  source: string
  /** Below the mount point; usually empty. */
  target: string
  options: string[]
}

const set: Record<string, number> = {
  ro: MountFlag.readOnly,
  nosuid: MountFlag.noSuid,
  nodev: MountFlag.noDev,
  noexec: MountFlag.noExec,
  noatime: MountFlag.noAtime,
  bind: MountFlag.bind,
  rbind: MountFlag.bind | MountFlag.recursive,
}

const clear: Record<string, number> = {
  rw: MountFlag.readOnly,
  suid: MountFlag.noSuid,
  dev: MountFlag.noDev,
  exec: MountFlag.noExec,
  atime: MountFlag.noAtime,
}

/** Everything that is no flag belongs to the file system. */
export function parseOptions(options: string[]): { flags: number; data: string } {
  let flags = 0
  const data: string[] = []
  for (const option of options) {
    if (option === 'loop') throw failedPrecondition('mounts of image files need a mount manager: option loop')
    const isFlag = Object.hasOwn(set, option) || Object.hasOwn(clear, option)
    flags |= set[option] ?? 0
    flags &= ~(clear[option] ?? 0)
    if (!isFlag && option !== 'defaults') data.push(option)
  }
  return { flags, data: data.join(',') }
}

export function optionValue(options: string[], key: string): string | undefined {
  return options.findLast(option => option.startsWith(`${key}=`))?.slice(key.length + 1)
}

export function mountAt(spec: MountSpec, target: string): void {
  const { flags, data } = parseOptions(spec.options)
  mount(spec.source, target, spec.type, flags, data)
  // A bind takes no other flag at first.
  if (flags & MountFlag.bind && flags & MountFlag.readOnly) mount('', target, '', flags | MountFlag.remount, '')
}
