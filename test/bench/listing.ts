// Lists of ten thousand containers: through a filter that lets a hundred pass, and all of them as a stream.
import {
  ContainersService,
  CreateContainerRequest,
  ListContainersRequest,
} from '../../proto/gen/containerd/services/containers/v1/containers.js'
import { NamespacesService } from '../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import type { Host } from '../harness/host.js'
import { type Contest, names, takeTurns } from './contest.js'
import { comparison, type Outcome, summaryOf } from './report.js'

const namespace = 'bench-listing'
const count = 10_000
const chosen = 100
const atOnce = 64
const patient = { namespace, timeoutMs: 600_000 }

export async function measureListing(contest: Contest): Promise<Outcome> {
  for (const name of names) await fill(contest.hosts[name])
  const filtered = await takeTurns(contest, host => timed(() => listFiltered(host)))
  const streamed = await takeTurns(contest, host => timed(() => streamAll(host)))
  for (const name of names) await clear(contest.hosts[name])
  return {
    tables: [
      comparison(`Listing: ${chosen} of ${count} containers by a label, in ms as the client sees it`, filtered),
      comparison(`Listing: a stream of all ${count}, in ms as the client sees it`, streamed),
    ],
    data: { count, filtered: summaryOf(filtered), streamed: summaryOf(streamed), ms: { filtered, streamed } },
  }
}

async function fill(host: Host): Promise<void> {
  await host.rpc.call(NamespacesService.create, { namespace: { name: namespace, labels: {} } }, { namespace })
  const spec = { typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/Spec', value: Buffer.alloc(2000, 'x') }
  await each(ids(), id =>
    host.rpc.call(
      ContainersService.create,
      CreateContainerRequest.fromPartial({
        container: {
          id,
          labels: { chosen: String(Number(id.slice(1)) % (count / chosen) === 0) },
          runtime: { name: 'io.containerd.runc.v2' },
          spec,
        },
      }),
      patient,
    ),
  )
}

async function clear(host: Host): Promise<void> {
  await each(ids(), id => host.rpc.call(ContainersService.delete, { id }, patient))
  await host.rpc.call(NamespacesService.delete, { name: namespace }, { namespace })
}

async function listFiltered(host: Host): Promise<void> {
  const request = ListContainersRequest.fromPartial({ filters: ['labels.chosen==true'] })
  const { containers } = await host.rpc.call(ContainersService.list, request, patient)
  if (containers.length !== chosen) throw new Error(`${host.kind} listed ${containers.length} instead of ${chosen}`)
}

async function streamAll(host: Host): Promise<void> {
  let listed = 0
  for await (const _ of host.rpc.stream(ContainersService.listStream, { filters: [] }, patient)) listed++
  if (listed !== count) throw new Error(`${host.kind} listed ${listed} instead of ${count}`)
}

const ids = () => Array.from({ length: count }, (_, number) => `c${number}`)

async function each(all: string[], work: (id: string) => Promise<unknown>): Promise<void> {
  const next = all.values()
  const worker = async () => {
    for (const id of next) await work(id)
  }
  await Promise.all(Array.from({ length: atOnce }, worker))
}

async function timed(work: () => Promise<void>): Promise<number> {
  const begun = performance.now()
  await work()
  return performance.now() - begun
}
