// containerd.services.introspection.v1.Introspection: what this server is made of, in containerd's names.
import { createHash } from 'node:crypto'
import { statSync } from 'node:fs'
import { Code, notFound, unimplemented } from '../../../plugins/kit/errors.js'
import { unary } from '../../../plugins/kit/serve.js'
import type {
  IntrospectionServer,
  Plugin,
} from '../../../proto/gen/containerd/services/introspection/v1/introspection.js'
import type { Platform } from '../../../proto/gen/containerd/types/platform.js'
import { present } from '../domain/filter.js'
import { filtersOf } from './call.js'

/** A plugin as its directory knows it: of each (kind, id) there may be several, of which one serves. */
export interface PluginListing {
  kind: string
  id: string
  state: 'opening' | 'ready' | 'draining' | 'lost' | 'left'
  /** Why it is not ready; '' when nobody said. */
  reason: string
  version: string
  capabilities: readonly string[]
  exports: Readonly<Record<string, string>>
}

export interface IntrospectionDeps {
  plugins: { list(): readonly PluginListing[] }
  journal: { readonly id: string }
  /** The services of this server by their ids in containerd: "containers", "tasks", … */
  services: readonly string[]
}

export function introspectionService({ plugins, journal, services }: IntrospectionDeps): IntrospectionServer {
  const uuid = uuidOf(journal.id)
  // The inode of the namespace in which `pid` means something. It cannot change while the process lives.
  const pidns = statSync('/proc/self/ns/pid', { bigint: true }).ino
  const all = () => [...chosen(plugins.list()).map(pluginOf), restartMonitor, ...services.map(serviceOf)]
  return {
    plugins: unary(({ filters }) => {
      const filter = filtersOf(filters)
      return {
        plugins: all().filter(({ type, id }) =>
          filter(([field]) => (field === 'type' ? present(type) : field === 'id' ? present(id) : undefined)),
        ),
      }
    }),
    server: unary(() => ({ uuid, pid: BigInt(process.pid), pidns, deprecations: [] })),
    pluginInfo: unary(({ type, id, options }) => {
      const plugin = all().find(plugin => plugin.type === type && plugin.id === id)
      if (!plugin) throw notFound(`plugin ${JSON.stringify(`${type}.${id}`)}`)
      if (options) throw unimplemented(`plugin "${type}.${id}" answers no questions`)
      return { plugin, extra: undefined }
    }),
  }
}

/** Of each (kind, id) the one that serves, or else the newest. */
function chosen(listings: readonly PluginListing[]): PluginListing[] {
  const byName = new Map<string, PluginListing>()
  for (const listing of listings) {
    const name = `${listing.kind}/${listing.id}`
    if (!byName.has(name) || listing.state === 'ready') byName.set(name, listing)
  }
  return [...byName.values()]
}

const typeOfKind: Readonly<Record<string, string>> = {
  snapshotter: 'io.containerd.snapshotter.v1',
  content: 'io.containerd.content.v1',
  differ: 'io.containerd.differ.v1',
  runtime: 'io.containerd.runtime.v2',
  network: 'io.purser.network.v1',
}

/** What containerd calls the parts that our bundled plugins stand for. */
const containerdIds: Readonly<Record<string, string>> = { 'content/local': 'content', 'runtime/v2': 'task' }

function pluginOf({ kind, id, state, reason, capabilities, exports }: PluginListing): Plugin {
  const fails = state !== 'ready' && state !== 'draining'
  const message = `${kind} plugin "${id}" is ${state}${reason && `: ${reason}`}: unavailable`
  return {
    type: typeOfKind[kind] ?? `io.purser.${kind}.v1`,
    id: containerdIds[`${kind}/${id}`] ?? id,
    requires: [],
    platforms: [platform],
    exports: { ...exports },
    capabilities: [...capabilities],
    initErr: fails ? { code: Code.UNAVAILABLE, message, details: [] } : undefined,
  }
}

const serviceOf = (id: string): Plugin => ownPart('io.containerd.grpc.v1', id)

const ownPart = (type: string, id: string): Plugin => ({
  type,
  id,
  requires: [],
  platforms: [],
  exports: {},
  capabilities: [],
  initErr: undefined,
})

/** Part of the supervisor itself. */
const restartMonitor = ownPart('io.containerd.internal.v1', 'restart')

/** In Go's names. */
const architectures: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386', ppc64: 'ppc64le' }

const platform: Platform = {
  os: 'linux',
  architecture: architectures[process.arch] ?? process.arch,
  variant: '',
  osVersion: '',
  osFeatures: [],
}

/** The journal's id lives as long as the root does. One that is no UUID gets the form of one (version 8, a hash). */
function uuidOf(journalId: string): string {
  if (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(journalId)) return journalId
  const bytes = createHash('sha256').update(journalId).digest().subarray(0, 16)
  bytes.writeUInt8((bytes.readUInt8(6) & 0x0f) | 0x80, 6)
  bytes.writeUInt8((bytes.readUInt8(8) & 0x3f) | 0x80, 8)
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}
