// Directories for images of checkpoints, below --state. Those that a crash left are removed at the next start.
import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { CheckpointFiles } from './effects/ports.js'
import type { World } from './state/world.js'

export async function openCheckpointFiles(state: string, world: World): Promise<CheckpointFiles> {
  const root = join(state, 'checkpoints')
  const directory = (namespace: string, id: string) => join(root, namespace, id)
  /** Those that are there: every task that starts or goes is asked about, and hardly one has any. */
  const there = new Set<string>()
  const remove = async (namespace: string, id: string) => {
    const path = directory(namespace, id)
    if (!there.has(path)) return
    await rm(path, { recursive: true, force: true })
    there.delete(path)
  }
  for (const namespace of await names(root))
    for (const id of await names(join(root, namespace))) {
      there.add(directory(namespace, id))
      if (!isRead(world, namespace, id)) await remove(namespace, id)
    }
  return {
    async make(namespace, id) {
      await remove(namespace, id)
      const path = directory(namespace, id)
      there.add(path)
      await mkdir(path, { recursive: true, mode: 0o700 })
      return path
    },
    remove,
  }
}

/** A task that is restored reads its image when it is started. */
const isRead = (world: World, namespace: string, id: string): boolean =>
  ['created', 'starting'].includes(world.namespace(namespace).task(id).state)

async function names(directory: string): Promise<string[]> {
  try {
    return await readdir(directory)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return []
    throw error
  }
}
