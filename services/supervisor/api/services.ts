// All services of the main socket, put onto one server. What containerd has beside them answers UNIMPLEMENTED by
// grpc-js itself, which clients take for an older server: Mounts.
import type { Server } from '@grpc/grpc-js'
import type { PluginService } from '../../../plugins/kit/plugin.js'
import { ContainersService } from '../../../proto/gen/containerd/services/containers/v1/containers.js'
import { EventsService } from '../../../proto/gen/containerd/services/events/v1/events.js'
import { ImagesService } from '../../../proto/gen/containerd/services/images/v1/images.js'
import { IntrospectionService } from '../../../proto/gen/containerd/services/introspection/v1/introspection.js'
import { LeasesService } from '../../../proto/gen/containerd/services/leases/v1/leases.js'
import { NamespacesService } from '../../../proto/gen/containerd/services/namespaces/v1/namespace.js'
import { StoreService } from '../../../proto/gen/containerd/services/sandbox/v1/sandbox.js'
import { VersionService } from '../../../proto/gen/containerd/services/version/v1/version.js'
import { HealthService } from '../../../proto/gen/grpc/health/v1/health.js'
import { ServerReflectionService } from '../../../proto/gen/grpc/reflection/v1/reflection.js'
import { ServerReflectionService as OldReflectionService } from '../../../proto/gen/grpc/reflection/v1alpha/reflection.js'
import { EventsService as PurserEventsService } from '../../../proto/gen/purser/events/v1/events.js'
import { JournalService } from '../../../proto/gen/purser/journal/v1/journal.js'
import { UpgradeService } from '../../../proto/gen/purser/upgrade/v1/upgrade.js'
import type { ContainersDeps } from './containers.js'
import { containersService } from './containers.js'
import { type EventsDeps, eventsService } from './events.js'
import { type HealthDeps, healthService } from './health.js'
import { type ImagesDeps, imagesService } from './images.js'
import { type IntrospectionDeps, introspectionService } from './introspection.js'
import { type JournalDeps, journalService } from './journal.js'
import { leasesService } from './leases.js'
import { namespacesService } from './namespaces.js'
import { type ObserveCall, observed } from './observe.js'
import { purserEventsService } from './purserEvents.js'
import { reflectionService } from './reflection.js'
import { Repeats, type RepeatsDeps } from './repeats.js'
import { sandboxStore } from './sandboxStore.js'
import type { Traffic } from './traffic.js'
import { type UpgradeDeps, upgradeService } from './upgrade.js'
import { type VersionDeps, versionService } from './version.js'

export type Service = PluginService

export type ServicesDeps = ContainersDeps &
  ImagesDeps &
  JournalDeps &
  RepeatsDeps &
  EventsDeps &
  VersionDeps &
  UpgradeDeps &
  Omit<IntrospectionDeps, 'services'> &
  Omit<HealthDeps, 'services'> & {
    /** Hears of every finished call; for metrics. */
    observe: ObserveCall
    traffic: Traffic
  }

/** `others` are the services that need plugins: tasks, content, snapshots, diff, transfer, sandbox controller. */
export function addServices(server: Server, deps: ServicesDeps, others: readonly Service[]): void {
  const stored: Service[] = [
    { definition: ContainersService, implementation: containersService(deps) },
    { definition: ImagesService, implementation: imagesService(deps) },
    { definition: NamespacesService, implementation: namespacesService(deps) },
    { definition: LeasesService, implementation: leasesService(deps) },
    { definition: StoreService, implementation: sandboxStore(deps) },
    { definition: EventsService, implementation: eventsService(deps) },
    { definition: PurserEventsService, implementation: purserEventsService(deps) },
    { definition: JournalService, implementation: journalService(deps) },
    { definition: VersionService, implementation: versionService(deps) },
    ...others,
  ]
  const names = [...stored.map(nameOf), nameOf({ definition: IntrospectionService })]
  const ids = [...names.filter(isContainerds).map(containerdId), 'healthcheck'].sort()
  const about: Service[] = [
    { definition: IntrospectionService, implementation: introspectionService({ ...deps, services: ids }) },
    { definition: UpgradeService, implementation: upgradeService(deps) },
    { definition: HealthService, implementation: healthService({ ...deps, services: names }) },
  ]
  const reflecting = [ServerReflectionService, OldReflectionService]
  const served = [...stored, ...about, ...reflecting.map(definition => ({ definition }))].map(nameOf).sort()
  for (const definition of reflecting) about.push({ definition, implementation: reflectionService(served) })
  const observe: ObserveCall = call => {
    deps.observe(call)
    deps.log.debug(call, 'call')
  }
  const repeats = new Repeats(deps)
  for (const { definition, implementation } of [...stored, ...about]) {
    server.addService(
      definition,
      observed(definition, deps.traffic.watch(definition, repeats.guard(definition, implementation)), observe),
    )
  }
}

/** "containerd.services.tasks.v1.Tasks", from the path of any of its methods. */
function nameOf({ definition }: Pick<Service, 'definition'>): string {
  const [first] = Object.values(definition)
  return first?.path.split('/')[1] ?? ''
}

const isContainerds = (name: string): boolean => name.startsWith('containerd.')

/** "containerd.services.tasks.v1.Tasks" → "tasks", as `ctr plugins ls` lists it. */
const containerdId = (name: string): string => unusualIds[name] ?? name.split('.').at(-3) ?? name

const unusualIds: Readonly<Record<string, string>> = {
  'containerd.services.sandbox.v1.Controller': 'sandbox-controllers',
  'containerd.services.sandbox.v1.Store': 'sandboxes',
}
