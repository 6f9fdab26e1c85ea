// What this host, and this process on it, lets a container have. Read once.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { capabilitiesOf } from './capabilities.js'
import { cgroupMounts } from './cgroups.js'

export interface HostFacts {
  /** What a container of ours may be given: ours, and not taken from the bounding set. */
  capabilities: ReadonlySet<string>
  /** The highest that can be set, by OCI name (RLIMIT_NOFILE, …); absent ones are unlimited. */
  hardLimits: ReadonlyMap<string, bigint>
  /** The lowest that can be set. */
  oomScoreAdjMin: number
  apparmor: boolean
  selinux: boolean
  /** cgroup controllers that a container's limits can use. */
  controllers: ReadonlySet<string>
}

export function readHostFacts(): HostFacts {
  const status = readFileSync('/proc/self/status', 'utf8')
  const bounding = capabilitiesOf(statusField(status, 'CapBnd'))
  const permitted = capabilitiesOf(statusField(status, 'CapPrm'))
  const capabilities = new Set([...bounding].filter(name => permitted.has(name)))
  // With it our own limits and score bind nobody, only the kernel's.
  const unbound = capabilities.has('CAP_SYS_RESOURCE')
  return {
    capabilities,
    hardLimits: hardLimits(unbound ? '' : readFileSync('/proc/self/limits', 'utf8'), fileLimit()),
    oomScoreAdjMin: unbound ? -1000 : Number(readFileSync('/proc/self/oom_score_adj', 'utf8')),
    apparmor: existsSync('/sys/kernel/security/apparmor'),
    selinux: existsSync('/sys/fs/selinux/enforce'),
    controllers: readControllers(readFileSync('/proc/self/mountinfo', 'utf8')),
  }
}

/**
 * What the parent of a container's cgroup can give to realtime tasks, in µs of each period; a new cgroup has 0.
 * Undefined when it cannot be told: no such controller file, or a path that only systemd understands.
 */
export function realtimeBudgetUs(cgroupsPath: string): number | undefined {
  if (!cgroupsPath.startsWith('/')) return undefined
  const mount = cgroupMounts(readFileSync('/proc/self/mountinfo', 'utf8')).find(({ options }) =>
    options.includes('cpu'),
  )
  if (!mount) return undefined
  // Directories that are missing are made by the OCI runtime, with nothing in them to give.
  const file = join(mount.path, cgroupsPath, '..', 'cpu.rt_runtime_us')
  if (!existsSync(join(mount.path, 'cpu.rt_runtime_us'))) return undefined
  return existsSync(file) ? Number(readFileSync(file, 'utf8')) : 0
}

const limitNames: Record<string, string> = {
  'Max cpu time': 'RLIMIT_CPU',
  'Max file size': 'RLIMIT_FSIZE',
  'Max data size': 'RLIMIT_DATA',
  'Max stack size': 'RLIMIT_STACK',
  'Max core file size': 'RLIMIT_CORE',
  'Max resident set': 'RLIMIT_RSS',
  'Max processes': 'RLIMIT_NPROC',
  'Max open files': 'RLIMIT_NOFILE',
  'Max locked memory': 'RLIMIT_MEMLOCK',
  'Max address space': 'RLIMIT_AS',
  'Max file locks': 'RLIMIT_LOCKS',
  'Max pending signals': 'RLIMIT_SIGPENDING',
  'Max msgqueue size': 'RLIMIT_MSGQUEUE',
  'Max nice priority': 'RLIMIT_NICE',
  'Max realtime priority': 'RLIMIT_RTPRIO',
  'Max realtime timeout': 'RLIMIT_RTTIME',
}

/** `limits` as /proc/PID/limits has it. */
function hardLimits(limits: string, fileMax: bigint): Map<string, bigint> {
  const parsed = new Map<string, bigint>()
  for (const line of limits.split('\n')) {
    const [, label, hard] = line.match(/^(Max [a-z ]+?) {2,}\S+ +(\S+)/) ?? []
    const name = label === undefined ? undefined : limitNames[label]
    if (name !== undefined && hard !== undefined && /^\d+$/.test(hard)) parsed.set(name, BigInt(hard))
  }
  const files = parsed.get('RLIMIT_NOFILE')
  parsed.set('RLIMIT_NOFILE', files === undefined || files > fileMax ? fileMax : files)
  return parsed
}

/** No process can have more open files than this, whatever it may do. */
const fileLimit = () => BigInt(readFileSync('/proc/sys/fs/nr_open', 'utf8').trim())

/**
 * OCI runtimes use the unified hierarchy when it is mounted at the usual place, and otherwise only the old ones:
 * what a hybrid's unified part offers besides is out of reach for them.
 */
function readControllers(mountinfo: string): Set<string> {
  const mounts = cgroupMounts(mountinfo)
  const unified = mounts.find(({ type, path }) => type === 'cgroup2' && path === '/sys/fs/cgroup')
  if (unified) return new Set(readFileSync(join(unified.path, 'cgroup.controllers'), 'utf8').trim().split(' '))
  return new Set(mounts.filter(({ type }) => type === 'cgroup').flatMap(({ options }) => options))
}

function statusField(status: string, name: string): string {
  const value = status.match(new RegExp(`^${name}:\\s*([0-9a-f]+)$`, 'm'))?.[1]
  if (value === undefined) throw new Error(`/proc/self/status has no ${name}`)
  return value
}
