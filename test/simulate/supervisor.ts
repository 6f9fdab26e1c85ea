// One life of the supervisor: its own journal, fold, runner, process managers, recovery, relay and API, from opening to
// the crash that ends it. Only what is beneath the ports is simulated.
import { Metadata } from '@grpc/grpc-js'
import type { Logger } from 'pino'
import { StatusError, unavailable } from '../../plugins/kit/errors.js'
import type { Unary, UnaryCall } from '../../plugins/kit/serve.js'
import type { Emit } from '../../proto/gen/purser/plugins/v1/registry.js'
import { BlobFiles } from '../../services/supervisor/api/blobFiles.js'
import { containersService } from '../../services/supervisor/api/containers.js'
import { contentService } from '../../services/supervisor/api/content.js'
import { contentWrite } from '../../services/supervisor/api/contentWrite.js'
import { imagesService } from '../../services/supervisor/api/images.js'
import { leasesService } from '../../services/supervisor/api/leases.js'
import { namespacesService } from '../../services/supervisor/api/namespaces.js'
import { snapshotsService } from '../../services/supervisor/api/snapshots.js'
import { tasksService } from '../../services/supervisor/api/tasks.js'
import { systemClock } from '../../services/supervisor/clock.js'
import { type Core, openCore } from '../../services/supervisor/core.js'
import { Collection } from '../../services/supervisor/garbage/collection.js'
import { scheduleDefaults } from '../../services/supervisor/garbage/schedule.js'
import { openFileJournal } from '../../services/supervisor/journal/fileLog.js'
import type { Journal } from '../../services/supervisor/journal/journal.js'
import { EmissionIntake } from '../../services/supervisor/plugins/intake.js'
import { type Relay, startRelay } from '../../services/supervisor/relay/relay.js'
import { Retention } from '../../services/supervisor/retention.js'
import { decodeEvent } from '../../services/supervisor/state/codec.js'
import { publicationOf } from '../../services/supervisor/state/publication.js'
import { Store } from '../../services/supervisor/state/store.js'
import { syncMilliseconds } from './broker.js'
import type { SimulatedDisk } from './disk.js'
import type { Host, Registry } from './host.js'
import type { Chance } from './random.js'
import type { Party, Time } from './time.js'
import { UploadUpstream, uploadCall } from './upload.js'

export interface Surroundings {
  time: Time
  disk: SimulatedDisk
  host: Host
  chance: Chance
  log: Logger
}

/** Small, so that a simulation meets full segments, snapshots and growing files often. */
const journalSizes = { segmentBytes: 32 * 1024, preallocateBytes: 16 * 1024, reserveBytes: 32 * 1024 }

/** How long calls have when it is stopped, in microseconds. */
const callsPatience = 5_000_000

const plugins = [
  { kind: 'snapshotter', id: 'overlayfs' },
  { kind: 'content', id: 'local' },
  { kind: 'runtime', id: 'v2' },
  { kind: 'network', id: 'cni' },
] as const

export interface CallFrom {
  namespace: string
  request: string
  lease?: string
}

export class Supervisor {
  readonly party: Party
  private readonly underWay = new Set<(error: StatusError) => void>()
  private hostLife = 0

  private constructor(
    private readonly around: Surroundings,
    party: Party,
    readonly journal: Journal,
    readonly store: Store,
    readonly core: Core,
    readonly relay: Relay,
    readonly retention: Retention,
    private readonly collection: Collection,
    readonly api: ReturnType<typeof apiOf>,
  ) {
    this.party = party
  }

