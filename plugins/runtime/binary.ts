// From a runtime's name, as clients give it, to the shim binary that serves it.
import { accessSync, constants, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import { invalidArgument, notFound } from '../kit/errors.js'

/** Where shims and OCI runtimes lie even if a service manager started us with a shorter PATH. */
const usualDirectories = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin']

export function searchPath(own: string | undefined): string {
  const directories = (own ?? '').split(':').filter(directory => directory.startsWith('/'))
  return [...new Set([...directories, ...usualDirectories])].join(':')
}

/**
 * `io.containerd.runc.v2` is served by containerd-shim-runc-v2 on `path`, and so on by the last two parts of the name;
 * an absolute path is the binary itself. Throws INVALID_ARGUMENT, or NOT_FOUND with what to do.
 */
export function resolveShim(runtime: string, path: string): string {
  if (runtime.startsWith('/')) {
    if (isExecutable(runtime)) return runtime
    throw notFound(`the shim ${runtime} is no executable file: install it, or give the container another runtime`)
  }
  const name = shimName(runtime)
  for (const directory of path.split(':')) {
    const candidate = join(directory, name)
    if (isExecutable(candidate)) return candidate
  }
  throw notFound(
    `runtime "${runtime}" needs ${name} in PATH (${path}): install it, or give the container another runtime`,
  )
}

/** Whether the shim is containerd's for runc, whose options we know. */
export const isRuncShim = (binary: string): boolean => /^containerd-shim-runc-v\d+$/.test(basename(binary))

function shimName(runtime: string): string {
  const [name, version] = runtime.split('.').slice(-2)
  const usable = (part: string | undefined) => part !== undefined && /^[A-Za-z0-9_-]+$/.test(part)
  if (usable(name) && usable(version)) return `containerd-shim-${name}-${version}`
  throw invalidArgument(`"${runtime}" names no runtime: write one like io.containerd.runc.v2, or an absolute path`)
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return statSync(path).isFile()
  } catch {
    return false
  }
}
