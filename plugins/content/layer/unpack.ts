// Makes the entries of a layer below a root, each as the tar has it, whatever stood there before.
import { closeSync, constants, ftruncateSync, linkSync, mkdirSync, openSync, symlinkSync, writeSync } from 'node:fs'
import { FileType, makeDevice, mknod } from '../../kit/linux.js'
import { setAttributesAt, setAttributeTimes, setOpenAttributes, setOpenTimes } from './attributes.js'
import { exhausted, invalid, LayerError, shown, systemFailure } from './errors.js'
import type { LayerLimits } from './limits.js'
import { at, partsOf, splitTarget, toPath } from './names.js'
import { lstatAt, removeTree, withDirectory } from './remove.js'
import { type Directory, Root } from './root.js'
import type { TarEntry } from './tarHeader.js'
import type { TarSink } from './tarReader.js'
import { Touched } from './touched.js'
import { isWhiteout, type LayerTarget, type Whiteouts, whiteoutsFor } from './whiteouts.js'

export interface UnpackOptions {
  target: LayerTarget
  limits: LayerLimits
  /** Asked at every entry. */
  isCancelled(): boolean
}

interface OpenFile {
  entry: TarEntry
  fd: number
  directory: Directory
  name: string
  /** Where the last byte was written. */
  end: number
}

const warningsMax = 20

export class Unpacker implements TarSink {
  /** What was left out, to be told to whoever runs the machine. */
  readonly warnings: string[] = []
  readonly #options: UnpackOptions
  readonly #root: Root
  readonly #whiteouts: Whiteouts
  readonly #touched = new Touched()
  /** By path: set at the end, because every new entry changes its directory's time. */
  readonly #directoryTimes = new Map<string, Pick<TarEntry, 'mtimeNs' | 'atimeNs'>>()
  #file: OpenFile | undefined
  #made = 0
  #devices = 0

  constructor(options: UnpackOptions) {
    this.#options = options
    this.#root = new Root(options.target.root)
    this.#whiteouts = whiteoutsFor(options.target, this.#touched)
  }

  get rootFd(): number {
    return this.#root.fd
  }

  close(): void {
    if (this.#file) closeSync(this.#file.fd)
    this.#file = undefined
    this.#whiteouts.close()
    this.#root.close()
  }

  entry(entry: TarEntry): void {
    if (this.#options.isCancelled()) throw new LayerError('cancelled', 'the caller cancelled the unpacking')
    this.#explained(entry, () => this.#place(entry))
  }

  data(bytes: Buffer, offset: number): void {
    const file = this.#file
    if (!file) return // of a whiteout, or of the root: nothing to keep
    this.#explained(file.entry, () => {
      for (let done = 0; done < bytes.length; )
        done += writeSync(file.fd, bytes, done, bytes.length - done, offset + done)
    })
    file.end = offset + bytes.length
  }

