// What a supervisor may leave on a machine, found and removed: processes, mounts, network namespaces, cgroups, sockets.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { processesOf, signal } from './process.js'

/** A container as its traces on the machine name it. */
export interface ContainerName {
  namespace: string
  id: string
}

/** Where to look: one supervisor's directory and address, and the containers that it was asked for. */
export interface Traces {
  directory: string
  address: string
  containers: ContainerName[]
  /** Network interfaces on the host that tests of networks made. */
  interfaces: string[]
}

const cgroupRoot = '/sys/fs/cgroup'
const netnsDirectories = ['/run/netns', '/var/run/netns']

/** Everything of this supervisor that is on the machine right now, a line each. Files below its directory don't count. */
export function leftovers(traces: Traces): string[] {
  return [
    ...processesOf(traces.directory).map(({ pid, command }) => `process ${pid}: ${command.join(' ')}`),
    ...mountsBelow(traces.directory).map(path => `mount ${path}`),
    ...netnsOf(traces).map(path => `network namespace ${path}`),
    ...cgroupsOf(traces.containers).map(path => `cgroup ${path}`),
    ...shimSocketsOf(traces).map(path => `shim socket ${path}`),
    ...traces.interfaces.filter(name => existsSync(`/sys/class/net/${name}`)).map(name => `network interface ${name}`),
  ]
}

/**
 * Removes all of that by force, and the directory. What fails is thrown at the end, after everything was tried.
 * Blocks, so that it also works while this process exits.
 */
export function removeByForce(traces: Traces): void {
  const failures: unknown[] = []
  const attempt = (step: () => void) => {
    try {
      step()
    } catch (error) {
      // A dying shim clears up as well.
      if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) failures.push(error)
    }
  }
  const sockets = shimSocketsOf(traces)
  // More than once, since what is killed may have been starting something.
  for (let round = 0; round < 500; round++) {
    const found = processesOf(traces.directory)
    if (found.length === 0) break
    for (const entry of found) signal(entry, 'SIGKILL')
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10)
  }
  for (const path of mountsBelow(traces.directory).reverse()) attempt(() => unmount(path))
  for (const path of netnsOf(traces)) attempt(() => removeNetns(path))
  for (const path of cgroupsOf(traces.containers)) attempt(() => removeCgroup(path))
  for (const path of sockets) attempt(() => rmSync(path, { force: true }))
  for (const { namespace, id } of traces.containers)
    attempt(() => rmSync(join('/run/containerd/runc', namespace, id), { recursive: true, force: true }))
  attempt(() => rmSync(traces.directory, { recursive: true, force: true }))
  if (failures.length > 0) throw new AggregateError(failures, `could not remove all of ${traces.directory}`)
}

/** The containers that have a bundle below a state directory: ours, and containerd's. */
export function bundlesBelow(state: string): ContainerName[] {
  return ['bundles', 'io.containerd.runtime.v2.task'].flatMap(directory =>
    list(join(state, directory)).flatMap(namespace =>
      list(join(state, directory, namespace)).map(id => ({ namespace, id })),
    ),
  )
}

export function mountsBelow(directory: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map(line => decodeMountPath(line.split(' ')[4] ?? ''))
    .filter(path => path === directory || path.startsWith(`${directory}/`))
}

/** The directories, in every hierarchy, that belong to these containers. */
export function cgroupsOf(containers: ContainerName[]): string[] {
  const hierarchies = [cgroupRoot, ...list(cgroupRoot).map(name => join(cgroupRoot, name))]
  return hierarchies.flatMap(hierarchy =>
    containers.map(({ namespace, id }) => join(hierarchy, namespace, id)).filter(path => existsSync(path)),
  )
}

/** What a container's cgroup holds in the file of version 1 ("memory/memory.limit_in_bytes") or 2 ("memory.max"). */
export function cgroupValue(id: string, version1: string, version2: string, namespace = 'default'): string {
  const [controller = '', file = ''] = version1.split('/')
  const first = join(cgroupRoot, controller, namespace, id, file)
  return readFileSync(existsSync(first) ? first : join(cgroupRoot, namespace, id, version2), 'utf8').trim()
}

/** Pinned namespaces that bear a container's id in their name. */
function netnsOf({ containers }: Traces): string[] {
  return netnsDirectories.slice(0, 1).flatMap(directory =>
    list(directory)
      .filter(name => containers.some(({ id }) => name.includes(id)))
      .map(name => join(directory, name)),
  )
}

/** containerd's shim listens at a path made of its supervisor's address, compiled into it (RUNTIME: start contract). */
function shimSocketsOf({ address, containers }: Traces): string[] {
  return containers
    .map(({ namespace, id }) =>
      createHash('sha256')
        .update(join(address, namespace, id))
        .digest('hex'),
    )
    .map(hash => join('/run/containerd/s', hash))
    .filter(path => existsSync(path))
}

/** Lazily, since what still uses it has been killed but may not be gone. */
function unmount(path: string): void {
  execFileSync('umount', ['--lazy', path], { stdio: 'pipe' })
}

function removeNetns(path: string): void {
  if (readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${path} `)) unmount(path)
  rmSync(path, { force: true })
}

/** A cgroup is removed with rmdir, children first; its files are the kernel's. */
function removeCgroup(path: string): void {
  for (const entry of readdirSync(path, { withFileTypes: true }))
    if (entry.isDirectory()) removeCgroup(join(path, entry.name))
  rmdirSync(path)
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch {
    return []
  }
}

/** The kernel writes space, tab, newline and backslash as \ooo. */
const decodeMountPath = (path: string) =>
  path.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)))
