// The services that answer from the fold, served for a test: a journal in memory, a real server on a private socket.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Server } from '@grpc/grpc-js'
import pino from 'pino'
import { listen } from '../../../plugins/kit/listen.js'
import { messageLimits } from '../../../plugins/kit/serve.js'
import { BlobFiles } from '../../../services/supervisor/api/blobFiles.js'
import type { PluginListing } from '../../../services/supervisor/api/introspection.js'
import type { CallObservation } from '../../../services/supervisor/api/observe.js'
import { addServices, type Service } from '../../../services/supervisor/api/services.js'
import { Traffic } from '../../../services/supervisor/api/traffic.js'
import { systemClock } from '../../../services/supervisor/clock.js'
import type { Decision } from '../../../services/supervisor/domain/decision.js'
import { Feed, type FeedOptions } from '../../../services/supervisor/feed/feed.js'
import { openMemoryJournal } from '../../../services/supervisor/journal/memoryLog.js'
import { Runner } from '../../../services/supervisor/runner.js'
import { HeavyParts } from '../../../services/supervisor/state/heavy.js'
import { Store } from '../../../services/supervisor/state/store.js'
import { Rpc } from '../../harness/rpc.js'

interface Scope {
  teardown(close: () => Promise<void> | void): void
}

export interface ServedOptions {
  plugins?: PluginListing[]
  feed?: Partial<FeedOptions>
  /** Services beside those that answer from the fold. */
  others?(parts: { runner: Runner; store: Store }): Service[]
}

export async function served(t: Scope, { plugins = [], feed: feedOptions, others = () => [] }: ServedOptions = {}) {
  const log = pino({ level: 'silent' })
  const journal = openMemoryJournal({ node: 'test', log })
  const store = await Store.open(journal, log)
  const runner = new Runner(store, journal, systemClock())
  /** Reads of heavy parts that went to the journal. */
  const reads: string[] = []
  const heavy = new HeavyParts({
    attachment: (sequence, index) => {
      reads.push(`${sequence}/${index}`)
      return journal.attachment(sequence, index)
    },
  })
  const feed = new Feed({ journal, store, ...feedOptions })
  const stopping = new AbortController()
  const health = { serving: true }
  const observed: CallObservation[] = []
  const server = new Server(messageLimits)
  addServices(
    server,
    {
      runner,
      store,
      journal,
      feed,
      heavy,
      files: new BlobFiles(() => Promise.reject(new Error('there are no blobs here'))),
      collect: async () => {},
      log,
      stopping: stopping.signal,
      plugins: { list: () => plugins },
      serving: () => health.serving,
      observe: call => void observed.push(call),
      traffic: new Traffic(),
      compact: async () => ({ first: journal.first(), droppedSegments: 0, droppedEvents: 0n, moved: 0, heldBy: '' }),
      orphans: async () => ({ found: [], unasked: [] }),
      upgrade: async function* () {},
      version: '0.1.0',
      revision: 'abc',
    },
    others({ runner, store }),
  )
  const directory = await mkdtemp(join(tmpdir(), 'purser-api-'))
  const listener = await listen(server, join(directory, 's.sock'))
  const rpc = new Rpc(listener.path)
  t.teardown(async () => {
    stopping.abort()
    rpc.close()
    await listener.close(1000)
    await store.close()
    await journal.close()
    await rm(directory, { recursive: true, force: true })
  })
  const cause = { actor: { pid: 0, uid: 0, gid: 0, name: 'test' }, causation: 'test', correlation: 'test' }
  /** Makes something happen that no service of these can. */
  const happen = (...facts: Extract<Decision, { facts: unknown }>['facts']) =>
    runner.complete(cause, 'test', () => ({ facts }))
  return { rpc, store, journal, feed, reads, observed, health, stopping, happen }
}
