// The fold: what all durable events amount to. Reads are answered from here; nothing else changes it but `apply`.
import { containerMachine } from '../domain/container/machine.js'
import type { DomainEvent } from '../domain/decision.js'
import type { Exec } from '../domain/exec/decide.js'
import { execMachine } from '../domain/exec/machine.js'
import type { LeaseResource } from '../domain/lease/events.js'
import type { Lifecycle, LifecycleMachine } from '../domain/lifecycle.js'
import { networkMachine } from '../domain/network/machine.js'
import type { Plugin } from '../domain/plugin/decide.js'
import { pluginMachine } from '../domain/plugin/machine.js'
import { restartMachine } from '../domain/restart/machine.js'
import { sandboxMachine } from '../domain/sandbox/machine.js'
import type { SnapshotEvent } from '../domain/snapshot/events.js'
import { taskMachine } from '../domain/task/machine.js'
import { formatNanos } from '../domain/time.js'
import type { Timestamp } from '../domain/values.js'
import type { JournalRecord, Sequence } from '../journal/journal.js'
import { BackendKeys } from './backendKeys.js'
import { decodeEvent } from './codec.js'
import { acceptLosses, addLoss, type Loss } from './losses.js'
import { NamespaceState, type StoredLease, type StoredSnapshot, type Times } from './namespaceState.js'
import { IllegalHistory, placeParts } from './places.js'
import { Requests } from './requests.js'
import { Summaries } from './summaries.js'

const emptyNamespace = new NamespaceState()

export class World {
  readonly namespaces = new Map<string, NamespaceState>()
  /** By `kind/id`. */
  readonly plugins = new Map<string, Plugin>()
  readonly requests = new Requests()
  readonly backendKeys = new BackendKeys()
  /** By stream: the sequence of its last record; streams that ended are forgotten. */
  readonly versions = new Map<string, Sequence>()
  /** Records that a repair could not bring back: what they said is missing here. */
  readonly lost: Loss[] = []
  /** What is remembered of containers when their events are gone. */
  summaries = new Summaries()
  /** The last record that is folded in. */
  sequence: Sequence = 0n

  /** What a namespace holds; an unknown one holds nothing, as for containerd. Not for writing. */
  namespace(name: string): NamespaceState {
    return this.namespaces.get(name) ?? emptyNamespace
  }

  plugin(kind: string, id: string): Plugin {
    return this.plugins.get(`${kind}/${id}`) ?? pluginMachine.absent
  }

  version(stream: string): Sequence {
    return this.versions.get(stream) ?? 0n
  }

  /** Folds in the next durable record and answers its event. Throws IllegalHistory. */
  apply(record: JournalRecord): DomainEvent {
    const event = decodeEvent(record)
    try {
      new Fold(this, record).apply(event)
    } catch (error) {
      // What it stands on was lost. The runtime and the other plugins are asked what is true.
      if (!(error instanceof IllegalHistory) || this.lost.length === 0) throw error
    }
    this.summaries.apply(record, event)
    if (record.ends) this.versions.delete(record.stream)
    else this.versions.set(record.stream, record.sequence)
    this.sequence = record.sequence
    return event
  }
}

/** One record on its way into the world. */
class Fold {
  private readonly at: Timestamp

  constructor(
    private readonly world: World,
    private readonly record: JournalRecord,
  ) {
    this.at = formatNanos(record.timeUnixNano)
  }

