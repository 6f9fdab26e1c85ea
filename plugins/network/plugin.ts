// The network plugin: Purser's purser.network.v1.Network over the CNI plugins of the machine.
import { NetworkService } from '../../proto/gen/purser/network/v1/network.js'
import type { OpenPlugin, PluginContext, PluginDefinition } from '../kit/plugin.js'
import { Attachments } from './attachments.js'
import { Networks } from './networks.js'
import { networkService } from './service.js'
import { readSettings } from './settings.js'

export const definitions: PluginDefinition[] = [
  { kind: 'network', id: 'cni', version: '0.1.0', capabilities: ['exclusive'], open },
]

async function open({ config, log }: PluginContext): Promise<OpenPlugin> {
  const settings = readSettings(config)
  const networks = new Networks(settings.confDirs, settings.inline, log)
  const attachments = new Attachments(settings, networks, log)
  await attachments.open()
  return {
    services: [{ definition: NetworkService, implementation: networkService(attachments, networks) }],
    close: () => attachments.close(),
  }
}
