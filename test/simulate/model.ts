// What a history amounts to, said a second time without machines: plain tables and sets. Whatever it does not allow is
// a fault of whoever wrote the history.
import type { JournalRecord } from '../../services/supervisor/journal/journal.js'
import { collection } from '../../services/supervisor/state/envelopes.js'
import type { World } from '../../services/supervisor/state/world.js'
import { execTransitions, taskTransitions } from '../unit/domain/tables.js'
import { garbageIn } from './held.js'

interface Life {
  state: string
  exited: boolean
}

class Space {
  /** Labels by id. */
  readonly containers = new Map<string, Labels>()
  readonly tasks = new Map<string, Life>()
  /** By `container/exec`. */
  readonly execs = new Map<string, Life>()
  /** By key. */
  readonly snapshots = new Map<string, { kind: string; parent: string; isRoot: boolean }>()
  readonly commits = new Set<string>()
  readonly blobs = new Set<string>()
  /** What each holds, as "type id". */
  readonly leases = new Map<string, Set<string>>()
  readonly networks = new Map<string, string>()
  readonly restarts = new Map<string, string>()
  /** Digests by name. */
  readonly images = new Map<string, string>()

  /** Leases go with their namespace. */
  get isEmpty(): boolean {
    const { containers, tasks, execs, snapshots, blobs, networks, images } = this
    return [containers, tasks, execs, snapshots, blobs, networks, images].every(({ size }) => size === 0)
  }
}

const networkTransitions: Record<string, Record<string, string>> = {
  absent: { NetworkAttachRequested: 'attaching' },
  attaching: { NetworkAttached: 'attached', NetworkAttachFailed: 'absent', NetworkDetachRequested: 'detaching' },
  attached: { NetworkDetachRequested: 'detaching' },
  detaching: { NetworkDetached: 'absent', NetworkDetachFailed: 'stranded' },
  stranded: { NetworkDetachRequested: 'detaching' },
}

const restartTransitions: Record<string, Record<string, string>> = {
  absent: { RestartScheduled: 'waiting' },
  waiting: { RestartBegun: 'restarting', RestartCancelled: 'absent' },
  restarting: { RestartDone: 'resting', RestartFailed: 'waiting' },
  resting: { RestartScheduled: 'waiting', RestartCancelled: 'absent' },
}

export class Model {
  sequence = 0n
  /** Of each request the types of the facts that it led to: "request-7 TaskCreated". */
  readonly effects = new Set<string>()
  private readonly ended: string[] = []
  private readonly spaces = new Map<string, Space>()

  /** Takes the next record; throws when it could not have happened. */
  take(record: JournalRecord): void {
    if (record.sequence !== this.sequence + 1n) throw illegal(record, `comes after ${this.sequence}`)
    this.sequence = record.sequence
    if (record.correlation !== '') this.effects.add(`${record.correlation} ${record.type}`)
    this.apply(record, this.space(record.namespace), JSON.parse(Buffer.from(record.payload).toString()))
  }

  /** What the fold has otherwise than this model. */
  differences(world: World): string[] {
    const found: string[] = []
    const names = new Set([...this.spaces.keys(), ...world.namespaces.keys()])
    const ended = world.summaries.ended().map(({ namespace, id, lastSequence }) => `${namespace}/${id} ${lastSequence}`)
    if (ended.join() !== this.ended.join())
      found.push(`containers that are gone: the model has [${this.ended}], the fold [${ended}]`)
    for (const name of names) {
      const mine = this.space(name)
      const theirs = world.namespace(name)
      const compare = (what: string, a: Iterable<string>, b: Iterable<string>) => {
        const [model, fold] = [[...a].sort().join(' '), [...b].sort().join(' ')]
        if (model !== fold) found.push(`${what} of ${name}: the model has [${model}], the fold [${fold}]`)
      }
      compare('containers', mine.containers.keys(), theirs.containers.keys())
      compare('tasks', said(mine.tasks), said(theirs.tasks))
      const execs = [...theirs.execs].flatMap(([id, of]) =>
        [...of].map(([exec, { state }]) => `${id}/${exec}=${state}`),
      )
      compare('processes', said(mine.execs), execs)
      compare('snapshots', mine.snapshots.keys(), theirs.snapshots.get('overlayfs')?.keys() ?? [])
      compare('blobs', mine.blobs, theirs.blobs.keys())
      compare('leases', mine.leases.keys(), theirs.leases.keys())
      const images = [...theirs.images].map(([name, { record }]) => `${name}=${record.target.digest}`)
      compare(
        'images',
        [...mine.images].map(([name, digest]) => `${name}=${digest}`),
        images,
      )
      const restarts = [...theirs.restarts].map(([id, { state }]) => `${id}=${state}`)
      compare(
        'restarts',
        [...mine.restarts].map(([id, state]) => `${id}=${state}`),
        restarts,
      )
      const networks = [...theirs.networks].map(([id, { state }]) => `${id}=${state}`)
      compare(
        'networks',
        [...mine.networks].map(([id, state]) => `${id}=${state}`),
        networks,
      )
    }
    return found
  }