  apply(event: DomainEvent): void {
    switch (event.type) {
      case 'NamespaceCreated':
      case 'NamespaceUpdated':
        this.here().labels = event.labels
        return
      case 'NamespaceDeleted':
        this.deleteNamespace(event.name)
        return
      case 'ImageCreated':
      case 'ImageUpdated': {
        const at = event.at ?? this.at
        const createdAt = this.here().images.get(event.image.name)?.createdAt ?? at
        this.here().images.set(event.image.name, { record: event.image, createdAt, updatedAt: at })
        return
      }
      case 'ImageDeleted':
        this.here().images.delete(event.name)
        return
      case 'ContentCommitted':
        this.here().blobs.set(event.digest, { size: event.size, labels: event.labels, ...this.born() })
        return
      case 'ContentUpdated':
        this.touch(this.here().blobs, event.digest, { labels: event.labels })
        return
      case 'ContentDeleted':
        this.here().blobs.delete(event.digest)
        return
      case 'SnapshotPrepared':
      case 'SnapshotCommitRequested':
      case 'SnapshotCommitFailed':
      case 'SnapshotCommitted':
      case 'SnapshotUpdated':
      case 'SnapshotRemoved':
        this.applySnapshot(event)
        return
      case 'LeaseCreated':
        this.here().leases.set(event.id, { createdAt: this.at, labels: event.labels, resources: new Map() })
        return
      case 'LeaseDeleted':
        this.here().leases.delete(event.id)
        return
      case 'LeaseResourceAdded':
        addResource(this.here().leases.get(event.id), event.resource)
        return
      case 'LeaseResourceRemoved':
        this.here().leases.get(event.id)?.resources.get(event.resource.type)?.delete(event.resource.id)
        return
      case 'ContainerCreated':
      case 'ContainerUpdated':
      case 'ContainerDeleted':
        this.applyContainer(event)
        return
      case 'ContainerPartsMoved':
        this.stepContainer(event.id, placeParts(event, this.record.sequence))
        return
      case 'SandboxCreateRequested':
      case 'SandboxCreated':
      case 'SandboxCreateFailed':
      case 'SandboxStartRequested':
      case 'SandboxStarted':
      case 'SandboxStartFailed':
      case 'SandboxStopRequested':
      case 'SandboxExited':
      case 'SandboxShutdownRequested':
      case 'SandboxShutdownFailed':
      case 'SandboxRemoved':
        this.step(this.here().sandboxLives, event.sandboxId, sandboxMachine, event)
        return
      case 'SandboxRecordCreated':
      case 'SandboxRecordUpdated': {
        const { sandboxes } = this.here()
        const record = placeParts(event.sandbox, this.record.sequence)
        const createdAt = sandboxes.get(record.id)?.createdAt ?? this.at
        sandboxes.set(record.id, { record, createdAt, updatedAt: this.at })
        return
      }
      case 'SandboxRecordDeleted':
        this.here().sandboxes.delete(event.id)
        return
      case 'SandboxRecordPartsMoved': {
        const { sandboxes } = this.here()
        const stored = sandboxes.get(event.id)
        if (!stored) throw new IllegalHistory(this.record, 'there is no such sandbox')
        const { spec, extensions } = placeParts(event, this.record.sequence)
        sandboxes.set(event.id, { ...stored, record: { ...stored.record, spec, extensions } })
        return
      }
      case 'PluginRegistered':
      case 'PluginReady':
      case 'PluginDraining':
      case 'PluginLost':
      case 'PluginLeft':
      case 'PluginEmitted':
        this.step(this.world.plugins, `${event.kind}/${event.id}`, pluginMachine, event)
        return
      case 'NetworkAttachRequested':
      case 'NetworkAttached':
      case 'NetworkAttachFailed':
      case 'NetworkDetachRequested':
      case 'NetworkDetached':
      case 'NetworkDetachFailed':
        this.step(this.here().networks, event.containerId, networkMachine, event)
        return
      case 'RestartScheduled':
      case 'RestartBegun':
      case 'RestartDone':
      case 'RestartFailed':
      case 'RestartCancelled':
        this.step(this.here().restarts, event.containerId, restartMachine, event)
        return
      case 'ExecRequested':
      case 'ExecAdded':
      case 'ExecAddFailed':
      case 'ExecStartRequested':
      case 'ExecStarted':
      case 'ExecStartFailed':
      case 'ExecSignalled':
      case 'ExecExited':
      case 'ExecDeleteRequested':
      case 'ExecDeleted':
      case 'ExecDeleteFailed':
      case 'ExecAbandoned': {
        const execs = this.here().execs
        const ofTask = execs.get(event.containerId) ?? new Map<string, Exec>()
        this.step(ofTask, event.execId, execMachine, event)
        if (ofTask.size > 0) execs.set(event.containerId, ofTask)
        else execs.delete(event.containerId)
        return
      }
      case 'RequestTaken':
      case 'RequestAnswered':
        this.world.requests.apply(this.record, event)
        return
      case 'EventPublished':
        return
      case 'RecordLost':
        addLoss(this.world.lost, this.record.sequence)
        return
      case 'RecordLossAccepted':
        acceptLosses(this.world.lost)
        return
      default:
        this.step(this.here().tasks, event.containerId, taskMachine, event)
        if (event.type === 'TaskCreateRequested' || event.type === 'TaskCreateFailed' || event.type === 'TaskDeleted') {
          this.stepContainer(event.containerId, event)
        }
    }
  }

  /** Something may have come into it while its deletion was on the way to the disk: then only its labels go. */
  private deleteNamespace(name: string): void {
    const state = this.world.namespaces.get(name)
    if (state && state.contents().length > 0) state.labels = {}
    else this.world.namespaces.delete(name)
  }

