// Clients: each wish is drawn from the seed by its number, mostly one that could be granted now, sometimes any at all.

import type { StatusError } from '../../plugins/kit/errors.js'
import { Code, toStatusError } from '../../plugins/kit/errors.js'
import { Container } from '../../proto/gen/containerd/services/containers/v1/containers.js'
import { Image } from '../../proto/gen/containerd/services/images/v1/images.js'
import { CreateTaskRequest, ExecProcessRequest } from '../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { restartPrefix, statusLabel } from '../../services/supervisor/domain/restart/labels.js'
import type { NamespaceState } from '../../services/supervisor/state/namespaceState.js'
import { Chance } from './random.js'
import type { CallFrom, Supervisor } from './supervisor.js'
import { Party } from './time.js'

/** What a wish is about, as drawn. */
interface Subject extends CallFrom {
  id: string
  execId: string
  key: string
  name: string
  digest: string
  leaseId: string
  chance: Chance
}

interface Wish {
  name: string
  weight: number
  /** Whether it could be granted as things are. */
  fits(here: NamespaceState, subject: Subject): boolean
  make(supervisor: Supervisor, client: Party, subject: Subject): Promise<unknown>
  /** What an answer of success promises to be in the journal, as an effect of this very request. */
  promises?: string
  /** It may take as long as it likes. */
  waits?: boolean
}

/** In the last one little happens, so that it is empty at times. */
const namespaces = ['one', 'one', 'one', 'two', 'two', 'two', 'three']
const snapshotter = 'overlayfs'
const numbered = (prefix: string, count: number) => Array.from({ length: count }, (_, index) => `${prefix}${index}`)
const containers = numbered('c', 4)
const digests = numbered('', 4).map(number => `sha256:${number.repeat(64)}`)

const task = (here: NamespaceState, { id }: Subject) => here.task(id).state
const exec = (here: NamespaceState, { id, execId }: Subject) => here.exec(id, execId).state
const image = (name: string, digest: string) => {
  const target = { mediaType: 'application/vnd.oci.image.index.v1+json', digest, size: 100n, annotations: {} }
  return Image.create({ name, target })
}
/** A collection keeps what bears it. */
const root = { 'containerd.io/gc.root': 'yes' }
const explicitly = `${restartPrefix}explicitly-stopped`
const active = (here: NamespaceState, { key }: Subject) => here.snapshot(snapshotter, key)?.kind === 'active'

