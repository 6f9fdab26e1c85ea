// The system calls that Node lacks. Synchronous: each costs microseconds and none waits for a device, but for syncfs.
import koffi from 'koffi'

const libc = koffi.load('libc.so.6')
const c = {
  flock: libc.func('int flock(int fd, int operation)'),
  fcntl: libc.func('int fcntl(int fd, int command, long argument)'),
  mknod: libc.func('int mknod(const char *path, unsigned int mode, unsigned long dev)'),
  mount: libc.func(
    'int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)',
  ),
  umount2: libc.func('int umount2(const char *target, int flags)'),
  getsockopt: libc.func('int getsockopt(int fd, int level, int name, _Out_ uint8_t *value, _Inout_ uint32_t *length)'),
  lsetxattr: libc.func('int lsetxattr(const char *path, const char *name, const void *value, size_t size, int flags)'),
  lgetxattr: libc.func('long lgetxattr(const char *path, const char *name, _Out_ uint8_t *value, size_t size)'),
  llistxattr: libc.func('long llistxattr(const char *path, _Out_ uint8_t *list, size_t size)'),
  utimensat: libc.func('int utimensat(int dirfd, const char *path, const int64_t *times, int flags)'),
  syscall_openat2: libc.func('syscall', 'long', ['long', 'int', 'str', 'void *', 'size_t']),
  syncfs: libc.func('int syncfs(int fd)'),
}

/** A path as bytes, without a closing NUL, where a name need not be UTF-8. */
export type Path = string | Buffer

/** A system call that failed. `errno` is its number, `code` its name, as in Node's own errors. */
export class SystemCallError extends Error {
  constructor(
    readonly syscall: string,
    readonly errno: number,
    readonly path: string,
  ) {
    const code = errorName(errno)
    super(`${syscall} ${path}: ${code}`)
    this.name = 'SystemCallError'
    this.code = code
  }
  readonly code: string
}

const AT_FDCWD = -100
const AT_SYMLINK_NOFOLLOW = 0x100
const LOCK_EX = 2
const LOCK_NB = 4
const SYS_openat2 = 437

/** Device numbers as mknod takes them. */
export const makeDevice = (major: number, minor: number): bigint =>
  ((BigInt(major) & 0xfffn) << 8n) |
  ((BigInt(major) & ~0xfffn) << 32n) |
  (BigInt(minor) & 0xffn) |
  ((BigInt(minor) & ~0xffn) << 12n)

export const FileType = { fifo: 0o010000, character: 0o020000, block: 0o060000, regular: 0o100000 } as const

/** `mode` holds file type and permissions. */
export function mknod(path: Path, mode: number, device = 0n): void {
  check('mknod', path, c.mknod(terminated(path), mode, device))
}

export function mkfifo(path: string, permissions: number): void {
  mknod(path, FileType.fifo | permissions)
}

/** Takes an exclusive lock for as long as the file stays open, or answers false when another process holds it. */
export function tryLock(fd: number): boolean {
  if (c.flock(fd, LOCK_EX | LOCK_NB) === 0) return true
  const errno = koffi.errno()
  if (errorName(errno) === 'EAGAIN') return false
  throw new SystemCallError('flock', errno, `fd ${fd}`)
}

/** A second descriptor of the same open file. It is not inherited by programs that we start. */
export function duplicate(fd: number): number {
  const F_DUPFD_CLOEXEC = 1030
  const copy = c.fcntl(fd, F_DUPFD_CLOEXEC, 3)
  if (copy < 0) throw new SystemCallError('fcntl', koffi.errno(), `fd ${fd}`)
  return copy
}

export const MountFlag = {
  readOnly: 1,
  noSuid: 2,
  noDev: 4,
  noExec: 8,
  remount: 32,
  noAtime: 1024,
  bind: 4096,
  recursive: 16384,
  private: 1 << 18,
  slave: 1 << 19,
  shared: 1 << 20,
} as const

/** `data` is at most one page (4095 bytes): the kernel cuts a longer one silently, so that is refused here. */
export function mount(source: string, target: string, type: string, flags: number, data: string): void {
  if (Buffer.byteLength(data) > 4095) throw new SystemCallError('mount', koffi.os.errno.E2BIG ?? 7, target)
  check('mount', target, c.mount(source, target, type, flags, data))
}

export const UmountFlag = { force: 1, detach: 2, noFollow: 8 } as const

export function umount(target: string, flags = 0): void {
  check('umount2', target, c.umount2(target, flags))
}

export interface PeerCredentials {
  pid: number
  uid: number
  gid: number
}

