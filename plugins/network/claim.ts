// The right to work on one attachment. A CNI plugin that outlives us inherits it, so nobody undoes what it still does.

import { closeSync, fstatSync, openSync, readFileSync, statSync, unlinkSync, writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { failpoint } from '../kit/failpoint.js'
import { tryLock } from '../kit/linux.js'
import { killGroup } from './process.js'

/**
 * A locked file. Every child gets the descriptor: should this process die in the middle of an ADD, the file stays
 * locked until the orphaned plugin has ended too, and whoever comes next waits for that.
 */
export interface Claim {
  fd: number
  /** Remembers which process group is at work, so that one that never ends can be killed by a successor. */
  note(leader: number): void
  release(): void
}

const pollMs = 25

/** Waits for whoever holds the file; a plugin at which that one has been for more than `patienceMs` is killed. */
export async function claim(path: string, patienceMs: number): Promise<Claim> {
  let seen = ''
  let deadline = 0
  for (;;) {
    const taken = tryClaim(path)
    if (taken) return taken
    const notes = readIfThere(path)
    // A new note means that the holder lives and goes on.
    if (notes !== seen || deadline === 0) deadline = Date.now() + patienceMs
    else if (Date.now() >= deadline) evict(path)
    seen = notes
    await sleep(pollMs)
  }
}

/** Takes the file if nobody holds it. */
export function tryClaim(path: string): Claim | undefined {
  const fd = openSync(path, 'a+', 0o600)
  // The holder removes the file when it is done: a lock on a file that has no name any more says nothing.
  if (tryLock(fd) && isSameFile(fd, path)) {
    failpoint('claim.taken')
    return held(path, fd)
  }
  closeSync(fd)
  return undefined
}

function held(path: string, fd: number): Claim {
  return {
    fd,
    note(leader) {
      try {
        writeSync(fd, `${leader} ${startTime(leader) ?? '?'}\n`)
      } catch {
        // A full disk: then an orphan would only be waited for, not killed. It must not keep anything from being detached.
      }
    },
    // The name goes first: a daemon that a plugin left behind may keep the descriptor, and its lock, for ever.
    release() {
      if (isSameFile(fd, path)) unlinkIfThere(path) // else we were evicted, and the file is somebody else's
      closeSync(fd)
    },
  }
}

/** Kills the last noted group if its leader is still the same process, and gives the file up to whoever claims next. */
function evict(path: string): void {
  const [leader = '', started = ''] = readIfThere(path).trimEnd().split('\n').at(-1)?.split(' ') ?? []
  if (started !== '' && started === startTime(Number(leader))) killGroup(Number(leader))
  unlinkIfThere(path)
}

/** In clock ticks since boot, field 22 of /proc/PID/stat: process ids come round again, a pair of both doesn't. */
function startTime(pid: number): string | undefined {
  const stat = readIfThere(`/proc/${pid}/stat`)
  // The second field is a name in parentheses that may hold spaces.
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
}

function isSameFile(fd: number, path: string): boolean {
  const named = statSync(path, { throwIfNoEntry: false })
  const opened = fstatSync(fd)
  return named?.ino === opened.ino && named.dev === opened.dev
}

function readIfThere(path: string): string {
  return unlessMissing(() => readFileSync(path, 'utf8')) ?? ''
}

function unlinkIfThere(path: string): void {
  unlessMissing(() => unlinkSync(path))
}

function unlessMissing<T>(action: () => T): T | undefined {
  try {
    return action()
  } catch (error) {
    // ESRCH: the process ended while its /proc entry was being read.
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ESRCH'))
      return undefined
    throw error
  }
}
