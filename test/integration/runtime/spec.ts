// An OCI spec as a client of containerd would send it, small, with busybox for everything.
import { copyFileSync, mkdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'

export interface LinuxSpec {
  cgroupsPath: string
  namespaces: { type: string; path?: string }[]
  resources: Record<string, unknown>
  [key: string]: unknown
}

export interface Spec {
  ociVersion: string
  root: { path: string; readonly?: boolean }
  process: Record<string, unknown>
  mounts: unknown[]
  annotations: Record<string, string>
  linux: LinuxSpec
  [key: string]: unknown
}

/** Edits a spec in place before it is sent. */
export type SpecChange = (spec: Spec) => void

const capabilities = ['CAP_CHOWN', 'CAP_KILL', 'CAP_SETUID', 'CAP_SETGID', 'CAP_NET_BIND_SERVICE']

export function processSpec(command: string): Record<string, unknown> {
  return {
    args: ['/bin/sh', '-c', command],
    cwd: '/',
    env: ['PATH=/bin'],
    user: { uid: 0, gid: 0 },
    noNewPrivileges: true,
    capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
    rlimits: [{ type: 'RLIMIT_NOFILE', hard: 1024, soft: 1024 }],
  }
}

export function shellSpec(
  { namespace, id, command, rootfs }: { namespace: string; id: string; command: string; rootfs: string },
  change?: SpecChange,
): Buffer {
  const spec: Spec = {
    ociVersion: '1.0.2',
    root: { path: rootfs },
    process: processSpec(command),
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755', 'size=65536k'] },
      { destination: '/dev/pts', type: 'devpts', source: 'devpts', options: ['newinstance', 'ptmxmode=0666'] },
    ],
    annotations: {},
    linux: {
      cgroupsPath: `/${namespace}/${id}`,
      namespaces: ['pid', 'ipc', 'uts', 'mount', 'network'].map(type => ({ type })),
      resources: {},
    },
  }
  change?.(spec)
  return Buffer.from(JSON.stringify(spec))
}

export function makeRootfs(rootfs: string): void {
  for (const directory of ['bin', 'proc', 'dev', 'tmp']) mkdirSync(join(rootfs, directory), { recursive: true })
  copyFileSync('/bin/busybox', join(rootfs, 'bin/busybox'))
  for (const name of ['sh', 'sleep', 'cat', 'true', 'stty', 'kill', 'id', 'grep', 'ulimit', 'echo', 'mkdir'])
    symlinkSync('busybox', join(rootfs, 'bin', name))
}
