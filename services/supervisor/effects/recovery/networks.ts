// Compares the journal's attachments with the network plugin's, whenever that plugin has (re)registered.
import type { Logger } from 'pino'
import type { Store } from '../../state/store.js'
import type { Networks } from '../networks.js'
import type { Busy } from '../perform.js'
import type { NetworkCalls } from '../ports.js'
import { ownCause } from '../supervisor.js'

export class NetworkRecovery {
  constructor(
    private readonly store: Store,
    private readonly network: NetworkCalls,
    private readonly networks: Networks,
    private readonly busy: Busy,
    private readonly log: Logger,
  ) {}

  /**
   * Takes back what nobody holds: records of the plugin that the journal does not know, and attachments whose task is
   * gone or was never made. What a living task holds is left alone.
   */
  async run(): Promise<void> {
    const { attachments } = await this.network.list({})
    for (const { namespace, id, network } of attachments) {
      if (this.busy.has(namespace, id) || this.store.world.namespace(namespace).network(id).state !== 'absent') continue
      this.log.info({ namespace, id, network }, 'releasing a network attachment that no record knows')
      await this.network.detach({ namespace, id, network }, { deadlineMs: 90_000 }).catch(error => {
        this.log.error({ err: error, namespace, id, network }, 'it could not be released; the next start tries again')
      })
    }
    for (const [namespace, here] of this.store.world.namespaces) {
      for (const [id, { facts }] of here.networks) {
        if (here.task(id).state !== 'absent' || this.busy.has(namespace, id)) continue
        const event = { type: 'NetworkDetachRequested', containerId: id, network: facts.network } as const
        await this.networks.detachIfAttached({ namespace, sequence: 0n, event, cause: ownCause('recovery') }, id)
      }
    }
  }
}