  /** Opens everything as `openSupervisor` does. Must be called while `party` acts. */
  static async open(around: Surroundings, party: Party): Promise<Supervisor> {
    const { disk, host, log } = around
    const { journal, store } = await Supervisor.openStore(disk, log)
    const clock = systemClock()
    const calls = {
      runtime: host.runtime,
      network: host.network,
      content: host.content,
      snapshotter: () => host.snapshotter,
      // Nothing is checkpointed here.
      differ: { diff: nobodyReads, apply: nobodyReads },
      writeBlob: nobodyReads,
    }
    const core = await openCore({
      store,
      journal,
      clock,
      log,
      calls,
      checkpointFiles: { make: nobodyReads, remove: async () => {} },
      observe: () => {},
    })
    const relay = startRelay({
      journal,
      publication: record => publicationOf({ record, event: decodeEvent(record) }),
      node: 'node',
      broker: {
        name: 'simulated',
        exclusive: true,
        endpoint: async () => ({}),
        problem: () => undefined,
        close: async () => {},
      },
      log,
      memoryPath: '/root/relay.json',
      syncedAfterMs: 1.5 * syncMilliseconds,
    })
    const retention = new Retention({
      journal,
      store,
      runner: core.runner,
      heavy: core.heavy,
      clock,
      policy: { ageMs: undefined, bytes: undefined, events: 200 },
      relayed: () => relay.status().released,
      log,
    })
    const { blobs, snapshots } = core
    const collection = new Collection({
      ...{ store, journal, runner: core.runner, clock, blobs, snapshots, content: host.content, log },
      settings: { ...scheduleDefaults, pauseThreshold: 0 },
      observe: () => {},
    })
    const api = apiOf({ ...core, store, clock, log, collect: () => collection.collect() }, host)
    const supervisor = new Supervisor(around, party, journal, store, core, relay, retention, collection, api)
    supervisor.startHost()
    return supervisor
  }

  /** The journal and its fold alone. */
  static async openStore(disk: SimulatedDisk, log: Logger): Promise<{ journal: Journal; store: Store }> {
    const journal = await openFileJournal({ dir: '/root/journal', node: 'node', log, disk, ...journalSizes })
    return { journal, store: await Store.open(journal, log) }
  }

  /** A collection of garbage from now; resolves when it is over. Must be called while `party` acts. */
  collect(): Promise<void> {
    return this.collection.collect()
  }

  /** It is gone, whatever it was doing; its callers see their connections break. */
  crash(): void {
    this.party.alive = false
    for (const lost of this.underWay) lost(unavailable('the supervisor went away'))
    this.underWay.clear()
  }

  /** As `openSupervisor`'s close: calls get some time to end, then everything closes in the opposite order. */
  async stop(): Promise<void> {
    const { time } = this.around
    time.party = this.party
    for (let waited = 0; this.underWay.size > 0 && waited < callsPatience; waited += callsPatience / 50)
      await time.pass(callsPatience / 50, 'calls end')
    await this.collection.close()
    await this.retention.close()
    await this.relay.stop()
    this.core.close()
    await this.store.close()
    await this.journal.close()
  }

  /** A client's call, with the way there and back. */
  call<Request, Response>(
    client: Party,
    handler: Unary<Request, Response>,
    request: Request,
    from: CallFrom,
  ): Promise<Response> {
    return this.travel(client, (resolve, reject) => {
      handler(incoming(request, metadataOf(from)), (error, response) => {
        if (error || response === undefined || response === null) reject(asStatus(error))
        else resolve(response)
      })
    })
  }

  /** An upload of one blob: opened, sent, committed. */
  upload(client: Party, blob: { digest: string; size: bigint }, from: CallFrom): Promise<void> {
    return this.travel(client, (resolve, reject) =>
      this.api.write(uploadCall(blob, metadataOf(from), { resolve, reject: error => reject(asStatus(error)) })),
    )
  }

  private travel<T>(
    client: Party,
    handle: (resolve: (value: T) => void, reject: (error: StatusError) => void) => void,
  ) {
    const { time, chance } = this.around
    return new Promise<T>((resolve, reject) => {
      const back = (settle: () => void) => {
        if (this.underWay.delete(lost)) time.after(chance.delay(60), client, 'reply', settle)
      }
      const lost = (error: StatusError) => void time.after(chance.delay(60), client, 'no reply', () => reject(error))
      this.underWay.add(lost)
      time.after(chance.delay(60), this.party, 'call', () =>
        handle(
          value => back(() => resolve(value)),
          error => back(() => reject(error)),
        ),
      )
    })
  }

