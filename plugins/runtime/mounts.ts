// Mounts below a directory: found and undone before anything is deleted there.
import { readFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { SystemCallError, UmountFlag, umount } from '../kit/linux.js'

/** Outermost first. `directory` itself counts. */
export function mountsBelow(directory: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map(line => decodePath(line.split(' ')[4] ?? ''))
    .filter(path => path === directory || path.startsWith(`${directory}/`))
}

/** Undoes them, innermost first; what is still in use is detached, and goes when its last user does. */
export function unmountBelow(directory: string): void {
  // '' and '/' are above every mount of the machine.
  if (dirname(directory) === directory || !directory.startsWith('/'))
    throw new Error(`mounts below "${directory}" are not ours to undo`)
  for (const path of mountsBelow(directory).reverse()) {
    try {
      umount(path, UmountFlag.noFollow)
    } catch (error) {
      if (!(error instanceof SystemCallError) || error.code !== 'EBUSY') throw error
      umount(path, UmountFlag.noFollow | UmountFlag.detach)
    }
  }
}

/** The kernel writes space, tab, newline and backslash as \ooo (proc(5)). */
const decodePath = (path: string): string =>
  path.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)))
