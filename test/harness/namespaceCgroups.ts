// The cgroup of a whole namespace: runc makes it above a container's, and leaves it there.
import { existsSync, readdirSync, rmdirSync } from 'node:fs'
import { join } from 'node:path'
import { endWith, type Scope } from './wait.js'

/** Those of this namespace that are not there yet go when the scope ends. */
export function removeNewCgroups(scope: Scope, namespace: string): void {
  const before = cgroupsOf(namespace)
  endWith(scope, () => {
    for (const path of cgroupsOf(namespace).filter(each => !before.includes(each))) {
      try {
        rmdirSync(path)
      } catch {
        // Somebody else's containers have moved in: it is theirs now.
      }
    }
  })
}

function cgroupsOf(namespace: string): string[] {
  const root = '/sys/fs/cgroup'
  const hierarchies = readdirSync(root, { withFileTypes: true }).filter(entry => entry.isDirectory())
  return [root, ...hierarchies.map(({ name }) => join(root, name))]
    .map(hierarchy => join(hierarchy, namespace))
    .filter(path => existsSync(path))
}