const wishes: readonly Wish[] = [
  {
    name: 'create container',
    weight: 6,
    fits: (here, { id }) => !here.containers.has(id),
    promises: 'ContainerCreated',
    make: (supervisor, client, { id, chance, ...from }) => {
      const labels: Record<string, string> = chance.happens(0.5) ? { 'io.purser/network': 'bridge' } : {}
      const isKept = chance.happens(0.2)
      if (isKept) {
        labels[statusLabel] = 'running'
        labels[`${restartPrefix}policy`] = chance.pick(['always', 'unless-stopped', 'on-failure:3'])
      }
      const spec = { typeUrl: 'spec', value: Buffer.alloc(200, id) }
      const container = Container.create({
        id,
        labels,
        // Of an image that cannot be read such labels would have no effect.
        image: isKept ? '' : 'image',
        runtime: { name: 'runc', options: undefined },
        spec,
      })
      return supervisor.call(client, supervisor.api.containers.create, { container }, from)
    },
  },
  {
    name: 'label container',
    weight: 2,
    fits: (here, { id }) => here.containers.has(id),
    promises: 'ContainerUpdated',
    make: (supervisor, client, { id, chance, ...from }) => {
      const container = Container.create({ id, labels: { note: String(chance.below(1000)) } })
      const updateMask = ['labels.note']
      return supervisor.call(client, supervisor.api.containers.update, { container, updateMask }, from)
    },
  },
  {
    name: 'keep or stop container',
    weight: 2,
    fits: (here, { id }) => here.container(id).facts.record?.labels[statusLabel] !== undefined,
    promises: 'ContainerUpdated',
    make: (supervisor, client, { id, chance, ...from }) => {
      const stopped: Record<string, string> = chance.happens(0.4)
        ? { [statusLabel]: 'stopped' }
        : { [explicitly]: 'true' }
      const labels: Record<string, string> = chance.happens(0.6)
        ? stopped
        : { [statusLabel]: 'running', [explicitly]: '' }
      const updateMask = Object.keys(labels).map(name => `labels.${name}`)
      const container = Container.create({ id, labels })
      return supervisor.call(client, supervisor.api.containers.update, { container, updateMask }, from)
    },
  },
  {
    name: 'delete container',
    weight: 3,
    fits: (here, subject) => here.containers.has(subject.id) && task(here, subject) === 'absent',
    promises: 'ContainerDeleted',
    make: (supervisor, client, { id, ...from }) =>
      supervisor.call(client, supervisor.api.containers.delete, { id }, from),
  },
  {
    name: 'create task',
    weight: 12,
    fits: (here, subject) => here.containers.has(subject.id) && task(here, subject) === 'absent',
    promises: 'TaskCreated',
    make: (supervisor, client, { id, ...from }) =>
      supervisor.call(client, supervisor.api.tasks.create, CreateTaskRequest.create({ containerId: id }), from),
  },
  {
    name: 'start task',
    weight: 14,
    fits: (here, subject) => task(here, subject) === 'created',
    promises: 'TaskStartRequested',
    make: (supervisor, client, { id, ...from }) =>
      supervisor.call(client, supervisor.api.tasks.start, { containerId: id, execId: '' }, from),
  },
  {
    name: 'wait for task',
    weight: 4,
    fits: (here, subject) => task(here, subject) === 'running',
    waits: true,
    make: (supervisor, client, { id, ...from }) =>
      supervisor.call(client, supervisor.api.tasks.wait, { containerId: id, execId: '' }, from),
  },
  {
    name: 'kill task',
    weight: 6,
    fits: (here, subject) => task(here, subject) === 'running' || task(here, subject) === 'created',
    promises: 'TaskSignalled',
    make: (supervisor, client, { id, chance, ...from }) => {
      const request = { containerId: id, execId: '', signal: chance.happens(0.6) ? 9 : 15, all: false }
      return supervisor.call(client, supervisor.api.tasks.kill, request, from)
    },
  },
  {
    name: 'pause task',
    weight: 4,
    fits: (here, subject) => task(here, subject) === 'running',
    promises: 'TaskPauseRequested',
    make: (supervisor, client, { id, ...from }) =>
      supervisor.call(client, supervisor.api.tasks.pause, { containerId: id }, from),
  },
  {
    name: 'resume task',
    weight: 5,
    fits: (here, subject) => task(here, subject) === 'paused',
    promises: 'TaskResumeRequested',
    make: (supervisor, client, { id, ...from }) =>
      supervisor.call(client, supervisor.api.tasks.resume, { containerId: id }, from),
  },
  {
    name: 'delete task',
    weight: 12,
    fits: (here, subject) => task(here, subject) === 'stopped',
    promises: 'TaskDeleted',
    make: (supervisor, client, { id, ...from }) =>
      supervisor.call(client, supervisor.api.tasks.delete, { containerId: id }, from),
  },
  {
    name: 'add process',
    weight: 6,
    fits: (here, subject) => task(here, subject) === 'running' && exec(here, subject) === 'absent',
    promises: 'ExecRequested',
    make: (supervisor, client, { id, execId, ...from }) => {
      const spec = { typeUrl: 'process', value: Buffer.alloc(50, execId) }
      const request = ExecProcessRequest.create({ containerId: id, execId, spec })
      return supervisor.call(client, supervisor.api.tasks.exec, request, from)
    },
  },
  {
    name: 'start process',
    weight: 6,
    fits: (here, subject) => exec(here, subject) === 'added',
    promises: 'ExecStartRequested',
    make: (supervisor, client, { id, execId, ...from }) =>
      supervisor.call(client, supervisor.api.tasks.start, { containerId: id, execId }, from),
  },
  {
    name: 'kill process',
    weight: 3,
    fits: (here, subject) => exec(here, subject) === 'running',
    promises: 'ExecSignalled',
    make: (supervisor, client, { id, execId, ...from }) =>
      supervisor.call(client, supervisor.api.tasks.kill, { containerId: id, execId, signal: 9, all: false }, from),
  },
  {
    name: 'delete process',
    weight: 5,
    fits: (here, subject) => exec(here, subject) === 'stopped',
    promises: 'ExecDeleteRequested',
    make: (supervisor, client, { id, execId, ...from }) =>
      supervisor.call(client, supervisor.api.tasks.deleteProcess, { containerId: id, execId }, from),
  },
  {
    name: 'prepare snapshot',
    weight: 6,
    fits: (here, { key }) => !here.snapshot(snapshotter, key),
    promises: 'SnapshotPrepared',
    make: (supervisor, client, { key, name, chance, ...from }) => {
      const parent = chance.happens(0.5) ? name : ''
      const request = { snapshotter, key, parent, labels: chance.happens(0.5) ? root : {} }
      const { prepare, view } = supervisor.api.snapshots
      return supervisor.call(client, chance.happens(0.8) ? prepare : view, request, from)
    },
  },
  {
    name: 'commit snapshot',
    weight: 5,
    fits: (here, subject) => active(here, subject) && !here.snapshot(snapshotter, subject.name),
    promises: 'SnapshotCommitted',
    make: (supervisor, client, { key, name, chance, ...from }) =>
      supervisor.call(
        client,
        supervisor.api.snapshots.commit,
        { snapshotter, key, name, labels: chance.happens(0.5) ? root : {}, parent: '' },
        from,
      ),
  },
  {
    name: 'remove snapshot',
    weight: 6,
    fits: (here, { key }) => here.snapshot(snapshotter, key) !== undefined,
    promises: 'SnapshotRemoved',
    make: (supervisor, client, { key, name, chance, ...from }) => {
      const request = { snapshotter, key: chance.happens(0.7) ? key : name }
      return supervisor.call(client, supervisor.api.snapshots.remove, request, from)
    },
  },
  {
    name: 'write content',
    weight: 5,
    fits: (here, { digest }) => !here.blobs.has(digest),
    promises: 'ContentCommitted',
    make: (supervisor, client, { digest, ...from }) => supervisor.upload(client, { digest, size: 100n }, from),
  },
  {
    name: 'delete content',
    weight: 4,
    fits: (here, { digest }) => here.blobs.has(digest),
    promises: 'ContentDeleted',
    make: (supervisor, client, { digest, ...from }) =>
      supervisor.call(client, supervisor.api.content.delete, { digest, sync: false }, from),
  },
  {
    name: 'create image',
    weight: 4,
    fits: (here, { name }) => !here.images.has(name),
    promises: 'ImageCreated',
    make: (supervisor, client, { name, digest, ...from }) =>
      supervisor.call(
        client,
        supervisor.api.images.create,
        { image: image(name, digest), sourceDateEpoch: undefined },
        from,
      ),
  },
  {
    name: 'move image',
    weight: 2,
    fits: (here, { name }) => here.images.has(name),
    promises: 'ImageUpdated',
    make: (supervisor, client, { name, digest, ...from }) => {
      const request = { image: image(name, digest), updateMask: ['target'], sourceDateEpoch: undefined }
      return supervisor.call(client, supervisor.api.images.update, request, from)
    },
  },
  {
    name: 'delete image',
    weight: 3,
    fits: (here, { name }) => here.images.has(name),
    promises: 'ImageDeleted',
    make: (supervisor, client, { name, digest, chance, ...from }) => {
      const target = chance.happens(0.5) ? image(name, digest).target : undefined
      return supervisor.call(client, supervisor.api.images.delete, { name, sync: false, target }, from)
    },
  },
  {
    name: 'create namespace',
    weight: 1,
    fits: here => here.contents().length === 0,
    promises: 'NamespaceCreated',
    make: (supervisor, client, { ...from }) => {
      const namespace = { name: from.namespace, labels: {} }
      return supervisor.call(client, supervisor.api.namespaces.create, { namespace }, from)
    },
  },
  {
    name: 'delete namespace',
    weight: 6,
    fits: here => here.contents().length === 0,
    promises: 'NamespaceDeleted',
    make: (supervisor, client, { ...from }) =>
      supervisor.call(client, supervisor.api.namespaces.delete, { name: from.namespace }, from),
  },
  {
    name: 'create lease',
    weight: 3,
    fits: (here, { leaseId }) => !here.leases.has(leaseId),
    promises: 'LeaseCreated',
    make: (supervisor, client, { leaseId, ...from }) =>
      supervisor.call(client, supervisor.api.leases.create, { id: leaseId, labels: {} }, from),
  },
  {
    name: 'delete lease',
    weight: 2,
    fits: (here, { leaseId }) => here.leases.has(leaseId),
    promises: 'LeaseDeleted',
    make: (supervisor, client, { leaseId, ...from }) =>
      supervisor.call(client, supervisor.api.leases.delete, { id: leaseId, sync: false }, from),
  },
]

