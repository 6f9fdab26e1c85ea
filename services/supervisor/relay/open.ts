// The relay as the configuration wants it: to a private nats-server, to somebody's own, or not at all.
import { join } from 'node:path'
import type { Logger } from 'pino'
import type { Settings } from '../config.js'
import type { Journal, JournalRecord } from '../journal/journal.js'
import type { Publication } from '../state/publication.js'
import { type Broker, remoteBroker } from './broker.js'
import { embeddedBroker } from './embedded.js'
import { type RelayStatus, startRelay } from './relay.js'

export interface OpenRelay {
  /** undefined when nothing is relayed. */
  status(): RelayStatus | undefined
  waitingSince(): Promise<bigint | undefined>
  close(): Promise<void>
}

export interface RelayDeps {
  settings: Settings
  journal: Journal
  publication(record: JournalRecord): Publication
  /** Its client and its server take a tenth of a second to load: they wait for whoever serves containers. */
  begins: Promise<void>
  log: Logger
}

/** Returns at once; the broker may come later. */
export function openRelay({ settings, journal, publication, begins, log }: RelayDeps): OpenRelay {
  const broker = brokerFor(settings, log)
  if (!broker) return { status: () => undefined, waitingSince: async () => undefined, close: async () => {} }
  const { stream, streamMaxBytes, streamReplicas } = settings.nats
  const relay = startRelay({
    journal,
    publication,
    node: settings.node,
    broker,
    log,
    memoryPath: join(settings.root, 'relay.json'),
    begins,
    stream: {
      ...(stream && { name: stream }),
      ...(streamMaxBytes && { bytesMax: streamMaxBytes }),
      ...(streamReplicas && { replicas: streamReplicas }),
    },
  })
  return {
    status: () => relay.status(),
    waitingSince: () => relay.waitingSince(),
    async close() {
      await relay.stop()
      await broker.close()
    },
  }
}

function brokerFor({ root, state, nats }: Settings, log: Logger): Broker | undefined {
  if (nats.server === 'off') return undefined
  if (nats.server === 'embedded') return embeddedBroker({ root, state, log })
  return remoteBroker({ url: nats.server, ...nats.login, ...(Object.keys(nats.tls).length > 0 && { tls: nats.tls }) })
}
