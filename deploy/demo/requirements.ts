// What has to be here before the demo can begin; each thing that is not is a sentence.
import { accessSync, constants, readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { searchPath } from '../../test/harness/ctr.js'

const programs = ['ctr', 'containerd-shim-runc-v2', 'runc', 'nats-server', 'docker-registry', 'ip', 'umount']
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
  if (isDynamic(busybox))
    return [
      `${busybox} needs shared libraries, and the demo's image holds nothing else: "apt-get install busybox-static".`,
    ]
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

/** A dynamic program names its loader ("/lib64/ld-linux-x86-64.so.2") in its first page (ELF, PT_INTERP). */
function isDynamic(path: string): boolean {
  return readFileSync(path).subarray(0, 4096).includes('/ld-linux')
}