  /** What nothing holds in the end. */
  garbage(): string[] {
    return [...this.spaces].flatMap(([name, space]) => garbageIn(space).map(what => `${name}/${what}`))
  }

  private apply(record: JournalRecord, space: Space, event: Record<string, unknown>): void {
    const { type } = record
    const text = (name: string): string => String(event[name] ?? '')
    const insist = (condition: boolean, why: string) => {
      if (!condition) throw illegal(record, why)
    }
    if (type.startsWith('Task')) {
      this.task(record, space, text('containerId'))
      return
    }
    if (type.startsWith('Exec')) {
      this.exec(record, space, `${text('containerId')}/${text('execId')}`)
      return
    }
    if (type.startsWith('Network')) {
      this.network(record, space, text('containerId'))
      return
    }
    if (type.startsWith('Restart')) {
      this.restart(record, space, event)
      return
    }
    const id = text('id')
    const key = text('key')
    if (record.causation === collection && /(Removed|Deleted)$/.test(type))
      insist(garbageIn(space).includes(type === 'SnapshotRemoved' ? key : text('digest')), 'it is no garbage')
    switch (type) {
      case 'ContainerCreated': {
        const made = String(read(event.container, 'id'))
        insist(!space.containers.has(made), 'it is there')
        space.containers.set(made, labelsOf(event.container))
        return
      }
      case 'ContainerUpdated':
        space.containers.set(String(read(event.container, 'id')), labelsOf(event.container))
        return
      case 'ContainerDeleted':
        insist(space.containers.delete(id), 'it is not there')
        insist(!space.tasks.has(id), 'it has a task')
        this.ended.push(`${record.namespace}/${id} ${record.sequence}`)
        return
      case 'SnapshotPrepared': {
        const parent = text('parent')
        insist(!space.snapshots.has(key), 'it is there')
        insist(parent === '' || space.snapshots.get(parent)?.kind === 'committed', 'its parent is not committed')
        space.snapshots.set(key, { kind: text('kind'), parent, isRoot: isRoot(event) })
        return
      }
      case 'SnapshotCommitRequested':
        space.commits.add(key)
        return
      case 'SnapshotCommitFailed':
        space.commits.delete(key)
        return
      case 'SnapshotCommitted': {
        const active = space.snapshots.get(key)
        insist(active?.kind === 'active', 'it is not active')
        insist(!space.snapshots.has(text('name')), 'the name is taken')
        space.commits.delete(key)
        space.snapshots.delete(key)
        space.snapshots.set(text('name'), { kind: 'committed', parent: active?.parent ?? '', isRoot: isRoot(event) })
        return
      }
      case 'SnapshotRemoved':
        insist(space.snapshots.delete(key), 'it is not there')
        space.commits.delete(key)
        insist(![...space.snapshots.values()].some(({ parent }) => parent === key), 'something stands on it')
        return
      case 'ContentCommitted':
        insist(!space.blobs.has(text('digest')), 'it is there')
        space.blobs.add(text('digest'))
        return
      case 'ContentDeleted':
        insist(space.blobs.delete(text('digest')), 'it is not there')
        return
      case 'ImageCreated':
      case 'ImageUpdated': {
        const { name, digest } = imageOf(event.image)
        insist(space.images.has(name) === (type === 'ImageUpdated'), 'it is there, or is not')
        space.images.set(name, digest)
        return
      }
      case 'ImageDeleted':
        insist(space.images.delete(text('name')), 'it is not there')
        return
      case 'NamespaceDeleted':
        insist(space.isEmpty, 'something is in it')
        space.leases.clear()
        return
      case 'LeaseCreated':
        insist(!space.leases.has(id), 'it is there')
        space.leases.set(id, new Set())
        return
      case 'LeaseDeleted':
        insist(space.leases.delete(id), 'it is not there')
        return
      case 'LeaseResourceAdded':
        insist(space.leases.has(id), 'there is no such lease')
        space.leases.get(id)?.add(`${read(event.resource, 'type')} ${read(event.resource, 'id')}`)
        return
      default:
        return
    }
  }

