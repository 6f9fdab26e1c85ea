// A directory tree that nothing written through it can leave, whatever names and symlinks say.
//
// Parents are resolved by openat2 with RESOLVE_IN_ROOT: the kernel itself keeps "..", absolute symlinks and races
// inside. The last name is then used on the directory's descriptor, by calls that follow nothing.
import { closeSync, constants, mkdirSync, openSync, readlinkSync } from 'node:fs'
import { openat2, Resolve, SystemCallError } from '../../kit/linux.js'
import { invalid, LayerError, shown } from './errors.js'
import { bounds } from './limits.js'
import { at, toPath } from './names.js'

export const O_PATH = 0o10000000
export const O_CLOEXEC = 0o2000000

export interface Directory {
  fd: number
  /** Below the root, without symlinks: '' or 'a/b/'. */
  path: string
}

/** Told of each directory that is made on the way to an entry. */
export type OnParentMade = (parent: Directory, name: string) => void

const cachedMax = 32
/** openat2 gives up when anything in the machine is renamed while it resolves "..". */
const racesMax = 1000
/** Each symlink to something that is not there yet costs one. */
const hopsMax = 40

export class Root {
  readonly #fd: number
  /** The root's own place, as /proc shows it. */
  readonly #prefix: string
  /** By the name asked for; the oldest first. */
  readonly #cached = new Map<string, Directory>()
  /** Out of the cache, but maybe still in use for the present entry. */
  readonly #retired: Directory[] = []

  constructor(path: string) {
    this.#fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY)
    const place = readlinkSync(`/proc/self/fd/${this.#fd}`, { encoding: 'latin1' })
    this.#prefix = `${place}/`
  }

  get fd(): number {
    return this.#fd
  }

  close(): void {
    this.forget()
    this.release()
    closeSync(this.#fd)
  }

  /** Closes what is no longer cached: call it when none of the directories given out before is in use. */
  release(): void {
    for (const { fd } of this.#retired.splice(0)) closeSync(fd)
  }

  /** Needed when a directory or a symlink went away: names may lead elsewhere now. */
  forget(): void {
    this.#retired.push(...this.#cached.values())
    this.#cached.clear()
  }

  /** The directory `parts`, made with mode 0755 where it is missing. Open until `release`. */
  directory(parts: string[], onMade: OnParentMade): Directory {
    const name = parts.join('/')
    return this.#recall(name) ?? this.#remember(name, this.#find(name) ?? this.#make(parts, onMade, hopsMax))
  }

  /** The same without making anything: undefined if it is not there. */
  existing(path: string): Directory | undefined {
    const known = this.#recall(path)
    if (known) return known
    const found = this.#find(path)
    return found && this.#remember(path, found)
  }

  #recall(name: string): Directory | undefined {
    const known = this.#cached.get(name)
    if (known) this.#remember(name, known)
    return known
  }

  #remember(name: string, directory: Directory): Directory {
    this.#cached.delete(name)
    this.#cached.set(name, directory)
    for (const [oldest, old] of this.#cached) {
      if (this.#cached.size <= cachedMax) break
      this.#cached.delete(oldest)
      this.#retired.push(old)
    }
    return directory
  }

  #find(path: string): Directory | undefined {
    const flags = O_PATH | O_CLOEXEC | constants.O_DIRECTORY
    const name = toPath(path === '' ? '.' : path)
    for (let races = 0; ; races++) {
      try {
        return this.#located(openat2(this.#fd, name, flags, 0, Resolve.inRoot | Resolve.noMagicLinks))
      } catch (error) {
        const code = error instanceof SystemCallError ? error.code : ''
        if (code === 'ENOENT') return undefined
        if (code !== 'EAGAIN' || races === racesMax) throw error
      }
    }
  }

  /** Where an open directory is; it is closed if that is too deep. */
  #located(fd: number): Directory {
    try {
      const place = readlinkSync(`/proc/self/fd/${fd}`, { encoding: 'latin1' })
      const path = `${place}/` === this.#prefix ? '' : `${place.slice(this.#prefix.length)}/`
      if (path !== '' && !place.startsWith(this.#prefix))
        throw new LayerError('failed', `directory ${shown(place)} was moved away while the layer was unpacked`)
      if (path.split('/').length > bounds.depth) throw tooDeep()
      return { fd, path }
    } catch (error) {
      closeSync(fd)
      if (error instanceof Error && 'code' in error && error.code === 'ENAMETOOLONG') throw tooDeep()
      throw error
    }
  }

  /** Name by name: what is missing is made; a symlink to what is missing has its target made, inside the root. */
  #make(parts: string[], onMade: OnParentMade, hops: number): Directory {
    let directory = this.#find('') ?? unreachable()
    for (const [index, part] of parts.entries()) {
      const path = parts.slice(0, index + 1).join('/')
      const { fd } = directory
      try {
        directory = this.#find(path) ?? this.#makeOne(directory, part, onMade, hops)
      } finally {
        closeSync(fd)
      }
    }
    return directory
  }

  #makeOne(parent: Directory, name: string, onMade: OnParentMade, hops: number): Directory {
    try {
      mkdirSync(at(parent.fd, name), 0o755)
      onMade(parent, name)
      return this.#find(parent.path + name) ?? unreachable()
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
    }
    if (hops === 0) throw invalid(`too many symlinks on the way to ${shown(parent.path + name)}`)
    const target = readlinkSync(at(parent.fd, name), { encoding: 'latin1' })
    const from = target.startsWith('/') ? [] : parent.path.split('/').filter(Boolean)
    const parts = [...from, ...target.split('/').filter(part => part !== '' && part !== '.')]
    return this.#make(parts, onMade, hops - 1)
  }
}

const tooDeep = () => invalid(`directories are nested deeper than ${bounds.depth} levels`)

function unreachable(): never {
  throw new LayerError('failed', 'a directory vanished while the layer was unpacked')
}
