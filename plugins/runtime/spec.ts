// Fits an OCI spec to what this host lets a container have, and says in sentences what that took.
// Without it the OCI runtime fails with words that help nobody ("can't get final child's PID from pipe: EOF").
import { isKnownCapability } from './capabilities.js'
import type { HostFacts } from './host.js'
import { asArray, asInteger, asObject, asString, fromInteger, type JsonObject, parseObject, stringify } from './json.js'

export interface FittedSpec {
  /** config.json; the very bytes that were given when nothing had to change. */
  json: Uint8Array | string
  /** A sentence for each change. */
  adjustments: string[]
  annotations: ReadonlyMap<string, string>
  /** Owner of the user namespace's root on the host; 0 without one. */
  rootGid: number
  /** In a new user namespace a process has every capability, whatever the host grants. */
  ownUserNamespace: boolean
}

export interface FitOptions {
  /** A pinned network namespace to join; '' leaves the spec's own. */
  netnsPath: string
  /** What the parent cgroup can give to realtime tasks; undefined: unknown. Asked only when the spec wants some. */
  realtimeBudgetUs(cgroupsPath: string): number | undefined
}

/** Throws INVALID_ARGUMENT for what is not an OCI spec in JSON. */
export function fitSpec(bytes: Uint8Array, host: HostFacts, options: FitOptions): FittedSpec {
  const spec = parseObject(bytes, "the container's spec")
  const linux = asObject(spec.linux)
  const cgroupsPath = asString(linux?.cgroupsPath) ?? ''
  const adjustments: string[] = []

  const ownUserNamespace = hasOwnUserNamespace(linux)
  const process = asObject(spec.process)
  if (process) adjustments.push(...fitProcess(process, host, ownUserNamespace))
  if (linux) {
    const resources = asObject(linux.resources)
    if (resources) adjustments.push(...fitResources(resources, host, () => options.realtimeBudgetUs(cgroupsPath)))
    if (!host.selinux) adjustments.push(...drop(linux, 'mountLabel', 'SELinux is not enabled here'))
  }
  const joined = options.netnsPath !== '' && joinNetwork(spec, options.netnsPath)

  return {
    json: adjustments.length > 0 || joined ? stringify(spec) : bytes,
    adjustments,
    annotations: annotationsOf(spec),
    rootGid: rootGidOf(linux),
    ownUserNamespace,
  }
}

/** The same for a process that is added to a running container: OCI's "process" in JSON. */
export function fitExecProcess(
  bytes: Uint8Array,
  host: HostFacts,
  ownUserNamespace: boolean,
): { json: Uint8Array; adjustments: string[] } {
  const process = parseObject(bytes, "the process's spec")
  const adjustments = fitProcess(process, host, ownUserNamespace)
  return { json: adjustments.length > 0 ? Buffer.from(stringify(process)) : bytes, adjustments }
}

/** The same for new limits of a running container: OCI's "linux.resources" in JSON. */
export function fitNewResources(bytes: Uint8Array, host: HostFacts): { json: Uint8Array; adjustments: string[] } {
  const resources = parseObject(bytes, 'the resources')
  const adjustments = fitResources(resources, host, () => undefined)
  return { json: adjustments.length > 0 ? Buffer.from(stringify(resources)) : bytes, adjustments }
}

function fitProcess(process: JsonObject, host: HostFacts, ownUserNamespace: boolean): string[] {
  return [
    // A new user namespace begins with every capability, whatever its maker may do (user_namespaces(7)).
    ...(ownUserNamespace ? [] : fitCapabilities(process, host)),
    ...fitLimits(process, host),
    ...fitOomScore(process, host),
    ...(host.apparmor ? [] : drop(process, 'apparmorProfile', 'this kernel has no AppArmor')),
    ...(host.selinux ? [] : drop(process, 'selinuxLabel', 'SELinux is not enabled here')),
  ]
}

function fitCapabilities(process: JsonObject, host: HostFacts): string[] {
  const sets = asObject(process.capabilities)
  if (!sets) return []
  const lacking = new Set<string>()
  for (const [name, set] of Object.entries(sets)) {
    const capabilities = asArray(set)
    if (!capabilities) continue
    sets[name] = capabilities.filter(capability => {
      if (typeof capability !== 'string' || !isKnownCapability(capability)) return true
      if (host.capabilities.has(capability)) return true
      lacking.add(capability)
      return false
    })
  }
  return [...lacking].map(capability => `capability ${capability} was left out: this host does not grant it`)
}

