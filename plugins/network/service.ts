// purser.network.v1.Network on the wire: decode and validate, ask the attachments, encode.
import { isIP } from 'node:net'
import type { Attachment, NetworkServer, PortMapping as WirePort } from '../../proto/gen/purser/network/v1/network.js'
import { invalidArgument } from '../kit/errors.js'
import { unary } from '../kit/serve.js'
import type { Attachments, Listed, PortMapping } from './attachments.js'
import { addresses, gateways } from './cni/result.js'
import type { Networks } from './networks.js'
import type { AttachmentKey } from './record.js'

export function networkService(attachments: Attachments, networks: Networks): NetworkServer {
  return {
    attach: unary(async request => {
      const ports = request.ports.map(parsePort)
      return { attachment: encode(await attachments.attach(parseKey(request), parseNetwork(request.network), ports)) }
    }),
    check: unary(async request => {
      await attachments.check(parseKey(request), request.network)
      return {}
    }),
    detach: unary(async request => {
      await attachments.detach(parseKey(request), request.network)
      return {}
    }),
    list: unary(async () => ({ attachments: (await attachments.list()).map(encode) })),
    networks: unary(async () => ({ names: await networks.names() })),
  }
}

// containerd's rule for namespaces and ids (identifiers.Validate); it also keeps them apart in file names.
const identifierRule = /^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$/
const identifierLengthMax = 76

function parseKey({ namespace, id }: AttachmentKey): AttachmentKey {
  for (const [name, value] of Object.entries({ namespace, id }))
    if (value.length > identifierLengthMax || !identifierRule.test(value))
      throw invalidArgument(`${name} ${JSON.stringify(value)} is no identifier`)
  return { namespace, id }
}

function parseNetwork(network: string): string {
  if (network === '') throw invalidArgument('the name of the network is missing')
  return network
}

function parsePort({ hostPort, containerPort, protocol, hostIp }: WirePort): PortMapping {
  for (const port of [hostPort, containerPort])
    if (port < 1 || port > 65_535) throw invalidArgument(`port ${port} is not between 1 and 65535`)
  if (!['tcp', 'udp', 'sctp'].includes(protocol))
    throw invalidArgument(`protocol ${JSON.stringify(protocol)} is none of tcp, udp and sctp`)
  if (hostIp !== '' && isIP(hostIp) === 0) throw invalidArgument(`${JSON.stringify(hostIp)} is no IP address`)
  return { hostPort, containerPort, protocol, ...(hostIp !== '' && { hostIP: hostIp }) }
}

/** What is only half done has no addresses and an empty result. */
function encode(listed: Listed): Attachment {
  const record = 'stage' in listed ? listed : undefined
  const result = record?.stage === 'attached' ? record.result : undefined
  return {
    namespace: listed.namespace,
    id: listed.id,
    network: record?.list.name ?? '',
    netnsPath: record?.netns ?? '',
    interface: record?.interface ?? '',
    addresses: result ? addresses(result) : [],
    gateways: result ? gateways(result) : [],
    result: Buffer.from(result ? JSON.stringify(result) : ''),
  }
}
