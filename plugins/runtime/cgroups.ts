// The cgroups of a container whose OCI runtime was killed before it had written down that it made them.
import { readdirSync, readFileSync, rmdirSync } from 'node:fs'
import { join, normalize } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { asObject, asString, parseObject } from './json.js'

export interface CgroupMount {
  type: string
  path: string
  options: string[]
}

/** Every mounted hierarchy, old and unified, from /proc/PID/mountinfo. */
export function cgroupMounts(mountinfo: string): CgroupMount[] {
  return mountinfo.split('\n').flatMap(line => {
    const [place = '', filesystem = ''] = line.split(' - ')
    const [type = '', , options = ''] = filesystem.split(' ')
    const path = place.split(' ')[4]
    return type.startsWith('cgroup') && path !== undefined ? [{ type, path, options: options.split(',') }] : []
  })
}

/**
 * Removes the cgroups that the bundle's config.json names, in every hierarchy. Only empty ones can be removed at all;
 * processes that are just dying get a moment. Answers what is left.
 */
export async function removeCgroups(bundle: string, patienceMs: number): Promise<string[]> {
  const path = cgroupsPathIn(bundle)
  if (path === undefined) return []
  const hierarchies = cgroupMounts(readFileSync('/proc/self/mountinfo', 'utf8')).map(mount => join(mount.path, path))
  const expiry = performance.now() + patienceMs
  for (;;) {
    const left = hierarchies.filter(directory => !removeTree(directory))
    if (left.length === 0 || performance.now() > expiry) return left
    await pause(10)
  }
}

/** Undefined for one that only the OCI runtime or systemd can place, and for the root. */
function cgroupsPathIn(bundle: string): string | undefined {
  try {
    const spec = parseObject(readFileSync(join(bundle, 'config.json')), 'config.json')
    const path = normalize(asString(asObject(spec.linux)?.cgroupsPath) ?? '')
    return path.startsWith('/') && path !== '/' ? path : undefined
  } catch {
    return undefined // no bundle, no cgroup
  }
}

/** Children first; the files in it are the kernel's and go with it. Answers whether it is gone. */
function removeTree(directory: string): boolean {
  try {
    for (const entry of readdirSync(directory, { withFileTypes: true }))
      if (entry.isDirectory() && !removeTree(join(directory, entry.name))) return false
    rmdirSync(directory)
    return true
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'ENOENT'
  }
}
