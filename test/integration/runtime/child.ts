// The plugin in a process of its own: opened as its parent orders, emitting to it.
import { once } from 'node:events'
import { type ChildOrder, type EmissionMessage, serveHere } from './served.js'

const [order]: ChildOrder[] = await once(process, 'message')
const acknowledgements = new Map<string, () => void>()
process.on('message', (id: string) => acknowledgements.get(id)?.())

if (order) {
  const served = await serveHere(order.config, order.socket, ({ id = '', namespace, topic, event }) => {
    const message: EmissionMessage = {
      id,
      namespace,
      topic,
      typeUrl: event.typeUrl,
      value: event.value.toString('base64'),
    }
    process.send?.(message)
    return new Promise(resolve => acknowledgements.set(id, () => resolve(1n)))
  })
  process.once('SIGTERM', () => void served.close().then(() => process.exit(0)))
  process.send?.('open')
}
