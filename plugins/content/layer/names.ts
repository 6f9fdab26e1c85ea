// Names as bytes: strings of one character a byte inside, what the system calls take outside.
import type { Path } from '../../kit/linux.js'
import { invalid, shown } from './errors.js'

/** The path of what is called `name` in an open directory. Nobody can move it away: the descriptor is the directory. */
export function at(directory: number, name: string): Path {
  return toPath(`/proc/self/fd/${directory}/${name}`)
}

export function toPath(bytes: string): Path {
  return isAscii.test(bytes) ? bytes : Buffer.from(bytes, 'latin1')
}

/** Bytes that mean themselves in UTF-8. */
const isAscii = /^[\0-\x7f]*$/

/** The parts of a path below a root, `.` and `..` resolved by the letter, never above the root. */
export function partsOf(name: string): string[] {
  const parts: string[] = []
  for (const part of name.split('/')) {
    if (part === '' || part === '.') continue
    if (part === '..') parts.pop()
    else parts.push(part)
  }
  return parts
}

/** A link target split into directory and last name; the last must be a name. */
export function splitTarget(target: string): { directory: string; base: string } {
  const trimmed = target.replace(/\/+$/, '')
  const slash = trimmed.lastIndexOf('/')
  const base = trimmed.slice(slash + 1)
  if (base === '' || base === '.' || base === '..') throw invalid(`the hard link target ${shown(target)} is no file`)
  return { directory: trimmed.slice(0, slash + 1), base }
}
