// A complete plugin, the example of plugins/README.md: a network that only counts, for machines without CNI.

import { notFound } from '../../../plugins/kit/errors.js'
import { pluginMain } from '../../../plugins/kit/main.js'
import { type PluginDefinition, requireString } from '../../../plugins/kit/plugin.js'
import { unary } from '../../../plugins/kit/serve.js'
import { Any } from '../../../proto/gen/google/protobuf/any.js'
import { type Attachment, type NetworkServer, NetworkService } from '../../../proto/gen/purser/network/v1/network.js'

const countingNetwork: PluginDefinition = {
  kind: 'network',
  id: 'counting',
  version: '1.0.0',
  capabilities: [],
  async open({ config, log, emit }) {
    const network = requireString(config, 'network')
    const attachments = new Map<string, Attachment>()

    const implementation: NetworkServer = {
      attach: unary(async request => {
        if (request.network !== network) throw notFound(`network ${request.network}`)
        const key = `${request.namespace}/${request.id}`
        const attachment = attachments.get(key) ?? hostAttachment(request, network)
        attachments.set(key, attachment)
        // Resolves once the event is in the journal; the id makes a repeated Attach one event.
        const sequence = await emit({
          namespace: request.namespace,
          topic: '/networks/counting/attached',
          event: Any.create({ typeUrl: 'example.Attached', value: Buffer.from(request.id) }),
          id: `attached/${key}`,
        })
        log.info({ container: request.id, sequence: sequence.toString() }, 'attached')
        return { attachment }
      }),
      check: unary(({ namespace, id }) => {
        if (!attachments.has(`${namespace}/${id}`)) throw notFound(`attachment of container ${id}`)
        return {}
      }),
      detach: unary(({ namespace, id }) => {
        attachments.delete(`${namespace}/${id}`)
        return {}
      }),
      list: unary(() => ({ attachments: [...attachments.values()] })),
      networks: unary(() => ({ names: [network] })),
    }

    return {
      services: [{ definition: NetworkService, implementation }],
      async close() {
        attachments.clear()
      },
    }
  },
}

function hostAttachment({ namespace, id }: { namespace: string; id: string }, network: string): Attachment {
  const netnsPath = '/proc/1/ns/net'
  return { namespace, id, network, netnsPath, addresses: [], gateways: [], interface: '', result: Buffer.alloc(0) }
}

void pluginMain([countingNetwork])
