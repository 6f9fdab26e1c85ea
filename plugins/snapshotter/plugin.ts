// The snapshotter plugins: overlayfs and native, which differ in how a snapshot's tree is stored.
import { chmodSync, closeSync, mkdirSync, openSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { tryLock } from '../kit/linux.js'
import { type OpenPlugin, type PluginContext, type PluginDefinition, requireString } from '../kit/plugin.js'
import { NativeTrees } from './native.js'
import { OverlayTrees, probeOverlay } from './overlay.js'
import { snapshotsService } from './service.js'
import { Snapshots } from './snapshots.js'
import { SnapshotStore } from './store.js'
import type { TreeStorage } from './tree.js'

export const definitions: PluginDefinition[] = [
  snapshotter('overlayfs', ['rebase'], root => new OverlayTrees(probeOverlay(root))),
  snapshotter('native', [], () => new NativeTrees()),
]

/** Configuration: `root`, the directory that belongs to this snapshotter alone. */
function snapshotter(id: string, capabilities: string[], treesOn: (root: string) => TreeStorage): PluginDefinition {
  return {
    kind: 'snapshotter',
    id,
    version: '1.0.0',
    // The table of snapshots is in memory: two processes upon one root would not see each other's changes.
    capabilities: ['exclusive', ...capabilities],
    open: context => open(context, treesOn),
  }
}

async function open(
  { config, log, signal }: PluginContext,
  treesOn: (root: string) => TreeStorage,
): Promise<OpenPlugin> {
  const root = requireString(config, 'root')
  mkdirSync(root, { recursive: true, mode: 0o700 })
  chmodSync(root, 0o700) // layers hold other people's setuid programs: nobody else gets near them
  const lock = await lockRoot(root, signal)
  try {
    const trees = treesOn(root)
    const { store, found } = SnapshotStore.open(root, log, signal)
    const snapshots = new Snapshots({ store, found, trees, log, stop: signal })
    log.info({ root, snapshots: found.length }, 'snapshots found')
    return {
      services: [snapshotsService(snapshots)],
      exports: { root },
      async close() {
        await store.close()
        closeSync(lock)
      },
    }
  } catch (error) {
    closeSync(lock)
    throw error
  }
}

const lockPatienceMs = 15_000
const lockRetryMs = 50

/** Held for as long as the file is open. One who leaves may need a moment to let go. */
async function lockRoot(root: string, signal: AbortSignal): Promise<number> {
  const path = `${root}/lock`
  const fd = openSync(path, 'w', 0o600)
  try {
    for (let waitedMs = 0; !tryLock(fd); waitedMs += lockRetryMs) {
      if (waitedMs >= lockPatienceMs) throw new Error(`another process uses ${root}: stop it, or choose another root`)
      await sleep(lockRetryMs, undefined, { signal })
    }
    return fd
  } catch (error) {
    closeSync(fd)
    throw error
  }
}
