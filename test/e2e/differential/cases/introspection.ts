// Introspection and Version: what a server says of itself.
import { IntrospectionService } from '../../../../proto/gen/containerd/services/introspection/v1/introspection.js'
import { VersionService } from '../../../../proto/gen/containerd/services/version/v1/version.js'
import type { Case, Stage } from '../stage.js'

const plugins = async (at: Stage, filters: string[]) => {
  const { plugins } = await at.do(IntrospectionService.plugins, { filters })
  return plugins.map(({ type, id }) => `${type} ${id}`)
}

const filtered = (name: string, filters: string[]): Case => ({
  name: `introspection: filter: ${name}`,
  async steps(at) {
    await at.watch('plugins', plugins(at, filters))
  },
})

export const introspection: Case[] = [
  {
    name: 'introspection: what clients look for is there',
    async steps(at) {
      const { plugins } = await at.do(IntrospectionService.plugins, { filters: [] })
      for (const [type, id] of [
        ['io.containerd.snapshotter.v1', 'overlayfs'],
        ['io.containerd.content.v1', 'content'],
        ['io.containerd.runtime.v2', 'task'],
        ['io.containerd.differ.v1', 'walking'],
        ...['containers', 'content', 'diff', 'events', 'images', 'leases', 'namespaces', 'snapshots', 'tasks'].map(
          id => ['io.containerd.grpc.v1', id] as const,
        ),
        ...['introspection', 'version', 'healthcheck'].map(id => ['io.containerd.grpc.v1', id] as const),
      ]) {
        const found = plugins.find(plugin => plugin.type === type && plugin.id === id)
        at.see(`${type} ${id}`, found && { failed: found.initErr !== undefined })
      }
    },
  },
  filtered('one plugin', ['type==io.containerd.snapshotter.v1,id==overlayfs']),
  filtered('either of two', ['id==containers', 'id==tasks']),
  filtered('id by pattern', ['id~=^namespaces$']),
  filtered('nothing', ['id==none']),
  filtered('one that is none', ['id==']),
  {
    name: 'introspection: the server',
    async steps(at) {
      const { uuid, pid, pidns } = await at.do(IntrospectionService.server, {})
      at.see('uuid', /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(uuid))
      at.see('same', uuid === (await at.do(IntrospectionService.server, {})).uuid)
      // containerd 1.6 tells neither.
      at.see('pid', pid === 0n || Number(pid) === at.host.pid || pidns > 0n)
    },
  },
  {
    name: 'introspection: without a namespace',
    async steps(at) {
      const none = { namespace: '' }
      at.see('server', (await at.do(IntrospectionService.server, {}, none)).uuid !== '')
      const { plugins } = await at.do(IntrospectionService.plugins, { filters: ['id==tasks'] }, none)
      at.see(
        'plugins',
        plugins.some(({ id }) => id === 'tasks'),
      )
    },
  },
  {
    name: 'version: with and without a namespace',
    async steps(at) {
      at.see('with', /\d/.test((await at.do(VersionService.version, {})).version))
      at.see('without', /\d/.test((await at.do(VersionService.version, {}, { namespace: '' })).version))
    },
  },
]
