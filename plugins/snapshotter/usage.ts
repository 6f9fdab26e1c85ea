// What a directory tree takes of the disk, measured in slices so that other calls are answered meanwhile.
import { type BigIntStats, lstatSync, readdirSync } from 'node:fs'
import { setImmediate as breathe } from 'node:timers/promises'
import type { Usage } from './snapshot.js'

const entriesPerSlice = 256

/** Counts as `du` does: blocks of the file system, a file with several names once, the directory itself too. */
export async function measure(root: string, signal: AbortSignal): Promise<Usage> {
  const counted = new Set<string>()
  let blocks = 0n
  let inodes = 0n
  const count = (stat: BigIntStats) => {
    if (!stat.isDirectory() && stat.nlink > 1n) {
      const inode = `${stat.dev}:${stat.ino}`
      if (counted.has(inode)) return
      counted.add(inode)
    }
    blocks += stat.blocks
    inodes++
  }

  const pending = [Buffer.from(root)] // bytes: a name need not be UTF-8
  count(lstatSync(root, { bigint: true }))
  let inSlice = 0
  for (let directory = pending.pop(); directory; directory = pending.pop()) {
    for (const name of namesIn(directory)) {
      const path = Buffer.concat([directory, slash, name])
      const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false })
      if (!stat) continue // removed meanwhile by who works in the snapshot
      count(stat)
      if (stat.isDirectory()) pending.push(path)
      if (++inSlice % entriesPerSlice === 0) await breathe(undefined, { signal })
    }
  }
  return { bytes: blocks * 512n, inodes }
}

const slash = Buffer.from('/')

function namesIn(directory: Buffer): Buffer[] {
  try {
    return readdirSync(directory, { encoding: 'buffer' })
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return []
    throw error
  }
}