/** Who connected to a unix socket (SO_PEERCRED). */
export function peerCredentials(fd: number): PeerCredentials {
  const value = Buffer.alloc(12)
  const SOL_SOCKET = 1
  const SO_PEERCRED = 17
  check('getsockopt', `fd ${fd}`, c.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, value, [12]))
  return { pid: value.readInt32LE(0), uid: value.readUInt32LE(4), gid: value.readUInt32LE(8) }
}

/** Does not follow a symlink at the end of the path. */
export function setXattr(path: Path, name: string, value: Uint8Array): void {
  check('lsetxattr', path, c.lsetxattr(terminated(path), name, value, value.length, 0))
}

export function getXattr(path: Path, name: string): Buffer | undefined {
  const value = Buffer.alloc(65536) // the kernel's limit (XATTR_SIZE_MAX)
  const size = Number(c.lgetxattr(terminated(path), name, value, value.length))
  if (size >= 0) return value.subarray(0, size)
  const errno = koffi.errno()
  if (['ENODATA', 'ENOTSUP', 'EOPNOTSUPP'].includes(errorName(errno))) return undefined
  throw new SystemCallError('lgetxattr', errno, shown(path))
}

export function listXattrs(path: Path): string[] {
  const list = Buffer.alloc(65536)
  const size = Number(c.llistxattr(terminated(path), list, list.length))
  if (size >= 0) return list.subarray(0, size).toString('latin1').split('\0').filter(Boolean)
  const errno = koffi.errno()
  if (['ENOTSUP', 'EOPNOTSUPP'].includes(errorName(errno))) return []
  throw new SystemCallError('llistxattr', errno, shown(path))
}

/** Nanoseconds since 1970; does not follow a symlink at the end of the path. */
export function setTimes(path: Path, accessNs: bigint, modifyNs: bigint): void {
  const times = new BigInt64Array(4)
  split(accessNs, times, 0)
  split(modifyNs, times, 2)
  check('utimensat', path, c.utimensat(AT_FDCWD, terminated(path), times, AT_SYMLINK_NOFOLLOW))
}

/** utimensat wants 0 ≤ nanoseconds < 10⁹ also before 1970. */
function split(ns: bigint, into: BigInt64Array, at: number): void {
  const remainder = ((ns % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n
  into[at] = (ns - remainder) / 1_000_000_000n
  into[at + 1] = remainder
}

export const Resolve = { noXdev: 1, noMagicLinks: 2, noSymlinks: 4, beneath: 8, inRoot: 16 } as const

/**
 * Opens `path` below the directory `dirfd` with openat2(2), which keeps resolution inside as `resolve` says.
 * Answers a file descriptor that the caller closes.
 */
export function openat2(dirfd: number, path: Path, flags: number, mode: number, resolve: number): number {
  const how = Buffer.alloc(24)
  how.writeBigUInt64LE(BigInt(flags), 0)
  how.writeBigUInt64LE(BigInt(mode), 8)
  how.writeBigUInt64LE(BigInt(resolve), 16)
  const fd = Number(c.syscall_openat2(SYS_openat2, dirfd, terminated(path), how, how.length))
  if (fd < 0) throw new SystemCallError('openat2', koffi.errno(), shown(path))
  return fd
}

/** Writes a whole file system's dirty pages to disk. Blocks for as long as that takes: for worker threads. */
export function syncfs(fd: number): void {
  check('syncfs', `fd ${fd}`, c.syncfs(fd))
}

/** The same on a thread of the pool, for whoever has an event loop to keep going. */
export function syncfsInBackground(fd: number): Promise<void> {
  return new Promise((resolve, reject) => {
    c.syncfs.async(fd, (_failure: unknown, result: number) => {
      // errno is that of the other thread only here, at once.
      if (result === 0) resolve()
      else reject(new SystemCallError('syncfs', koffi.errno(), `fd ${fd}`))
    })
  })
}

function check(syscall: string, path: Path, result: number): void {
  if (result !== 0) throw new SystemCallError(syscall, koffi.errno(), shown(path))
}

/** As C wants it; koffi closes strings itself. */
const terminated = (path: Path) => (typeof path === 'string' ? path : Buffer.concat([path, NUL]))
const NUL = Buffer.alloc(1)
const shown = (path: Path) => path.toString()

function errorName(errno: number): string {
  return errorNames.get(errno) ?? `errno ${errno}`
}

// Some numbers have two names (EAGAIN, EWOULDBLOCK): the alphabet's first is the one that Node uses.
const names = Object.entries(koffi.os.errno).sort(([one], [other]) => (one < other ? 1 : -1))
const errorNames = new Map(names.map(([name, number]) => [number, name]))
