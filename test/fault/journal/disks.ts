// Disks for the journal's fault tests: one in memory that can be copied, and one that fails on demand.
import { basename, dirname, join } from 'node:path'
import type { Disk, DiskFile, OpenMode } from '../../../services/supervisor/journal/disk.js'

/** A system error as Node's fs makes them. */
export function systemError(code: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}, as the test wants it`), { code })
}

interface Contents {
  bytes: Buffer
}

/** Everything written is on this disk at once. The lock, which is a real file, does not lie on it. */
export class MemoryDisk implements Disk {
  private readonly files = new Map<string, Contents>()

  paths(): string[] {
    return [...this.files.keys()].sort()
  }

  bytes(path: string): Buffer {
    const file = this.files.get(path)
    if (!file) throw systemError('ENOENT')
    return file.bytes
  }

  put(path: string, bytes: Buffer): void {
    this.files.set(path, { bytes })
  }

  /** A copy of what lies in `from`, moved to `to`. */
  copy(from: string, to: string): MemoryDisk {
    const copy = new MemoryDisk()
    for (const [path, { bytes }] of this.files) copy.put(join(to, path.slice(from.length)), Buffer.from(bytes))
    return copy
  }

  async open(path: string, mode: OpenMode): Promise<DiskFile> {
    if (mode === 'create' || mode === 'draft') this.put(path, Buffer.alloc(0))
    const file = this.files.get(path)
    if (!file) throw systemError('ENOENT')
    return new MemoryFile(file)
  }

  async list(directory: string): Promise<string[]> {
    const inside = this.paths().filter(path => dirname(path) === directory)
    return inside.map(path => basename(path))
  }

  async makeDirectory(): Promise<void> {}
  async syncDirectory(): Promise<void> {}

  async rename(from: string, to: string): Promise<void> {
    const file = this.files.get(from)
    if (!file) throw systemError('ENOENT')
    this.files.delete(from)
    this.files.set(to, file)
  }

  async remove(path: string): Promise<void> {
    this.files.delete(path)
  }

  async free(): Promise<number> {
    return 1024 ** 3
  }
}

class MemoryFile implements DiskFile {
  constructor(private readonly file: Contents) {}

  async write(parts: readonly Uint8Array[], position: number): Promise<number> {
    const bytes = Buffer.concat(parts)
    if (this.file.bytes.length < position + bytes.length) await this.truncate(position + bytes.length)
    bytes.copy(this.file.bytes, position)
    return bytes.length
  }

  async read(into: Uint8Array, position: number): Promise<number> {
    const bytes = this.file.bytes.subarray(position, position + into.length)
    into.set(bytes)
    return bytes.length
  }

  async truncate(size: number): Promise<void> {
    const { bytes } = this.file
    this.file.bytes = Buffer.concat([bytes.subarray(0, size), Buffer.alloc(Math.max(0, size - bytes.length))])
  }

  async size(): Promise<number> {
    return this.file.bytes.length
  }

  async sync(): Promise<void> {}
  async close(): Promise<void> {}
}

export type Operation =
  | { kind: 'write'; path: string; bytes: Buffer; position: number }
  | { kind: 'read'; path: string; length: number; position: number }
  | { kind: 'sync' | 'truncate' | 'open' | 'rename' | 'remove' | 'free'; path: string }

/** `undefined`: it works. A number: a write takes only so many bytes, `free` answers it. `hangs`: no answer, ever. */
export type Outcome = undefined | Error | number | 'hangs'

/** Asks before each operation how it shall end. */
export function faultyDisk(disk: Disk, outcome: (operation: Operation) => Outcome): Disk {
  const attempt = async <T>(operation: Operation, work: (limit: number | undefined) => Promise<T>): Promise<T> => {
    const decided = outcome(operation)
    if (decided instanceof Error) throw decided
    return decided === 'hangs' ? new Promise(() => {}) : work(decided)
  }
  const wrap = (file: DiskFile, path: string): DiskFile => ({
    write(parts, position) {
      const bytes = Buffer.concat(parts)
      return attempt({ kind: 'write', path, bytes, position }, limit =>
        file.write([bytes.subarray(0, limit)], position),
      )
    },
    read: (into, position) =>
      attempt({ kind: 'read', path, length: into.length, position }, () => file.read(into, position)),
    truncate: size => attempt({ kind: 'truncate', path }, () => file.truncate(size)),
    sync: () => attempt({ kind: 'sync', path }, () => file.sync()),
    size: () => file.size(),
    close: () => file.close(),
  })
  return {
    open: (path, mode) => attempt({ kind: 'open', path }, async () => wrap(await disk.open(path, mode), path)),
    list: directory => disk.list(directory),
    makeDirectory: directory => disk.makeDirectory(directory),
    rename: (from, to) => attempt({ kind: 'rename', path: from }, () => disk.rename(from, to)),
    remove: path => attempt({ kind: 'remove', path }, () => disk.remove(path)),
    syncDirectory: directory => attempt({ kind: 'sync', path: directory }, () => disk.syncDirectory(directory)),
    free: path => attempt({ kind: 'free', path }, async limit => limit ?? disk.free(path)),
  }
}
