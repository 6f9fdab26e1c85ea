// One process at a time has a journal's directory.
import fs from 'node:fs'
import { join } from 'node:path'
import { tryLock } from '../../../plugins/kit/linux.js'
import { errorCode } from './disk.js'

/** Another process has the journal open. */
export class JournalLocked extends Error {
  constructor(
    dir: string,
    /** Undefined when it has not written it. */
    readonly pid: number | undefined,
  ) {
    const holder = pid === undefined ? 'another process' : `process ${pid}`
    super(`the journal in ${dir} is in use by ${holder}: stop that first, or start with another --root`)
    this.name = 'JournalLocked'
  }
}

/**
 * Takes the directory for this process and answers how to give it back; the kernel does so when the process ends.
 * On a read-only file system a lock file that is missing can't be made, and nobody could write either.
 */
export function lockDirectory(dir: string): () => void {
  const path = join(dir, 'lock')
  const { fd, writable } = openLock(path)
  if (fd === undefined) return () => {}
  try {
    if (!tryLock(fd)) throw new JournalLocked(dir, holder(path))
    if (writable) writePid(fd)
  } catch (error) {
    fs.closeSync(fd)
    throw error
  }
  return () => fs.closeSync(fd)
}

function openLock(path: string): { fd?: number; writable: boolean } {
  try {
    return { fd: fs.openSync(path, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o600), writable: true }
  } catch (error) {
    if (errorCode(error) !== 'EROFS') throw error
  }
  try {
    return { fd: fs.openSync(path, 'r'), writable: false }
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return { writable: false }
    throw error
  }
}

/** Of the same width for every pid, so that a block that is there is enough; without one a full disk costs the name. */
function writePid(fd: number): void {
  try {
    fs.writeSync(fd, `${String(process.pid).padStart(10)}\n`, 0)
  } catch (error) {
    if (errorCode(error) !== 'ENOSPC' && errorCode(error) !== 'EDQUOT') throw error
  }
}

function holder(path: string): number | undefined {
  const pid = Number.parseInt(fs.readFileSync(path, 'utf8'), 10)
  return Number.isInteger(pid) ? pid : undefined
}

/** The process that has the journal in a directory open, as the kernel knows it. Looks without touching anything. */
export function lockHolder(dir: string): number | undefined {
  let inode: bigint
  try {
    inode = fs.statSync(join(dir, 'lock'), { bigint: true }).ino
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined
    throw error
  }
  // "1: FLOCK  ADVISORY  WRITE 4711 fe:01:131072 0 EOF"; of overlayfs the device is not the one that stat tells.
  for (const line of fs.readFileSync('/proc/locks', 'utf8').split('\n')) {
    const [, kind, , , pid, place] = line.trim().split(/\s+/)
    if (kind === 'FLOCK' && place?.split(':')[2] === String(inode)) return Number(pid)
  }
  return undefined
}