  end(): void {
    const file = this.#file
    if (!file) return
    const { entry, fd, directory, name, end } = file
    this.#explained(entry, () => {
      const path = at(directory.fd, name)
      if (end < entry.size) ftruncateSync(fd, entry.size) // ends with a hole
      setOpenAttributes(fd, path, entry, this.#warn)
      setOpenTimes(fd, path, entry)
    })
    this.#file = undefined
    closeSync(fd)
  }

  /** After the last entry. */
  finish(): void {
    for (const [path, times] of this.#directoryTimes) {
      this.#root.release()
      const slash = path.lastIndexOf('/') + 1
      const parent = this.#root.existing(path.slice(0, slash))
      const name = path.slice(slash)
      // Replaced by something else meanwhile, if not a directory: that has its own times.
      if (parent && lstatAt(parent.fd, name)?.isDirectory()) setAttributeTimes(at(parent.fd, name), times)
    }
  }

  #place(entry: TarEntry): void {
    const parts = partsOf(entry.name)
    const name = parts.pop()
    // containerd and docker leave the root as it is, too.
    if (name === undefined) return
    this.#root.release()
    const directory = this.#root.directory(parts, (parent, made) => this.#parentMade(parent, made))
    if (isWhiteout(name)) {
      if (this.#whiteouts.apply(directory, name)) this.#root.forget()
      return
    }
    this.#makers[entry.type](entry, directory, name)
    this.#touched.add(directory.path, name)
  }

  readonly #makers: Record<TarEntry['type'], (entry: TarEntry, directory: Directory, name: string) => void> = {
    file: (entry, directory, name) => {
      const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW
      const fd = this.#replacing(directory, name, () => openSync(at(directory.fd, name), flags, 0o600))
      this.#file = { entry, fd, directory, name, end: 0 }
    },
    directory: (entry, directory, name) => {
      const stats = lstatAt(directory.fd, name)
      if (!stats?.isDirectory()) {
        const hidLower = stats?.isCharacterDevice() && stats.rdev === 0
        this.#replacing(directory, name, () => mkdirSync(at(directory.fd, name), 0o700))
        if (hidLower) this.#whiteouts.makeOpaque(directory, name)
      }
      withDirectory(directory.fd, name, fd => setOpenAttributes(fd, at(directory.fd, name), entry, this.#warn))
      const { mtimeNs, atimeNs } = entry
      this.#directoryTimes.set(directory.path + name, { mtimeNs, atimeNs })
    },
    symlink: (entry, directory, name) => {
      if (entry.linkName === '') throw invalid('a symlink without a target')
      this.#replacing(directory, name, () => symlinkSync(toPath(entry.linkName), at(directory.fd, name)))
      setAttributesAt(directory.fd, name, entry, this.#warn)
    },
    link: (entry, directory, name) => {
      const target = splitTarget(entry.linkName)
      this.#replacing(directory, name, () => {
        const from = this.#root.existing(target.directory)
        const stats = from && lstatAt(from.fd, target.base)
        if (!from || !stats) throw invalid(`the hard link target ${shown(entry.linkName)} is not there`)
        if (stats.isDirectory()) throw invalid(`the hard link target ${shown(entry.linkName)} is a directory`)
        linkSync(at(from.fd, target.base), at(directory.fd, name))
      })
      setAttributesAt(directory.fd, name, entry, this.#warn)
    },
    fifo: (entry, directory, name) => this.#makeNode(FileType.fifo, entry, directory, name),
    character: (entry, directory, name) => this.#makeNode(FileType.character, entry, directory, name),
    block: (entry, directory, name) => this.#makeNode(FileType.block, entry, directory, name),
  }

  #makeNode(type: number, entry: TarEntry, directory: Directory, name: string): void {
    const { major, minor } = entry
    // What the kernel has room for; larger numbers would silently name another device.
    if (major < 0 || major > 0xfff || minor < 0 || minor > 0xfffff) throw invalid(`no device ${major}:${minor}`)
    const { devicesMax } = this.#options.limits
    if (++this.#devices > devicesMax) throw exhausted(`the layer has more than ${devicesMax} devices and fifos`)
    this.#replacing(directory, name, () => mknod(at(directory.fd, name), type | 0o600, makeDevice(major, minor)))
    setAttributesAt(directory.fd, name, entry, this.#warn)
  }

  /** Does what fails if the name is taken; frees the name if it is. */
  #replacing<T>(directory: Directory, name: string, make: () => T): T {
    try {
      return make()
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
    }
    removeTree(directory.fd, name)
    this.#root.forget()
    return make()
  }

  #parentMade(parent: Directory, name: string): void {
    if (++this.#made > this.#options.limits.entriesMax)
      throw exhausted(`the layer needs more than ${this.#options.limits.entriesMax} directories`)
    this.#touched.add(parent.path, name)
    const times = this.#whiteouts.parentMade(parent, name)
    if (times) this.#directoryTimes.set(parent.path + name, times)
  }

  readonly #warn = (message: string): void => {
    if (this.warnings.length < warningsMax) this.warnings.push(message)
  }

  #explained(entry: TarEntry, action: () => void): void {
    try {
      action()
    } catch (error) {
      const where = `entry ${shown(entry.name)}`
      if (error instanceof LayerError)
        throw new LayerError(error.reason, `${where}: ${error.message}`, { cause: error })
      throw systemFailure(where, error)
    }
  }
}
