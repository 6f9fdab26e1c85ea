// The network plugin in a process of its own, without a supervisor: argv holds its socket and its configuration.
import { Server } from '@grpc/grpc-js'
import { pino } from 'pino'
import { listen } from '../../../plugins/kit/listen.js'
import { definitions } from '../../../plugins/network/plugin.js'

const [, , socket = '', config = '{}'] = process.argv
const [definition] = definitions
if (!definition) throw new Error('the network plugin defines nothing')

const plugin = await definition.open({
  config: JSON.parse(config),
  log: pino(pino.destination(2)),
  emit: () => Promise.reject(new Error('nobody listens to events here')),
  tellUnresponsive() {},
  signal: AbortSignal.timeout(2 ** 31 - 1),
})
const server = new Server()
for (const service of plugin.services) server.addService(service.definition, service.implementation)
const listener = await listen(server, socket)
process.stdout.write('serving\n')

process.once('SIGTERM', async () => {
  await listener.close(10_000)
  await plugin.close()
  process.exit()
})
