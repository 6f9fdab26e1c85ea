// Bundles: what a shim finds on disk about one container, from before it starts until after it is gone.

import {
  chmodSync,
  chownSync,
  type Dirent,
  mkdirSync,
  readdirSync,
  renameSync,
  rmdirSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { invalidArgument } from '../kit/errors.js'
import { failpoint } from '../kit/failpoint.js'
import { mkfifo } from '../kit/linux.js'
import { mountsBelow, unmountBelow } from './mounts.js'

export interface TaskName {
  namespace: string
  id: string
}

export class Bundles {
  readonly #live: string
  /** Bundles of deleted tasks wait here for their shim to go, so that their place is free at once. */
  readonly #ended: string
  #retired = 0

  constructor(state: string) {
    this.#live = join(state, 'bundles')
    this.#ended = join(state, 'ended')
    // Others may pass through, for a container's root may be another user on the host.
    for (const directory of [state, this.#live]) mkdirSync(directory, { recursive: true, mode: 0o711 })
    mkdirSync(this.#ended, { recursive: true, mode: 0o700 })
  }

  /** Throws INVALID_ARGUMENT for a name that would lead elsewhere. */
  path(name: TaskName): string {
    return join(this.#live, checkSegment(name.namespace, 'namespace'), checkSegment(name.id, 'id'))
  }

  /**
   * Makes the directory with config.json, an empty rootfs and the FIFO `log`, whose reading end has to be open before
   * the shim starts. `rootGid` is the group that root in the container has outside.
   */
  make(name: TaskName, config: Uint8Array | string, rootGid: number): string {
    const bundle = this.path(name)
    mkdirSync(join(bundle, '..'), { recursive: true, mode: 0o711 })
    mkdirSync(bundle, { mode: 0o700 })
    failpoint('bundle.begun')
    try {
      if (rootGid !== 0) {
        chownSync(bundle, -1, rootGid)
        chmodSync(bundle, 0o710)
      }
      mkdirSync(join(bundle, 'rootfs'), { mode: 0o711 })
      writeFileSync(join(bundle, 'config.json'), config, { mode: 0o600 })
      mkfifo(join(bundle, 'log'), 0o600)
      failpoint('bundle.made')
      return bundle
    } catch (error) {
      this.remove(bundle)
      throw error
    }
  }

  /** Frees the bundle's place; answers where it is now. */
  retire(bundle: string): string {
    this.#retired += 1
    const place = join(this.#ended, `${process.pid}-${Date.now()}-${this.#retired}`)
    renameSync(bundle, place)
    failpoint('bundle.retired')
    return place
  }

  /** Undoes what is mounted inside, then deletes it. Never deletes through a mount. */
  remove(bundle: string): void {
    const isOurs = bundle.startsWith(`${this.#live}/`) || bundle.startsWith(`${this.#ended}/`)
    if (!isOurs) throw new Error(`"${bundle}" is no bundle`)
    if (removeFlat(bundle)) return
    unmountBelow(bundle)
    const [mount] = mountsBelow(bundle)
    if (mount !== undefined) throw new Error(`${mount} is still mounted: its bundle is not deleted`)
    rmSync(bundle, { recursive: true, force: true })
  }

  list(): (TaskName & { bundle: string })[] {
    return directoriesIn(this.#live).flatMap(namespace =>
      directoriesIn(join(this.#live, namespace)).map(id => ({
        namespace,
        id,
        bundle: join(this.#live, namespace, id),
      })),
    )
  }

  listEnded(): string[] {
    return directoriesIn(this.#ended).map(name => join(this.#ended, name))
  }
}

/** Namespaces, ids and exec ids become names of files. */
export function checkSegment(segment: string, what: string): string {
  if (/^[^./][^/\0]{0,199}$/.test(segment)) return segment
  throw invalidArgument(`the ${what} "${segment.slice(0, 200)}" cannot be the name of a directory`)
}

/**
 * The usual case, without asking the kernel for all mounts of the machine: only files, and an empty rootfs.
 * Answers false, with what could be deleted gone, when there is more.
 */
function removeFlat(bundle: string): boolean {
  for (const entry of entriesOf(bundle)) {
    const path = join(bundle, entry.name)
    if (!entry.isDirectory()) unlinkSync(path)
    else if (!removeDirectory(path)) return false
  }
  return removeDirectory(bundle)
}

/** Refused by the kernel for a mount point, or when something is inside. */
function removeDirectory(path: string): boolean {
  try {
    rmdirSync(path)
    return true
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'ENOENT') return true
    if (code === 'EBUSY' || code === 'ENOTEMPTY') return false
    throw error
  }
}

function directoriesIn(directory: string): string[] {
  return entriesOf(directory)
    .filter(entry => entry.isDirectory())
    .map(entry => entry.name)
}

function entriesOf(directory: string): Dirent[] {
  try {
    return readdirSync(directory, { withFileTypes: true })
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return []
    throw error
  }
}
