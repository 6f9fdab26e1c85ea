// Trees as whole copies: slow and large, but any file system will do.
import { chmodSync, closeSync, mkdirSync, openSync } from 'node:fs'
import type { Mount } from '../../proto/gen/containerd/types/mount.js'
import { syncfsInBackground } from '../kit/linux.js'
import { runCommand } from './command.js'
import { bind, files, type TreePlace, type TreeStorage } from './tree.js'

/** Mounts have the shape of containerd's native snapshotter (snapshots/native, `mounts`). */
export class NativeTrees implements TreeStorage {
  readonly canRebase = false
  #copying = 0
  readonly #waiting: (() => void)[] = []

  async create({ directory, ancestors }: TreePlace, kind: 'active' | 'view', signal: AbortSignal): Promise<void> {
    const parent = ancestors[0]
    if (parent === undefined || kind === 'view') {
      mkdirSync(files(directory))
      chmodSync(files(directory), 0o755)
      return
    }
    await this.#turn()
    try {
      await copyTree(files(parent), directory, signal)
    } finally {
      this.#copying--
      this.#waiting.shift()?.()
    }
  }

  mounts({ directory, ancestors }: TreePlace, kind: 'active' | 'view'): Mount[] {
    if (kind === 'active') return [bind(files(directory), 'rw')]
    return [bind(files(ancestors[0] ?? directory), 'ro')]
  }

  /** A disk does not copy faster when more ask at once. */
  async #turn(): Promise<void> {
    while (this.#copying >= copiesMax) await new Promise<void>(resolve => this.#waiting.push(resolve))
    this.#copying++
  }
}

const copiesMax = 4

/** With everything a file has: owners, times, extended attributes, holes, links. Shared blocks where possible. */
async function copyTree(tree: string, into: string, signal: AbortSignal): Promise<void> {
  await runCommand('cp', ['-a', '--reflink=auto', '--', tree, `${into}/`], signal)
  const fd = openSync(into, 'r')
  try {
    await syncfsInBackground(fd)
  } finally {
    closeSync(fd)
  }
}
