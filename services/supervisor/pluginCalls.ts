// The plugins as process managers call them: found by kind and id in the directory, anew for each call.

import { join } from 'node:path'
import { invalidArgument } from '../../plugins/kit/errors.js'
import type { Config } from '../../plugins/kit/plugin.js'
import type { Settings } from './config.js'
import {
  contentClient,
  diffClient,
  networkClient,
  pluginSource,
  runtimeClient,
  type SnapshotsClient,
  snapshotsClient,
} from './plugins/clients.js'
import type { PluginDirectory } from './plugins/directory.js'

/** The bundled plugins: a call to one that has not registered yet waits for it. */
export const bundledPlugins = [
  { kind: 'snapshotter', id: 'overlayfs' },
  { kind: 'snapshotter', id: 'native' },
  { kind: 'content', id: 'local' },
  { kind: 'differ', id: 'walking' },
  { kind: 'runtime', id: 'v2' },
  { kind: 'network', id: 'cni' },
] as const

export type PluginCalls = ReturnType<typeof pluginCalls>

export function pluginCalls(directory: PluginDirectory) {
  const snapshotters = new Map<string, SnapshotsClient>()
  /** Throws INVALID_ARGUMENT for one that nobody knows, in containerd's words. */
  const checkSnapshotter = (name: string): void => {
    if (directory.list().some(plugin => plugin.kind === 'snapshotter' && plugin.id === name)) return
    if (bundledPlugins.some(plugin => plugin.kind === 'snapshotter' && plugin.id === name)) return
    throw invalidArgument(`snapshotter not loaded: ${name}`)
  }
  const snapshotter = (name: string): SnapshotsClient => {
    checkSnapshotter(name)
    const known = snapshotters.get(name) ?? snapshotsClient(pluginSource(directory, 'snapshotter', name))
    snapshotters.set(name, known)
    return known
  }
  return {
    runtime: runtimeClient(pluginSource(directory, 'runtime', 'v2')),
    network: networkClient(pluginSource(directory, 'network', 'cni')),
    content: contentClient(pluginSource(directory, 'content', 'local')),
    differ: diffClient(pluginSource(directory, 'differ', 'walking')),
    snapshotter,
    checkSnapshotter,
  }
}

/** What each plugin is told in Welcome: its directories, and what the configuration says to it. */
export function pluginConfig(settings: Settings, kind: string, id: string): Config {
  return { ...directoriesOf(settings, kind, id), ...settings.plugins[`${kind}.${id}`] }
}

function directoriesOf({ root, state, address }: Settings, kind: string, id: string): Config {
  switch (kind) {
    case 'snapshotter':
      return { root: join(root, 'snapshots', id) }
    case 'content':
      return { root: join(root, 'content') }
    case 'differ':
      return { root: join(root, 'content'), state: join(state, 'differ') }
    case 'runtime':
      return { state, address, ttrpc: `${address}.ttrpc`, runtimeRoot: join(state, 'runc') }
    case 'network':
      return { state: join(root, 'network') }
    default:
      return {}
  }
}
