// busybox in a directory, for any number of containers to share as their root.
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ownDirectory } from './directory.js'
import { busyboxImage } from './image.js'

export async function busyboxRoot(): Promise<string> {
  const [layer] = (await busyboxImage({ compression: 'none' })).layers
  const directory = ownDirectory('purser-')
  const root = join(directory, 'rootfs')
  mkdirSync(root)
  writeFileSync(join(directory, 'layer.tar'), layer?.bytes ?? '')
  execFileSync('tar', ['-xf', join(directory, 'layer.tar'), '-C', root])
  return root
}
