// What Debian's own client prints and with which status it ends, when things are wrong: most of it needs no image.
import type { Case } from '../stage.js'

const lines: string[][] = [
  ['containers', 'info', 'none'],
  ['containers', 'rm', 'none'],
  ['containers', 'label', 'none', 'a=b'],
  ['containers', 'ls', 'id=='],
  ['containers', 'create', 'none:latest', 'c'],
  ['tasks', 'start', 'none'],
  ['tasks', 'kill', 'none'],
  ['tasks', 'exec', '--exec-id', 'e', 'none', 'true'],
  ['tasks', 'pause', 'none'],
  ['tasks', 'ps', 'none'],
  ['tasks', 'rm', 'none'],
  ['tasks', 'metrics', 'none'],
  ['images', 'rm', 'none'],
  ['images', 'tag', 'none', 'other'],
  ['images', 'label', 'none', 'a=b'],
  ['images', 'export', '/dev/null', 'none'],
  ['images', 'mount', 'none', '/mnt'],
  ['content', 'get', 'sha256:abc'],
  ['content', 'rm', `sha256:${'a'.repeat(64)}`],
  ['content', 'label', `sha256:${'a'.repeat(64)}`, 'a=b'],
  ['snapshots', 'info', 'none'],
  ['snapshots', 'rm', 'none'],
  ['snapshots', 'prepare', 'k', 'none'],
  ['snapshots', 'commit', 'name', 'none'],
  ['snapshots', 'mounts', '/mnt', 'none'],
  ['snapshots', '--snapshotter', 'nobody', 'ls'],
  ['leases', 'rm', 'none'],
  ['namespaces', 'rm', 'none'],
  ['namespaces', 'create', 'a/b'],
  ['namespaces', 'label', 'none', ''],
  ['run', 'none:latest', 'c'],
]

export const ctr: Case[] = lines.map(line => ({
  name: `ctr ${line.join(' ')}`.replace(/a{20,}/g, 'a…'),
  heavy: true,
  steps: at => at.ctr(...line),
}))
