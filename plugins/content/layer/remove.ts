// Removes what a layer replaces or deletes, without following anything out of the tree.
import { closeSync, constants, lstatSync, openSync, readdirSync, rmdirSync, type Stats, unlinkSync } from 'node:fs'
import { at } from './names.js'

export function lstatAt(directory: number, name: string): Stats | undefined {
  return lstatSync(at(directory, name), { throwIfNoEntry: false })
}

/** Runs `use` with an open directory that is no symlink. */
export function withDirectory<T>(parent: number, name: string, use: (fd: number) => T): T {
  const fd = openSync(at(parent, name), constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW)
  try {
    return use(fd)
  } finally {
    closeSync(fd)
  }
}

/** Names, one character a byte. */
export function namesIn(directory: number): string[] {
  return readdirSync(`/proc/self/fd/${directory}`, { encoding: 'latin1' })
}

/**
 * Removes `name` with all below it, if it is there. Recursion and open files are bounded by the depth of the tree,
 * which Root keeps below what a path can name.
 */
export function removeTree(directory: number, name: string): void {
  const stats = lstatAt(directory, name)
  if (!stats) return
  if (!stats.isDirectory()) {
    unlinkSync(at(directory, name))
    return
  }
  withDirectory(directory, name, fd => {
    for (const child of namesIn(fd)) removeTree(fd, child)
  })
  rmdirSync(at(directory, name))
}

/** Removes from the open directory `path` ('a/b/') what is not to be kept, at any depth. */
export function removeExcept(directory: number, path: string, isKept: (path: string) => boolean): void {
  for (const name of namesIn(directory)) {
    if (!isKept(path + name)) removeTree(directory, name)
    else if (lstatAt(directory, name)?.isDirectory())
      withDirectory(directory, name, fd => removeExcept(fd, `${path}${name}/`, isKept))
  }
}
