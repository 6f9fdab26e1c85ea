// Network namespaces that live without a process: pinned by a bind mount on a file.

import { mkdir, rm, statfs, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { unknown } from '../kit/errors.js'
import { failpoint } from '../kit/failpoint.js'
import { SystemCallError, UmountFlag, umount } from '../kit/linux.js'
import type { Claim } from './claim.js'
import { runChild } from './process.js'

const nsfsMagic = 0x6e736673
const stackedMountsMax = 16

/**
 * Makes a network namespace with its loopback up and pins it at `path`. A child process does it: unshare(2) in this
 * one would move a thread whose children then start in the wrong network, and a thread of its own for that costs 46 ms
 * at first and megabytes ever after, against 4.5 ms each time.
 */
export async function pinNetns(path: string, timeoutMs: number, claim: Claim): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  await unpinNetns(path) // what an attachment whose record is lost has left
  await writeFile(path, '', { flag: 'wx', mode: 0o600 })
  failpoint('netns.begun')
  const outcome = await runChild({
    file: 'unshare',
    args: [`--net=${path}`, 'ip', 'link', 'set', 'lo', 'up'],
    env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
    input: '',
    timeoutMs,
    claim,
  })
  failpoint('netns.made')
  if (outcome.failure === undefined) return
  throw unknown(`making a network namespace failed: ${outcome.failure}: ${outcome.stderr.trim()}`)
}

export async function isPinned(path: string): Promise<boolean> {
  try {
    return (await statfs(path)).type === nsfsMagic
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return false
    throw error
  }
}

/** Also fine when the namespace, or the file, has gone. Processes inside keep the namespace until they end. */
export async function unpinNetns(path: string): Promise<void> {
  for (let mounts = 0; mounts < stackedMountsMax && unmounted(path); mounts++);
  failpoint('netns.unmounted')
  await rm(path, { force: true })
  failpoint('netns.removed')
}

/** False when nothing is mounted there. */
function unmounted(path: string): boolean {
  try {
    umount(path, UmountFlag.detach | UmountFlag.noFollow)
    return true
  } catch (error) {
    if (error instanceof SystemCallError && (error.code === 'EINVAL' || error.code === 'ENOENT')) return false
    throw error
  }
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}
