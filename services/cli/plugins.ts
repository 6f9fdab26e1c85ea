// `purser plugins`: who is registered.
import { IntrospectionClient } from '../../proto/gen/containerd/services/introspection/v1/introspection.js'
import { ask, type Target, withClient } from './client.js'

export async function listPlugins(target: Target): Promise<string[][]> {
  const { plugins } = await withClient(IntrospectionClient, target, client =>
    ask(target, client.plugins.bind(client), { filters: [] }),
  )
  const rows = plugins.map(({ type, id, initErr }) => [type, id, initErr ? initErr.message : 'ok'])
  return [['TYPE', 'ID', 'STATE'], ...rows]
}
