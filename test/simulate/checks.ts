// What must hold when everything has come to rest: nothing is left open, and the world is as the records say.
import { Status } from '../../proto/gen/containerd/v1/types/task.js'
import { messageId } from '../../services/supervisor/relay/message.js'
import type { World } from '../../services/supervisor/state/world.js'
import type { Broker } from './broker.js'
import type { Clients } from './clients.js'
import type { Host } from './host.js'
import type { Supervisor } from './supervisor.js'

const settledTask: Record<string, Status> = {
  created: Status.CREATED,
  running: Status.RUNNING,
  paused: Status.PAUSED,
  stopped: Status.STOPPED,
}
const settledExec: Record<string, Status> = { added: Status.CREATED, running: Status.RUNNING, stopped: Status.STOPPED }

/** What is still open, in words; empty when all is at rest. Ordered by what explains the rest. */
export function unsettled(supervisor: Supervisor, host: Host, broker: Broker, clients: Clients): string[] {
  const { world } = supervisor.store
  return [
    ...[...clients.underWay.values()].map(call => `a call has not ended: ${call}`),
    ...intents(world),
    ...processes(world, host),
    ...restarts(world),
    ...attachments(world, host),
    ...layers(world, host),
    ...blobs(world, host),
    ...relayed(supervisor, broker),
  ]
}

function* intents(world: World): Generator<string> {
  for (const [namespace, here] of world.namespaces) {
    for (const [id, { state }] of here.tasks)
      if (!(state in settledTask)) yield `the task ${namespace}/${id} is ${state}`
    for (const [id, execs] of here.execs)
      for (const [execId, { state }] of execs)
        if (!(state in settledExec)) yield `the process ${namespace}/${id}/${execId} is ${state}`
    for (const [id, { state }] of here.networks)
      if (state !== 'attached') yield `the network of ${namespace}/${id} is ${state}`
    for (const { key, name } of here.commits.values())
      yield `whether ${namespace}/${key} is committed as ${name} is open`
  }
}

function* processes(world: World, { shims }: Host): Generator<string> {
  for (const { namespace, id, dead, init, execs } of shims.shims.values()) {
    const here = world.namespace(namespace)
    const { state, facts } = here.task(id)
    if (state === 'absent') yield `a shim is left: ${namespace}/${id}`
    else if (!dead && settledTask[state] !== init.status)
      yield `the task ${namespace}/${id} is ${state}, its process ${Status[init.status]}`
    else if (facts.pid !== init.pid) yield `the task ${namespace}/${id} has pid ${facts.pid}, its process ${init.pid}`
    if (dead || state === 'absent') continue
    for (const [execId, process] of execs) {
      const exec = here.exec(id, execId)
      if (settledExec[exec.state] !== process.status)
        yield `the process ${namespace}/${id}/${execId} is ${exec.state} in the journal, ${Status[process.status]} in its shim`
    }
    for (const execId of here.execsOf(id).keys())
      if (!execs.has(execId)) yield `the process ${namespace}/${id}/${execId} is not in its shim`
  }
  for (const [namespace, here] of world.namespaces)
    for (const [id, { state }] of here.tasks)
      if (!shims.shims.has(`${namespace}/${id}`) && state !== 'stopped')
        yield `the task ${namespace}/${id} is ${state} without a shim`
  if (shims.untold.size > 0) yield `exits are not acknowledged: ${[...shims.untold.keys()].join(' ')}`
}

function* restarts(world: World): Generator<string> {
  for (const [namespace, here] of world.namespaces) {
    for (const [id, { state }] of here.restarts) {
      if (state !== 'resting') yield `the restart of ${namespace}/${id} is ${state}`
      if (!here.containers.has(id)) yield `a restart is left: ${namespace}/${id}`
    }
    for (const [id, { lifecycle }] of here.containers) {
      const labels = lifecycle.facts.record?.labels ?? {}
      const label = (name: string) => labels[`containerd.io/restart.${name}`] ?? ''
      const { state } = here.task(id)
      const keeps =
        label('policy') === 'always' || (label('policy') === 'unless-stopped' && !label('explicitly-stopped'))
      if (label('status') === 'running' && keeps && (state === 'stopped' || state === 'absent'))
        yield `${namespace}/${id} is to be kept running and is ${state}`
      if (label('status') === 'stopped' && state !== 'stopped' && state !== 'absent')
        yield `${namespace}/${id} is to be stopped and is ${state}`
    }
  }
}

function* attachments(world: World, host: Host): Generator<string> {
  for (const { namespace, id } of host.attachments.attachments.values())
    if (world.namespace(namespace).network(id).state !== 'attached') yield `an attachment is left: ${namespace}/${id}`
  for (const [namespace, here] of world.namespaces) {
    for (const [id] of here.networks) {
      if (here.task(id).state === 'absent') yield `${namespace}/${id} has a network and no task`
      if (!host.attachments.attachments.has(`${namespace}/${id}`))
        yield `${namespace}/${id} has a network in the journal only`
    }
    for (const [id, { lifecycle }] of here.containers) {
      const label = lifecycle.facts.record?.labels['io.purser/network.addresses'] ?? ''
      const addresses = here.network(id).facts.addresses.join(',')
      if (label !== addresses) yield `${namespace}/${id} is labelled with the address "${label}" and has "${addresses}"`
    }
  }
}

function* layers(world: World, host: Host): Generator<string> {
  const known = new Set<string>()
  for (const [namespace, here] of world.namespaces)
    for (const [key, { backendKey, kind, parent }] of here.snapshots.get('overlayfs') ?? []) {
      known.add(backendKey)
      const layer = host.layers.layers.get(backendKey)
      if (layer?.kind !== kind) yield `the snapshot ${namespace}/${key} is ${kind}, the plugin's ${layer?.kind}`
      const below = parent === '' ? '' : here.snapshot('overlayfs', parent)?.backendKey
      if (layer && layer.parent !== below)
        yield `the snapshot ${namespace}/${key} stands on ${below}, the plugin's on ${layer.parent}`
    }
  for (const key of host.layers.layers.keys())
    if (!known.has(key))
      yield `a snapshot is left: ${key}${host.layers.childrenOf(key).map(child => `, below ${child}`)}`
}

function* blobs(world: World, host: Host): Generator<string> {
  const known = new Set([...world.namespaces.values()].flatMap(({ blobs }) => [...blobs.keys()]))
  for (const digest of known) if (!host.blobs.blobs.has(digest)) yield `the bytes of ${digest} are gone`
  for (const digest of host.blobs.blobs.keys()) if (!known.has(digest)) yield `a blob is left: ${digest}`
}

function* relayed({ journal }: Supervisor, broker: Broker): Generator<string> {
  let next = 1n
  for (const { id } of broker.stored) {
    const sequence = BigInt(id.split('/')[1] ?? 0)
    // Released, dropped by the journal, then lost by a store that was wiped.
    if (sequence > next && sequence <= BigInt(broker.wiped) + 1n && sequence <= journal.first()) next = sequence
    if (id !== messageId(journal.id, next)) {
      yield `the stream holds ${id} where event ${next} belongs`
      return
    }
    next += 1n
  }
  if (next <= journal.last()) yield `the stream ends before event ${next} of ${journal.last()}`
}
