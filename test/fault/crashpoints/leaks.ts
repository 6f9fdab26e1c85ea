// What a trial that was cleared may not leave: on the machine, and in the directories of supervisor and plugins.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { cgroupsOf, mountsBelow } from '../../harness/machine.js'
import { processesOf } from '../../harness/process.js'
import type { Stage } from './stage.js'

/** A line each. `staying`: the processes that run between trials. */
export function leaks(stage: Stage, staying: readonly number[], addresses: string): string[] {
  const { host, id, digest } = stage
  const { root, state, namespace } = host
  const about = (directory: string, file = '') =>
    list(directory)
      .map(name => join(directory, name))
      .filter(path => path.includes(id) || read(join(path, file)).includes(id))
  return [
    ...processesOf(host.directory)
      .filter(({ pid }) => !staying.includes(pid))
      .map(({ pid, command }) => `process ${pid} ${command.join(' ')}`),
    ...mountsBelow(host.directory).map(path => `mount ${path}`),
    ...cgroupsOf([{ namespace, id }]).map(path => `cgroup ${path}`),
    ...about(join(state, 'bundles', namespace)),
    ...about(join(state, 'ended'), 'config.json'),
    ...about(join(state, 'runc', namespace)),
    ...list(join(state, 'differ')).map(name => `tree of the differ ${name}`),
    ...['attachments', 'claims', 'netns'].flatMap(name => about(join(root, 'network', name))),
    ...about(addresses),
    // One without a header belongs to nobody.
    ...about(join(root, 'content', 'ingest'), 'header'),
    ...list(join(root, 'content', 'ingest')).filter(
      name => !list(join(root, 'content', 'ingest', name)).includes('header'),
    ),
    ...list(join(root, 'content', 'blobs', 'sha256')).filter(hex => digest.endsWith(hex)),
    ...about(join(root, 'snapshots', 'overlayfs', 'snapshots'), 'meta.json'),
  ]
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch {
    return []
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
