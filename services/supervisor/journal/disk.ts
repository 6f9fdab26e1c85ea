// The narrow port for file operations, so that a test can make a disk fail, and the real one.
import fs from 'node:fs'
import { dirname } from 'node:path'

/**
 * How a file is opened:
 * `read`    it exists and stays as it is;
 * `update`  it exists; a write has reached the disk when it resolves (O_DSYNC);
 * `create`  it is made, or emptied; writes as with `update`;
 * `draft`   it is made, or emptied; writes reach the disk with `sync`.
 */
export type OpenMode = 'read' | 'update' | 'create' | 'draft'

export interface DiskFile {
  /** Writes the parts one after another, at most 1024 of them. Answers the bytes written, which may be fewer. */
  write(parts: readonly Uint8Array[], position: number): Promise<number>
  /** Answers the bytes read, fewer at the file's end or before a place that can't be read. */
  read(into: Uint8Array, position: number): Promise<number>
  truncate(size: number): Promise<void>
  /** Contents and size are on disk when it resolves. */
  sync(): Promise<void>
  size(): Promise<number>
  close(): Promise<void>
}

/** Failures are Node's own errors with a `code`. */
export interface Disk {
  open(path: string, mode: OpenMode): Promise<DiskFile>
  /** Names in a directory, sorted; none when it does not exist. */
  list(directory: string): Promise<string[]>
  /** With its parents; each new one's name is on disk when it resolves. */
  makeDirectory(directory: string): Promise<void>
  rename(from: string, to: string): Promise<void>
  /** What is not there counts as removed. */
  remove(path: string): Promise<void>
  /** Names made, changed or removed in the directory are on disk when it resolves. */
  syncDirectory(directory: string): Promise<void>
  /** Bytes that may still be allocated where `path` lies. */
  free(path: string): Promise<number>
}

/** The code of Node's system errors: 'ENOSPC'. */
export function errorCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}

/** The bytes at `position`, all of them. */
export async function readExactly(file: DiskFile, length: number, position: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(length)
  for (let at = 0; at < length; ) {
    const got = await file.read(bytes.subarray(at), position + at)
    if (got === 0) throw new Error(`the file ends ${length - at} bytes early`)
    at += got
  }
  return bytes
}

/** Writes all of it: a disk that takes fewer bytes than it was given is asked again, and tells its reason then. */
export async function writeAll(file: DiskFile, parts: readonly Uint8Array[], position: number): Promise<void> {
  const rest = [...parts]
  let at = position
  while (rest.length > 0) {
    let written = await file.write(rest.slice(0, 1024), at)
    if (written === 0) throw new Error('the disk took none of the bytes that it was given')
    at += written
    while (rest[0] && written >= rest[0].length) written -= rest.shift()?.length ?? 0
    if (rest[0] && written > 0) rest[0] = rest[0].subarray(written)
  }
}

/** Opens a file to read it, and closes it. */
export async function reading<T>(disk: Disk, path: string, work: (file: DiskFile) => Promise<T>): Promise<T> {
  const file = await disk.open(path, 'read')
  try {
    return await work(file)
  } finally {
    await file.close()
  }
}

const { O_RDONLY, O_RDWR, O_CREAT, O_TRUNC, O_DSYNC } = fs.constants

const flags: Record<OpenMode, number> = {
  read: O_RDONLY,
  update: O_RDWR | O_DSYNC,
  create: O_RDWR | O_CREAT | O_TRUNC | O_DSYNC,
  draft: O_RDWR | O_CREAT | O_TRUNC,
}

/** Callbacks, not node:fs/promises: a FileHandle costs 20 µs more for each write. */
export const realDisk: Disk = {
  async open(path, mode) {
    const fd = await promised<number>(done => fs.open(path, flags[mode], 0o600, done))
    return new RealFile(fd)
  },
  async list(directory) {
    try {
      return (await promised<string[]>(done => fs.readdir(directory, done))).sort()
    } catch (error) {
      if (errorCode(error) === 'ENOENT') return []
      throw error
    }
  },
  async makeDirectory(directory) {
    const first = await promised<string | undefined>(done =>
      fs.mkdir(directory, { recursive: true, mode: 0o700 }, done),
    )
    for (let made = directory; first !== undefined && made.length >= first.length; made = dirname(made))
      await realDisk.syncDirectory(dirname(made))
  },
  rename: (from, to) => promised<void>(done => fs.rename(from, to, done)),
  remove: path => promised<void>(done => fs.rm(path, { force: true }, done)),
  async syncDirectory(directory) {
    const handle = await realDisk.open(directory, 'read')
    try {
      await handle.sync()
    } finally {
      await handle.close()
    }
  },
  async free(path) {
    const { bavail, bsize } = await promised<fs.StatsFs>(done => fs.statfs(path, done))
    return bavail * bsize
  },
}

class RealFile implements DiskFile {
  constructor(private readonly fd: number) {}

  write(parts: readonly Uint8Array[], position: number): Promise<number> {
    const [only, ...others] = parts
    if (only && others.length === 0)
      return promised<number>(done => fs.write(this.fd, only, 0, only.length, position, done))
    return promised<number>(done => fs.writev(this.fd, [...parts], position, done))
  }

  async read(into: Uint8Array, position: number): Promise<number> {
    let total = 0
    while (total < into.length) {
      const { bytes, error } = await this.readOnce(into.subarray(total), position + total)
      if (error && total === 0) throw error
      if (bytes === 0) break
      total += bytes
    }
    return total
  }

  private readOnce(into: Uint8Array, position: number): Promise<{ bytes: number; error: Error | null }> {
    return new Promise(resolve =>
      fs.read(this.fd, into, 0, into.length, position, (error, bytes) => resolve({ bytes: error ? 0 : bytes, error })),
    )
  }

  truncate(size: number): Promise<void> {
    return promised<void>(done => fs.ftruncate(this.fd, size, done))
  }

  sync(): Promise<void> {
    return promised<void>(done => fs.fsync(this.fd, done))
  }

  async size(): Promise<number> {
    return (await promised<fs.Stats>(done => fs.fstat(this.fd, done))).size
  }

  close(): Promise<void> {
    return promised<void>(done => fs.close(this.fd, done))
  }
}

type Done<T> = (error: Error | null, value: T) => void

function promised<T>(start: (done: Done<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => start((error, value) => (error ? reject(error) : resolve(value))))
}
