// The plugins as process managers call them: found by kind and id in the directory, anew for each call.

import { join } from 'node:path'
import type { CallOptions } from '../../plugins/kit/calls.js'
import { Code, invalidArgument, toStatusError } from '../../plugins/kit/errors.js'
import type { Config } from '../../plugins/kit/plugin.js'
import { raw } from '../../plugins/kit/serve.js'
import {
  ContentService,
  WriteAction,
  WriteContentRequest,
} from '../../proto/gen/containerd/services/content/v1/content.js'
import { DiffService } from '../../proto/gen/containerd/services/diff/v1/diff.js'
import { SnapshotsService } from '../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import { NetworkService } from '../../proto/gen/purser/network/v1/network.js'
import { RuntimeService } from '../../proto/gen/purser/runtime/v1/runtime.js'
import type { Settings } from './config.js'
import type { SnapshotterCalls, WriteBlob } from './effects/ports.js'
import { duplex, pluginClient, pluginSource } from './plugins/clients.js'
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
  const contentSource = pluginSource(directory, 'content', 'local')
  const snapshotters = new Map<string, SnapshotterCalls>()
  /** Throws INVALID_ARGUMENT for one that nobody knows, in containerd's words. */
  const checkSnapshotter = (name: string): void => {
    if (directory.list().some(plugin => plugin.kind === 'snapshotter' && plugin.id === name)) return
    if (bundledPlugins.some(plugin => plugin.kind === 'snapshotter' && plugin.id === name)) return
    throw invalidArgument(`snapshotter not loaded: ${name}`)
  }
  const snapshotter = (name: string): SnapshotterCalls => {
    checkSnapshotter(name)
    const known = snapshotters.get(name) ?? pluginClient(pluginSource(directory, 'snapshotter', name), SnapshotsService)
    snapshotters.set(name, known)
    return known
  }
  const writeBlob: WriteBlob = async (namespace, digest, data) => {
    const stream = duplex(await contentSource(), ContentService.write, { namespace })
    const all = { ref: `blob-${digest}`, total: BigInt(data.length), expected: digest, offset: 0n, data }
    try {
      stream.write(WriteContentRequest.create({ action: WriteAction.COMMIT, ...all }))
      stream.end()
      for await (const _ of stream);
    } catch (error) {
      const failure = toStatusError(error)
      if (failure.code !== Code.ALREADY_EXISTS) throw failure
    }
  }
  return {
    writeBlob,
    runtime: pluginClient(pluginSource(directory, 'runtime', 'v2'), RuntimeService),
    network: pluginClient(pluginSource(directory, 'network', 'cni'), NetworkService),
    content: pluginClient(contentSource, ContentService),
    differ: pluginClient(pluginSource(directory, 'differ', 'walking'), DiffService),
    /** A write at the content plugin, messages as bytes, to be passed on as they are. */
    openWrite: async (options: CallOptions) => duplex(await contentSource(), raw(ContentService.write), options),
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
