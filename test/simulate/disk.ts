// The journal's disk: what was promised survives a power cut, everything else may be lost, in part, or torn.
import { basename, dirname } from 'node:path'
import type { Disk, DiskFile, OpenMode } from '../../services/supervisor/journal/disk.js'
import { Chance } from './random.js'
import type { Party, Time } from './time.js'

/** A system error as Node's fs makes them. */
export function systemError(code: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: simulated`), { code })
}

/** `bytes` is what readers see; `durable` what a power cut leaves, undefined while both are the same. */
class File {
  bytes = Buffer.alloc(0)
  length = 0
  durable: Buffer | undefined

  contents(): Buffer {
    return this.bytes.subarray(0, this.length)
  }

  /** A write that is durable when it ends, also where changes before it are not. */
  putDurably(bytes: Uint8Array, position: number): void {
    this.put(bytes, position)
    if (!this.durable) return
    const size = Math.max(this.durable.length, position + bytes.length)
    this.durable = Buffer.concat([this.durable], size)
    this.durable.set(bytes, position)
  }

  put(bytes: Uint8Array, position: number): void {
    this.resize(Math.max(this.length, position + bytes.length))
    this.bytes.set(bytes, position)
  }

  resize(length: number): void {
    if (length > this.bytes.length) {
      const larger = Buffer.alloc(Math.max(length, 2 * this.bytes.length))
      this.contents().copy(larger)
      this.bytes = larger
    }
    if (length < this.length) this.bytes.fill(0, length, this.length)
    this.length = length
  }

  /** Before a change that is not durable yet. */
  keep(): void {
    this.durable ??= Buffer.from(this.contents())
  }
}

export class SimulatedDisk implements Disk {
  /** The names that readers see, and those that a power cut leaves. */
  private names = new Map<string, File>()
  private durableNames = new Map<string, File>()
  private underWay = new Map<object, () => void>()
  private readonly chance: Chance
  full = false
  /** The next write fails with EIO. */
  failing = false

  constructor(
    private readonly time: Time,
    seed: number,
  ) {
    this.chance = new Chance(seed, 'disk')
  }

  /** The process ends: what the kernel has taken stays, a write under way may stop anywhere. */
  crash(): void {
    for (const tear of this.underWay.values()) tear()
    this.underWay.clear()
  }

  /** The power goes: only what was synced stays for sure. */
  cutPower(): void {
    this.crash()
    const files = new Set([...this.names.values(), ...this.durableNames.values()])
    for (const file of files) {
      if (file.durable && this.chance.happens(0.7)) {
        file.resize(0)
        file.put(file.durable, 0)
      }
      file.durable = undefined
    }
    // A file system keeps its own order: all newer names are there, or none of them.
    if (this.chance.happens(0.7)) this.names = new Map(this.durableNames)
    else this.durableNames = new Map(this.names)
  }

  async open(path: string, mode: OpenMode): Promise<DiskFile> {
    await this.takes(8, 'disk open')
    let file = this.names.get(path)
    if (mode === 'create' || mode === 'draft') {
      file = new File()
      this.names.set(path, file)
    }
    if (!file) throw systemError('ENOENT')
    return new OpenFile(this, file, mode)
  }

  async list(directory: string): Promise<string[]> {
    await this.takes(8, 'disk list')
    return [...this.names.keys()]
      .filter(path => dirname(path) === directory)
      .map(path => basename(path))
      .sort()
  }

  async makeDirectory(): Promise<void> {}

  async rename(from: string, to: string): Promise<void> {
    await this.takes(20, 'disk rename')
    const file = this.names.get(from)
    if (!file) throw systemError('ENOENT')
    this.names.delete(from)
    this.names.set(to, file)
  }

  async remove(path: string): Promise<void> {
    await this.takes(20, 'disk remove')
    this.names.delete(path)
  }

  async syncDirectory(): Promise<void> {
    await this.takes(100, 'disk sync of names')
    this.durableNames = new Map(this.names)
  }

  async free(): Promise<number> {
    return this.full ? 0 : 1024 ** 3
  }

  async write(file: File, bytes: Buffer, position: number, synchronous: boolean): Promise<number> {
    const grows = position + bytes.length > file.length
    if (this.full && grows) {
      const taken = Math.max(0, file.length - position)
      if (taken === 0) throw systemError('ENOSPC')
      return this.write(file, bytes.subarray(0, taken), position, synchronous)
    }
    const put = (some: Buffer, at = position) => {
      if (synchronous) file.putDurably(some, at)
      else {
        file.keep()
        file.put(some, at)
      }
    }
    const tear = () => {
      for (const [start, end] of sectorsOf(position, position + bytes.length))
        if (this.chance.happens(0.5)) put(bytes.subarray(start - position, end - position), start)
    }
    const mark = {}
    this.underWay.set(mark, tear)
    await this.takes(synchronous ? 120 : 10, 'disk write')
    this.underWay.delete(mark)
    if (this.failing) {
      this.failing = false
      tear()
      throw systemError('EIO')
    }
    put(bytes)
    return bytes.length
  }

  async sync(file: File): Promise<void> {
    await this.takes(150, 'disk sync')
    file.durable = undefined
  }

  takes(microseconds: number, label: string): Promise<void> {
    return this.time.pass(this.chance.delay(microseconds), label)
  }
}

/** A disk writes each sector as a whole or not at all, and several in any order. */
function* sectorsOf(from: number, to: number): Generator<[start: number, end: number]> {
  for (let start = from; start < to; ) {
    const end = Math.min(to, start - (start % sectorBytes) + sectorBytes)
    yield [start, end]
    start = end
  }
}

const sectorBytes = 512

class OpenFile implements DiskFile {
  constructor(
    private readonly disk: SimulatedDisk,
    private readonly file: File,
    private readonly mode: OpenMode,
  ) {}

  write(parts: readonly Uint8Array[], position: number): Promise<number> {
    const [first] = parts
    const bytes = parts.length === 1 && first ? Buffer.from(first) : Buffer.concat(parts)
    return this.disk.write(this.file, bytes, position, this.mode !== 'draft')
  }

  async read(into: Uint8Array, position: number): Promise<number> {
    await this.disk.takes(5, 'disk read')
    const bytes = this.file.contents().subarray(position, position + into.length)
    into.set(bytes)
    return bytes.length
  }

  async truncate(size: number): Promise<void> {
    await this.disk.takes(10, 'disk truncate')
    this.file.keep()
    this.file.resize(size)
  }

  sync(): Promise<void> {
    return this.disk.sync(this.file)
  }

  async size(): Promise<number> {
    return this.file.length
  }

  async close(): Promise<void> {}
}

export type { Party }