export interface ClientEvents {
  tell(line: () => string): void
  /** A success; `promised` must be in the journal for ever, as an effect of `request`. */
  acknowledged(request: string, promised: string): void
  /** A client saw something that it should not have. */
  wrong(what: string): void
}

export class Clients {
  readonly party = new Party('client')
  /** Calls that must end, by request. */
  readonly underWay = new Map<string, string>()
  made = 0
  granted = 0

  constructor(
    private readonly seed: number,
    private readonly events: ClientEvents,
  ) {}

  /** Makes the wish of this number to a supervisor; wishes with the same `about` are about the same things. */
  async wish(number: number, about: number, supervisor: Supervisor): Promise<void> {
    const chance = new Chance(this.seed, `wish ${number}`)
    const subject = { ...subjectOf(new Chance(this.seed, `about ${about}`), `request-${number}`), chance }
    const here = supervisor.store.world.namespace(subject.namespace)
    const fitting = chance.happens(0.85) ? wishes.filter(({ fits }) => fits(here, subject)) : wishes
    const wish = weighted(chance, fitting.length > 0 ? fitting : wishes)
    const { request } = subject
    const label = `${request} ${wish.name} ${subject.namespace}/${aboutOf(wish, subject)}`
    this.made += 1
    if (!wish.waits) this.underWay.set(request, label)
    this.events.tell(() => label)
    try {
      await wish.make(supervisor, this.party, subject)
      this.granted += 1
      this.events.tell(() => `${request} is granted`)
      if (wish.promises) this.events.acknowledged(request, wish.promises)
    } catch (error) {
      const failure = toStatusError(error)
      this.events.tell(() => `${request} fails: ${failure.details}`)
      if (isFault(failure)) this.events.wrong(`${label} is answered ${failure.code}: ${failure.details}`)
    } finally {
      this.underWay.delete(request)
    }
  }
}

