// What the numbers were measured on.
import { execFileSync } from 'node:child_process'
import { arch, cpus, loadavg, release, totalmem } from 'node:os'
import { searchPath } from '../harness/ctr.js'

export interface Machine {
  processors: string
  memoryMiB: number
  kernel: string
  node: string
  /** Of the last minute, before anything was measured. */
  load: number
  containerd: string
  runc: string
  purser: string
  /** Of the directory in which both keep everything. */
  fileSystem: string
}

export function describeMachine(directory: string): Machine {
  return {
    processors: `${cpus().length} × ${cpus()[0]?.model.trim() ?? arch()}`,
    memoryMiB: Math.round(totalmem() / (1 << 20)),
    kernel: release(),
    node: process.version,
    load: loadavg()[0] ?? 0,
    containerd: firstLine('containerd', '--version'),
    runc: firstLine('runc', '--version'),
    purser: firstLine('git', 'describe', '--always', '--dirty'),
    fileSystem: firstLine('stat', '--file-system', '--format', '%T', directory),
  }
}

/** Whether others are at work here, so that the numbers say more about them. */
export function isBusy({ load }: Machine): boolean {
  return load > cpus().length / 2
}

/** '' when the program can't say. */
function firstLine(program: string, ...words: string[]): string {
  try {
    const output = execFileSync(program, words, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
      timeout: 10_000,
      env: { PATH: searchPath },
    })
    return output.split('\n', 1)[0] ?? ''
  } catch {
    return ''
  }
}