  private task(record: JournalRecord, space: Space, id: string): void {
    const { type } = record
    const task = space.tasks.get(id) ?? { state: 'absent', exited: false }
    if (type === 'TaskCreateRequested' && !space.containers.has(id)) throw illegal(record, 'there is no such container')
    const next = after(taskTransitions, task.state, type)
    if (next === undefined) throw illegal(record, `the task is ${task.state}`)
    const state = type === 'TaskDeleteFailed' && !task.exited ? 'created' : next
    if (state === 'absent') space.tasks.delete(id)
    else space.tasks.set(id, { state, exited: task.exited || type === 'TaskExited' })
    if (type === 'TaskDeleted')
      for (const [key, exec] of space.execs)
        if (key.startsWith(`${id}/`)) throw illegal(record, `the process ${key} is ${exec.state}`)
  }

  private exec(record: JournalRecord, space: Space, key: string): void {
    const { type } = record
    const exec = space.execs.get(key) ?? { state: 'absent', exited: false }
    const next = after(execTransitions, exec.state, type)
    if (next === undefined) throw illegal(record, `the process is ${exec.state}`)
    const state = type === 'ExecDeleteFailed' && exec.exited ? 'stopped' : next
    if (state === 'absent') space.execs.delete(key)
    else space.execs.set(key, { state, exited: exec.exited || type === 'ExecExited' })
  }

  private network(record: JournalRecord, space: Space, id: string): void {
    const state = space.networks.get(id) ?? 'absent'
    const next = after(networkTransitions, state, record.type)
    if (next === undefined) throw illegal(record, `the attachment is ${state}`)
    if (next === 'absent') space.networks.delete(id)
    else space.networks.set(id, next)
  }

  /** Nothing is started that was stopped on purpose, or that nobody wants to be kept. */
  private restart(record: JournalRecord, space: Space, event: Record<string, unknown>): void {
    const id = String(event.containerId)
    const next = after(restartTransitions, space.restarts.get(id) ?? 'absent', record.type)
    if (next === undefined) throw illegal(record, `the restart is ${space.restarts.get(id) ?? 'absent'}`)
    if (next === 'absent') space.restarts.delete(id)
    else space.restarts.set(id, next)
    if (record.type !== 'RestartScheduled') return
    const labels = space.containers.get(id) ?? {}
    const wanted = event.action === 'start' ? 'running' : 'stopped'
    const isStopped =
      labels[`${restartLabel}policy`] === 'unless-stopped' && labels[`${restartLabel}explicitly-stopped`]
    if (labels[`${restartLabel}status`] !== wanted || (wanted === 'running' && isStopped))
      throw illegal(record, `nobody asks for it: ${JSON.stringify(labels)}`)
  }

  private space(name: string): Space {
    const known = this.spaces.get(name) ?? new Space()
    this.spaces.set(name, known)
    return known
  }
}

type Labels = Record<string, string>
const restartLabel = 'containerd.io/restart.'

const read = (of: unknown, name: string): unknown =>
  typeof of === 'object' && of !== null ? Object.getOwnPropertyDescriptor(of, name)?.value : undefined

const isRoot = (event: object): boolean => read(read(event, 'labels'), 'containerd.io/gc.root') !== undefined

function labelsOf(container: unknown): Labels {
  const labels = Object.entries(read(container, 'labels') ?? {})
  return Object.fromEntries(labels.map(([name, value]) => [name, String(value)]))
}

function imageOf(image: unknown): { name: string; digest: string } {
  return { name: String(read(image, 'name')), digest: String(read(read(image, 'target'), 'digest')) }
}

function after(table: object, state: string, type: string): string | undefined {
  const row: unknown = Object.getOwnPropertyDescriptor(table, state)?.value
  const next: unknown = row && Object.getOwnPropertyDescriptor(row, type)?.value
  return typeof next === 'string' ? next : undefined
}

const said = (lives: Iterable<[string, { state: string }]>) => [...lives].map(([id, { state }]) => `${id}=${state}`)

const illegal = ({ sequence, type, stream }: JournalRecord, why: string) =>
  new Error(`illegal: record ${sequence}, ${type} of ${stream}: ${why}`)
