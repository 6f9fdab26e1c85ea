// `purser plugins`: who is registered.
import type { Command } from 'commander'
import { IntrospectionClient } from '../../proto/gen/containerd/services/introspection/v1/introspection.js'
import { ask, type Target, withClient } from './client.js'
import { printTable } from './print.js'

export function plugins(program: Command): void {
  program
    .command('plugins')
    .description('list the plugins and whether they serve')
    .action(async () => printTable(await listPlugins(program.opts())))
}

async function listPlugins(target: Target): Promise<string[][]> {
  const { plugins: listed } = await withClient(IntrospectionClient, target, client =>
    ask(target, client.plugins.bind(client), { filters: [] }),
  )
  const rows = listed.map(({ type, id, initErr }) => [type, id, initErr ? initErr.message : 'ok'])
  return [['TYPE', 'ID', 'STATE'], ...rows]
}
