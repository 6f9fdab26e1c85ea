// A container's network: attached before its task is created, detached before the task counts as deleted.
import type { Logger } from 'pino'
import { updateContainer } from '../domain/container/decide.js'
import { isRefusal } from '../domain/decision.js'
import { stepNetwork } from '../domain/network/decide.js'
import type { NetworkAttachRequested, NetworkDetachRequested, NetworkEvent } from '../domain/network/events.js'
import { containerStream } from '../domain/streams.js'
import type { Labels } from '../domain/values.js'
import type { Cause, Intent, Runner } from '../runner.js'
import type { Store } from '../state/store.js'
import type { NetworkCalls } from './ports.js'
import { answerTo, messageOf, ownCause } from './supervisor.js'

/** The label by which a container asks for a network. */
export const networkLabel = 'io.purser/network'
/** The label in which it finds its addresses, comma-separated in CIDR notation, while it holds them. */
export const addressesLabel = 'io.purser/network.addresses'

/** A chain of CNI plugins takes a tenth of a second; a DHCP lease may take many. */
const callDeadlineMs = 90_000
const retryAfterMs = 30_000

export class Networks {
  private readonly retries = new Set<NodeJS.Timeout>()

  constructor(
    private readonly runner: Runner,
    private readonly store: Store,
    private readonly network: NetworkCalls,
    private readonly log: Logger,
  ) {}

  /** The pinned network namespace of a container that asks for a network, '' for one that doesn't. */
  async attachIfAsked({ namespace, cause }: Intent, containerId: string): Promise<string> {
    const here = this.store.world.namespace(namespace)
    const network = here.container(containerId).facts.record?.labels[networkLabel]
    if (!network) return ''
    await this.step(cause, namespace, { type: 'NetworkAttachRequested', containerId, network })
    return this.store.world.namespace(namespace).network(containerId).facts.netnsPath
  }

  /** A failure is recorded and tried again later: it must not keep the container from being deleted. */
  async detachIfAttached({ namespace, cause }: Intent, containerId: string): Promise<void> {
    const attachment = this.store.world.namespace(namespace).network(containerId)
    if (attachment.state === 'absent' || attachment.state === 'detaching') return
    const { network } = attachment.facts
    try {
      await this.step(cause, namespace, { type: 'NetworkDetachRequested', containerId, network })
    } catch (error) {
      this.log.error(
        { err: error, namespace, id: containerId, network },
        'the network could not be detached; it is tried again',
      )
    }
  }

  async attach(intent: Intent, { containerId, network }: NetworkAttachRequested): Promise<void> {
    const { namespace } = intent
    try {
      const { attachment } = await this.network.attach(
        { namespace, id: containerId, network, ports: [] },
        { deadlineMs: callDeadlineMs },
      )
      if (!attachment) throw new Error('the network plugin answered without an attachment')
      const { netnsPath, addresses, gateways } = attachment
      await this.answer(intent, {
        type: 'NetworkAttached',
        containerId,
        network,
        netnsPath,
        addresses,
        gateways,
        interface: attachment.interface,
      })
      await this.label(intent, containerId, labels => ({ ...labels, [addressesLabel]: addresses.join(',') }))
    } catch (error) {
      await this.takeBack(namespace, containerId, network)
      await this.answer(intent, { type: 'NetworkAttachFailed', containerId, network, reason: messageOf(error) })
      throw error
    }
  }

  async detach(intent: Intent, { containerId, network }: NetworkDetachRequested): Promise<void> {
    const { namespace } = intent
    try {
      await this.network.detach({ namespace, id: containerId, network }, { deadlineMs: callDeadlineMs })
    } catch (error) {
      await this.answer(intent, { type: 'NetworkDetachFailed', containerId, network, reason: messageOf(error) })
      this.retryLater(namespace, containerId)
      throw error
    }
    await this.answer(intent, { type: 'NetworkDetached', containerId, network })
    await this.label(intent, containerId, ({ [addressesLabel]: _, ...labels }) => labels)
  }

  close(): void {
    for (const retry of this.retries) clearTimeout(retry)
  }

  private retryLater(namespace: string, containerId: string): void {
    const retry = setTimeout(() => {
      this.retries.delete(retry)
      const intent: Intent = {
        namespace,
        sequence: 0n,
        event: { type: 'NetworkDetachRequested', containerId, network: '' },
        cause: ownCause('retry'),
      }
      void this.detachIfAttached(intent, containerId)
    }, retryAfterMs)
    this.retries.add(retry)
  }

  /** After a failed attach the plugin has cleaned up; after a lost answer nobody knows, and detach is idempotent. */
  private async takeBack(namespace: string, id: string, network: string): Promise<void> {
    try {
      await this.network.detach({ namespace, id, network }, { deadlineMs: callDeadlineMs })
    } catch (error) {
      this.log.warn(
        { err: error, namespace, id, network },
        'the remains of a failed attach are removed when the network plugin is back',
      )
    }
  }

  private async step(cause: Cause, namespace: string, event: NetworkEvent): Promise<void> {
    await this.runner.complete(cause, containerStream(namespace, event.containerId), world =>
      stepNetwork(namespace, world.namespace(namespace).network(event.containerId), event),
    )
  }

  private async answer(intent: Intent, event: NetworkEvent): Promise<void> {
    await this.step(answerTo(intent), intent.namespace, event)
  }

  private async label(intent: Intent, containerId: string, change: (labels: Labels) => Labels): Promise<void> {
    const { namespace } = intent
    const outcome = await this.runner.attempt(answerTo(intent), containerStream(namespace, containerId), world => {
      const container = world.namespace(namespace).container(containerId)
      const record = container.facts.record
      if (!record) return { facts: [] } // deleted meanwhile: nobody is left to tell
      return updateContainer(namespace, container, { ...record, labels: change(record.labels) }, [])
    })
    if (isRefusal(outcome)) this.log.warn({ namespace, id: containerId }, outcome.message)
  }
}