/** A client must never see that the supervisor does not know what it does. */
const isFault = ({ code }: StatusError) => code === Code.INTERNAL || code === Code.DATA_LOSS

function subjectOf(chance: Chance, request: string): Subject {
  const leaseId = chance.pick(['l0', 'l1'])
  const id = chance.pick(containers)
  return {
    namespace: chance.pick(namespaces),
    request,
    id,
    execId: chance.pick(['e0', 'e1']),
    key: chance.pick(['k0', 'k1', 'k2']),
    name: chance.pick(['base', 'layer']),
    digest: chance.pick(digests),
    leaseId,
    chance,
    ...(chance.happens(0.1) && { lease: leaseId }),
  }
}

function aboutOf({ name }: Wish, { id, execId, key, name: layer, digest, leaseId }: Subject): string {
  if (name.endsWith('process')) return `${id}/${execId}`
  if (name.endsWith('snapshot')) return `${key} (${layer})`
  if (name.endsWith('content')) return digest.slice(0, 9)
  if (name.endsWith('image')) return layer
  if (name.endsWith('namespace')) return ''
  return name.endsWith('lease') ? leaseId : id
}

function weighted(chance: Chance, from: readonly Wish[]): Wish {
  let left = chance.next() * from.reduce((total, { weight }) => total + weight, 0)
  for (const wish of from) {
    left -= wish.weight
    if (left < 0) return wish
  }
  return chance.pick(from)
}