function fitLimits(process: JsonObject, host: HostFacts): string[] {
  const adjustments: string[] = []
  for (const entry of asArray(process.rlimits) ?? []) {
    const limit = asObject(entry)
    const type = asString(limit?.type)
    const highest = type === undefined ? undefined : host.hardLimits.get(type)
    if (!limit || highest === undefined) continue
    const hard = asInteger(limit.hard)
    const soft = asInteger(limit.soft)
    if (soft !== undefined && soft > highest) limit.soft = fromInteger(highest)
    if (hard === undefined || hard <= highest) continue
    limit.hard = fromInteger(highest)
    adjustments.push(`${type} was lowered from ${hard} to ${highest}: this host allows no more`)
  }
  return adjustments
}

function fitOomScore(process: JsonObject, host: HostFacts): string[] {
  const wanted = asInteger(process.oomScoreAdj)
  if (wanted === undefined || wanted >= BigInt(host.oomScoreAdjMin)) return []
  process.oomScoreAdj = host.oomScoreAdjMin
  return [`oomScoreAdj was raised from ${wanted} to ${host.oomScoreAdjMin}: this host allows no less`]
}

function fitResources(resources: JsonObject, host: HostFacts, budgetUs: () => number | undefined): string[] {
  const adjustments: string[] = []
  if (!host.controllers.has('hugetlb'))
    adjustments.push(...drop(resources, 'hugepageLimits', 'the hugetlb cgroup controller is not available'))
  const network = asObject(resources.network)
  if (network && !host.controllers.has('net_cls'))
    adjustments.push(...drop(network, 'classID', 'the net_cls cgroup controller is not available'))
  if (network && !host.controllers.has('net_prio'))
    adjustments.push(...drop(network, 'priorities', 'the net_prio cgroup controller is not available'))
  const cpu = asObject(resources.cpu)
  if (cpu) adjustments.push(...fitRealtime(cpu, budgetUs))
  return adjustments
}

function fitRealtime(cpu: JsonObject, budgetUs: () => number | undefined): string[] {
  const wanted = asInteger(cpu.realtimeRuntime)
  if (wanted === undefined || wanted <= 0n) return []
  const budget = budgetUs()
  if (budget === undefined || wanted <= budget) return []
  const reason = 'the cgroup above has no realtime budget to give'
  return [...drop(cpu, 'realtimeRuntime', reason), ...drop(cpu, 'realtimePeriod', reason)]
}

function drop(from: JsonObject, key: string, reason: string): string[] {
  const value = from[key]
  if (value === undefined) return []
  delete from[key]
  const asked = value !== null && value !== '' && !(Array.isArray(value) && value.length === 0)
  return asked ? [`${key} was left out: ${reason}`] : []
}

/** Puts the path into the spec's network namespace. Answers false when it was there already. */
function joinNetwork(spec: JsonObject, path: string): boolean {
  const linux = asObject(spec.linux) ?? {}
  const namespaces = asArray(linux.namespaces) ?? []
  const network = namespaces.map(asObject).find(namespace => namespace?.type === 'network')
  if (network?.path === path) return false
  if (network) network.path = path
  else namespaces.push({ type: 'network', path })
  linux.namespaces = namespaces
  spec.linux = linux
  return true
}

function hasOwnUserNamespace(linux: JsonObject | undefined): boolean {
  return (asArray(linux?.namespaces) ?? []).some(namespace => asObject(namespace)?.type === 'user')
}

function annotationsOf(spec: JsonObject): Map<string, string> {
  const entries = Object.entries(asObject(spec.annotations) ?? {})
  return new Map(entries.flatMap(([key, value]) => (typeof value === 'string' ? [[key, value]] : [])))
}

function rootGidOf(linux: JsonObject | undefined): number {
  for (const entry of asArray(linux?.gidMappings) ?? []) {
    const mapping = asObject(entry)
    if (mapping?.containerID === 0 && typeof mapping.hostID === 'number') return mapping.hostID
  }
  return 0
}
