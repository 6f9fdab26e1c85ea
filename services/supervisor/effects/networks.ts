// A container's network: attached before its task is created, detached before the task counts as deleted.
import type { Logger } from 'pino'
import { updateContainer } from '../domain/container/decide.js'
import { accept, isRefusal } from '../domain/decision.js'
import { stepNetwork } from '../domain/network/decide.js'
import type { NetworkAttachRequested, NetworkDetachRequested, NetworkEvent } from '../domain/network/events.js'
import { containerStream } from '../domain/streams.js'
import type { Labels } from '../domain/values.js'
import type { Cause, Intent, Runner } from '../runner.js'
import type { Store } from '../state/store.js'
import { type AskAgain, settle } from './answers.js'
import type { NetworkCalls } from './ports.js'
import { answerTo } from './supervisor.js'

/** The label by which a container asks for a network. */
const networkLabel = 'io.purser/network'
/** The label in which it finds its addresses, comma-separated in CIDR notation, while it holds them. */
const addressesLabel = 'io.purser/network.addresses'

/** A chain of CNI plugins takes a tenth of a second; a DHCP lease may take many. */
const callDeadlineMs = 90_000

export class Networks {
  /** By container: a call is under way. */
  private readonly detaching = new Set<string>()

  constructor(
    private readonly runner: Runner,
    private readonly store: Store,
    private readonly network: NetworkCalls,
    private readonly log: Logger,
    private readonly askAgain: AskAgain,
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
    const { state, facts } = this.store.world.namespace(namespace).network(containerId)
    if (state === 'absent' || this.detaching.has(`${namespace}/${containerId}`)) return
    const event = { type: 'NetworkDetachRequested', containerId, network: facts.network } as const
    try {
      if (state !== 'detaching') await this.step(cause, namespace, event)
      // It was asked for, and the answer was lost.
      else await this.detach({ namespace, cause, event, sequence: 0n }, event)
    } catch (error) {
      this.log.error(
        { err: error, namespace, id: containerId, network: facts.network },
        'the network could not be detached; it is tried again',
      )
    }
  }

  async attach(intent: Intent, { containerId, network }: NetworkAttachRequested): Promise<void> {
    const { namespace } = intent
    const place = { namespace, id: containerId, network }
    await this.settle({
      call: async () => {
        const { attachment } = await this.network.attach({ ...place, ports: [] }, { deadlineMs: callDeadlineMs })
        if (!attachment) throw new Error('the network plugin answered without an attachment')
        return attachment
      },
      succeeded: ({ netnsPath, addresses, gateways, interface: name }) => {
        const of = { containerId, network, netnsPath, addresses, gateways, interface: name }
        return this.answer(intent, { type: 'NetworkAttached', ...of }, labels => ({
          ...labels,
          [addressesLabel]: addresses.join(','),
        }))
      },
      failed: async reason => {
        await this.answer(intent, { type: 'NetworkAttachFailed', containerId, network, reason })
        this.askAgain('network') // the plugin has cleaned up, or still lists what it could not
      },
      takeBack: () => this.network.detach(place, { deadlineMs: callDeadlineMs }),
    })
  }

  async detach(intent: Intent, { containerId, network }: NetworkDetachRequested): Promise<void> {
    const { namespace } = intent
    const key = `${namespace}/${containerId}`
    this.detaching.add(key)
    try {
      await this.settle({
        call: () => this.network.detach({ namespace, id: containerId, network }, { deadlineMs: callDeadlineMs }),
        succeeded: () =>
          this.answer(
            intent,
            { type: 'NetworkDetached', containerId, network },
            ({ [addressesLabel]: _, ...labels }) => labels,
          ),
        failed: async reason => {
          await this.answer(intent, { type: 'NetworkDetachFailed', containerId, network, reason })
          this.askAgain('network')
        },
      })
    } finally {
      this.detaching.delete(key)
    }
  }

  private settle<Answer>(steps: Parameters<typeof settle<Answer>>[1]): Promise<void> {
    return settle(() => this.askAgain('network'), steps)
  }

  private async step(cause: Cause, namespace: string, event: NetworkEvent): Promise<void> {
    await this.runner.complete(cause, containerStream(namespace, event.containerId), world =>
      stepNetwork(namespace, world.namespace(namespace).network(event.containerId), event),
    )
  }

  /** The container's labels tell its addresses: they change with the fact that changes these, in one batch. */
  private async answer(
    intent: Intent,
    event: NetworkEvent,
    relabel: (labels: Labels) => Labels = labels => labels,
  ): Promise<void> {
    const { namespace } = intent
    const { containerId } = event
    await this.runner.complete(answerTo(intent), containerStream(namespace, containerId), world => {
      const here = world.namespace(namespace)
      const step = stepNetwork(namespace, here.network(containerId), event)
      const container = here.container(containerId)
      const { record } = container.facts
      const labels = record && relabel(record.labels)
      // Of a container that was deleted meanwhile nobody is left to tell.
      if (isRefusal(step) || !record || !labels || labels === record.labels) return step
      const update = updateContainer(namespace, container, { ...record, labels }, [])
      return isRefusal(update) ? step : accept(...step.facts, ...update.facts)
    })
  }
}
