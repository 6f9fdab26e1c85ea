// What has to be here before the demo can begin; each thing that is not is a sentence.
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { searchPath } from '../../test/harness/ctr.js'

const programs = ['ctr', 'containerd-shim-runc-v2', 'runc', 'nats-server', 'docker-registry', 'ip', 'setpriv']
const cniDirectories = ['/usr/lib/cni', '/opt/cni/bin']
const cniPlugins = ['bridge', 'host-local', 'loopback']
const busybox = '/bin/busybox'

export function missing(): string[] {
  if (process.getuid?.() !== 0) return ['This needs root, as containers, mounts and networks do: run it with sudo.']
  const path = searchPath.split(delimiter)
  const absent = [
    ...programs.filter(name => !path.some(directory => isProgram(join(directory, name)))),
    ...cniPlugins
      .filter(name => !cniDirectories.some(directory => isProgram(join(directory, name))))
      .map(name => `the CNI plugin ${name}`),
    ...(isProgram(busybox) ? [] : [busybox]),
  ]
  if (absent.length > 0)
    return [`Not installed here: ${absent.join(', ')}. "bash deploy/setup.sh" installs what is missing.`]
  return []
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}