  private applySnapshot(event: SnapshotEvent): void {
    const { commits } = this.here()
    const all = this.here().snapshots
    const keys = all.get(event.snapshotter) ?? new Map<string, StoredSnapshot>()
    all.set(event.snapshotter, keys)
    const place = (key: string, snapshot: StoredSnapshot | undefined) => {
      this.world.backendKeys.delete(event.snapshotter, keys.get(key)?.backendKey)
      keys.delete(key)
      if (!snapshot) return
      keys.set(key, snapshot)
      this.world.backendKeys.add(event.snapshotter, snapshot.backendKey)
    }
    switch (event.type) {
      case 'SnapshotPrepared': {
        const { kind, parent, labels, backendKey, mounts } = event
        place(event.key, { kind, parent, labels, backendKey, mounts, usage: null, ...this.born() })
        return
      }
      case 'SnapshotCommitted': {
        const active = keys.get(event.key)
        if (!active) throw new IllegalHistory(this.record, 'there is no such snapshot')
        const { labels, backendKey, usage } = event
        commits.delete(`${event.snapshotter}/${event.key}`)
        place(event.key, undefined)
        place(event.name, { ...active, kind: 'committed', labels, backendKey, usage, mounts: [], ...this.born() })
        return
      }
      case 'SnapshotCommitRequested': {
        const { snapshotter, key, name, labels, lease } = event
        commits.set(`${snapshotter}/${key}`, { snapshotter, key, name, labels, lease })
        return
      }
      case 'SnapshotCommitFailed':
        commits.delete(`${event.snapshotter}/${event.key}`)
        return
      case 'SnapshotUpdated':
        this.touch(keys, event.key, { labels: event.labels })
        return
      case 'SnapshotRemoved':
        commits.delete(`${event.snapshotter}/${event.key}`)
        place(event.key, undefined)
        if (keys.size === 0) all.delete(event.snapshotter)
    }
  }

  private applyContainer(event: Extract<DomainEvent, { type: `Container${'Created' | 'Updated' | 'Deleted'}` }>): void {
    const containers = this.here().containers
    if (event.type === 'ContainerDeleted') {
      this.stepContainer(event.id, event)
      containers.delete(event.id)
      return
    }
    const container = placeParts(event.container, this.record.sequence)
    const before = containers.get(container.id)
    const lifecycle = containerMachine.next(before?.lifecycle ?? containerMachine.absent, { ...event, container })
    if (!lifecycle) throw new IllegalHistory(this.record, 'the container was in another state')
    containers.set(container.id, { lifecycle, createdAt: before?.createdAt ?? this.at, updatedAt: this.at })
  }

  private stepContainer(id: string, event: Parameters<typeof containerMachine.next>[1]): void {
    const container = this.here().containers.get(id)
    const lifecycle = container && containerMachine.next(container.lifecycle, event)
    if (!container || !lifecycle) throw new IllegalHistory(this.record, 'the container was in another state')
    container.lifecycle = lifecycle
  }

  /** Moves a lifecycle of a collection, and drops it when it is over. */
  private step<State extends string, Facts, Event extends { type: string }>(
    collection: Map<string, Lifecycle<State, Facts>>,
    id: string,
    machine: LifecycleMachine<State, Facts, Event>,
    event: Event,
  ): void {
    const current = collection.get(id) ?? machine.absent
    const isKnown = this.world.lost.length === 0
    const next = machine.next(current, event) ?? (isKnown ? undefined : machine.infer(current, event))
    if (!next) throw new IllegalHistory(this.record, `not possible while ${current.state}`)
    if (next.state === machine.absent.state) collection.delete(id)
    else collection.set(id, next)
  }

  private touch<Stored extends Times>(collection: Map<string, Stored>, id: string, change: Partial<Stored>): void {
    const stored = collection.get(id)
    if (!stored) throw new IllegalHistory(this.record, 'there is no such thing')
    collection.set(id, { ...stored, ...change, updatedAt: this.at })
  }

  private here(): NamespaceState {
    const { namespace } = this.record
    let state = this.world.namespaces.get(namespace)
    if (!state) {
      // As for containerd, a namespace comes into being by its first use.
      state = new NamespaceState()
      this.world.namespaces.set(namespace, state)
    }
    return state
  }

  private born(): Times {
    return { createdAt: this.at, updatedAt: this.at }
  }
}

function addResource(lease: StoredLease | undefined, resource: LeaseResource): void {
  if (!lease) return
  const ids = lease.resources.get(resource.type) ?? new Set<string>()
  lease.resources.set(resource.type, ids.add(resource.id))
}
