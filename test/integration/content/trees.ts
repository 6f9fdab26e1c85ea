// Directory trees as a test compares them: everything that a layer can carry, path by path.
import { createHash } from 'node:crypto'
import {
  closeSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { type ApplyResult, applyLayer } from '../../../plugins/content/layer/apply.js'
import { defaultLimits, type LayerLimits } from '../../../plugins/content/layer/limits.js'
import { type PackJob, packLayer } from '../../../plugins/content/layer/pack.js'
import type { LayerTarget } from '../../../plugins/content/layer/whiteouts.js'
import { getXattr, listXattrs, type Path } from '../../../plugins/kit/linux.js'
import { removeByForce } from '../../harness/machine.js'
import type { Scope } from '../../harness/wait.js'

/** A directory of its own for one test, gone afterwards with all that is mounted in it. */
export function scratch(scope: Scope): string {
  const directory = mkdtempSync('/tmp/purser-layer-')
  scope.teardown(() => removeByForce({ directory, address: join(directory, 'none'), containers: [], interfaces: [] }))
  return directory
}

export interface TreeOptions {
  /** Whole seconds, as a layer made by us has them. */
  seconds?: boolean
  /** Directories' times, too. */
  directoryTimes?: boolean
}

/** One line for each path, in order: type, mode, owner, size, time, links, attributes, content. Bytes as latin1. */
export function treeOf(root: string, { seconds = false, directoryTimes = true }: TreeOptions = {}): string[] {
  const lines: string[] = []
  const names = new Map<string, string>()
  const visit = (path: string) => {
    const real = Buffer.from(join(root, path), 'latin1')
    const stats = lstatSync(real, { bigint: true })
    const time = seconds ? stats.mtimeNs / 1_000_000_000n : stats.mtimeNs
    const first = names.get(`${stats.ino}`)
    if (!stats.isDirectory()) names.set(`${stats.ino}`, first ?? path)
    const facts = [
      path,
      (stats.mode & 0o177777n).toString(8),
      `${stats.uid}:${stats.gid}`,
      ...(stats.isDirectory() && !directoryTimes ? [] : [`@${time}`]),
      ...(stats.isFile() ? [`${stats.size} bytes`, sha256(readFileSync(real))] : []),
      ...(stats.isSymbolicLink() ? [`-> ${readlinkSync(real, { encoding: 'latin1' })}`] : []),
      ...(stats.isCharacterDevice() || stats.isBlockDevice() ? [`device ${stats.rdev}`] : []),
      ...(first === undefined ? [] : [`= ${first}`]),
      ...xattrsOf(real),
    ]
    lines.push(facts.join(' '))
    if (stats.isDirectory())
      for (const name of readdirSync(real, { encoding: 'latin1' }).sort())
        visit(path === '.' ? name : `${path}/${name}`)
  }
  visit('.')
  return lines.slice(1) // the root itself belongs to whoever made it
}

function xattrsOf(path: Path): string[] {
  return listXattrs(path)
    .filter(name => !name.includes('.overlay.') && name !== 'security.selinux')
    .sort()
    .map(name => `${name}=${getXattr(path, name)?.toString('hex')}`)
}

export const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

export interface ApplyOptions {
  target: LayerTarget
  limits?: Partial<LayerLimits>
  digest?: string
  size?: number
  zstd?: string
  isCancelled?: () => boolean
}

let blobs = 0

/** Unpacks these bytes in this thread. */
export async function applyBytes(bytes: Buffer, options: ApplyOptions): Promise<ApplyResult> {
  const blob = `${mkdtempSync('/tmp/purser-blob-')}/${blobs++}`
  writeFileSync(blob, bytes)
  try {
    const { target, limits, size = 0, zstd = '/usr/bin/zstd', isCancelled = () => false } = options
    const digest = options.digest ?? `sha256:${sha256(bytes)}`
    const job = { kind: 'apply', blob, digest, size, target, zstd, sync: false } as const
    return await applyLayer({ ...job, limits: { ...defaultLimits, ...limits } }, isCancelled)
  } finally {
    rmSync(blob.slice(0, -basename(blob).length), { recursive: true })
  }
}

/** Packs in this thread, into a file, and answers its bytes. */
export async function packBytes(scope: Scope, job: Partial<PackJob> & Pick<PackJob, 'source'>) {
  const path = join(scratch(scope), 'layer')
  writeFileSync(path, '')
  const output = openSync(path, 'r+')
  try {
    const defaults = { kind: 'pack', compression: 'none', epochNs: undefined, zstd: '/usr/bin/zstd' } as const
    const result = await packLayer({ ...defaults, ...job, output }, () => false)
    return { ...result, bytes: readFileSync(path) }
  } finally {
    closeSync(output)
  }
}

export function makeDirectory(...parts: string[]): string {
  const path = join(...parts)
  mkdirSync(path, { recursive: true })
  return path
}
