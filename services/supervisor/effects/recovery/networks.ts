// Compares the journal's attachments with the network plugin's, whenever that plugin has (re)registered.
import type { Logger } from 'pino'
import type { Attachment } from '../../../../proto/gen/purser/network/v1/network.js'
import { networkMachine } from '../../domain/network/machine.js'
import type { Store } from '../../state/store.js'
import type { Networks } from '../networks.js'
import type { Busy, Recovering } from '../perform.js'
import type { NetworkCalls } from '../ports.js'
import { ownCause } from '../supervisor.js'

interface Place {
  namespace: string
  id: string
}

export class NetworkRecovery {
  constructor(
    private readonly store: Store,
    private readonly network: NetworkCalls,
    private readonly networks: Networks,
    private readonly busy: Busy,
    private readonly recovering: Recovering,
    private readonly log: Logger,
  ) {}

  /**
   * Takes back what nobody holds: records of the plugin that the journal does not know, and attachments whose task is
   * gone or was never made. What a living task holds is left alone. Answers whether nothing is left to be done.
   */
  async run(): Promise<boolean> {
    const { attachments } = await this.network.list({})
    let isDone = true
    for (const place of attachments) {
      if (this.recorded(place).state !== 'absent') continue
      if (this.busy.has(place.namespace, place.id) || !(await this.release(place))) isDone = false
    }
    for (const [namespace, here] of this.store.world.namespaces) {
      for (const [id, { state }] of here.networks) {
        if (here.task(id).state !== 'absent' && !networkMachine.awaitsAnswer(state)) continue
        const place = { namespace, id }
        if (!this.busy.has(namespace, id)) await this.detach(place)
        if (this.recorded(place).state !== 'absent') isDone = false
      }
    }
    return isDone
  }

  /** Attachments that the journal does not know. */
  async orphans(): Promise<Attachment[]> {
    const { attachments } = await this.network.list({})
    return attachments.filter(place => this.recorded(place).state === 'absent')
  }

  /** Answers whether the plugin has released it. */
  private release({ namespace, id, network }: Attachment): Promise<boolean> {
    return this.recovering.during(namespace, id, async () => {
      if (this.busy.has(namespace, id)) return false
      this.log.info({ namespace, id, network }, 'releasing a network attachment that no record knows')
      try {
        await this.network.detach({ namespace, id, network }, { deadlineMs: 90_000 })
        return true
      } catch (error) {
        this.log.error({ err: error, namespace, id, network }, 'it could not be released; it is tried again')
        return false
      }
    })
  }

  private detach({ namespace, id }: Place): Promise<void> {
    const event = { type: 'NetworkDetachRequested', containerId: id, network: '' } as const
    const intent = { namespace, sequence: 0n, event, cause: ownCause('recovery') }
    return this.recovering.during(namespace, id, () => this.networks.detachIfAttached(intent, id))
  }

  private recorded({ namespace, id }: Place) {
    return this.store.world.namespace(namespace).network(id)
  }
}