  /** The bundled plugins: one host at a time, started again when it is gone. One that lingers is taken up, or leaves. */
  private startHost(): void {
    const { host, time, chance } = this.around
    const takesUp = host.lingers && chance.happens(0.9)
    if (host.lingers && !takesUp) host.leave()
    if (host.runs && !takesUp) {
      time.after(5_000, this.party, 'host waits for the older one', () => this.startHost())
      return
    }
    const life = ++this.hostLife
    const isCurrent = () => life === this.hostLife
    const intake = new Map<string, () => void>()
    const emissions = new EmissionIntake({
      journal: emission => this.core.ledger.emitted({ kind: 'runtime', id: 'v2' }, emission),
      acknowledge: id => {
        intake.get(id)?.()
        intake.delete(id)
      },
      log: this.around.log,
    })
    const epochs = new Map<string, bigint>()
    const registry: Registry = {
      register: async () => {
        await Promise.all(plugins.map(plugin => this.registerOne(plugin, epochs, isCurrent)))
        if (isCurrent()) host.serve(this.party)
      },
      emit: (emission: Emit, acknowledged) => {
        time.after(this.around.chance.delay(40), this.party, 'exit heard', () => {
          if (!isCurrent()) return
          intake.set(emission.id, acknowledged)
          emissions.take(emission)
        })
      },
      lost: () => {
        this.hostLife++
        time.after(1_000, this.party, 'host lost', () => {
          emissions.close()
          for (const { kind, id } of plugins) {
            const epoch = epochs.get(`${kind}/${id}`)
            if (epoch !== undefined) void this.core.ledger.lost({ kind, id }, epoch, 'its stream broke')
          }
          time.after(100_000, this.party, 'host restarts', () => this.startHost())
        })
      },
    }
    if (takesUp) host.takeUp(registry, this.party)
    else host.start(registry, this.party)
  }

  private async registerOne(
    { kind, id }: (typeof plugins)[number],
    epochs: Map<string, bigint>,
    isCurrent: () => boolean,
  ): Promise<void> {
    const { ledger } = this.core
    const epoch = await ledger.registered({ kind, id, version: '1', endpoint: 'simulated', capabilities: [] })
    epochs.set(`${kind}/${id}`, epoch)
    if (isCurrent()) await this.around.host.ready(this.party)
    if (isCurrent()) await ledger.ready({ kind, id }, epoch)
    else await ledger.lost({ kind, id }, epoch, 'its stream broke')
  }
}

type ApiDeps = Core & {
  store: Store
  clock: ReturnType<typeof systemClock>
  log: Logger
  collect(): Promise<void>
}

function apiOf(deps: ApiDeps, host: Host) {
  const files = new BlobFiles(nobodyReads)
  return {
    containers: containersService({ ...deps, files }),
    tasks: tasksService({ ...deps, runtime: host.runtime, isUnresponsive: () => false }),
    leases: leasesService(deps),
    images: imagesService(deps),
    namespaces: namespacesService(deps),
    snapshots: snapshotsService({ ...deps, checkSnapshotter: () => {} }),
    content: contentService({ ...deps, content: host.content, files }),
    write: contentWrite({ ...deps, openWrite: async () => new UploadUpstream(host) }),
  }
}

const nobodyReads = () => Promise.reject(unavailable('the bytes of a blob'))

function metadataOf({ namespace, request, lease }: CallFrom): Metadata {
  const metadata = new Metadata()
  metadata.set('containerd-namespace', namespace)
  metadata.set('purser-request-id', request)
  if (lease !== undefined) metadata.set('containerd-lease', lease)
  return metadata
}

function asStatus(error: unknown): StatusError {
  if (error instanceof StatusError) return error
  throw new Error('a handler answered neither a response nor a status', { cause: error })
}

function incoming<Request>(request: Request, metadata: Metadata): UnaryCall<Request> {
  return { request, metadata, cancelled: false, getPeer: () => 'pid=1,uid=0,gid=0', once: () => {} }
}
