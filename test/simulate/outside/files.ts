// What the bundle has in place of node:fs/promises, as far as the relay's memory needs it.

import { systemError } from '../disk.js'
import { outside } from './current.js'

const disk = () => {
  if (!outside.disk) throw systemError('EIO')
  return outside.disk
}

export async function readFile(path: string): Promise<string> {
  const file = await disk().open(path, 'read')
  const bytes = Buffer.alloc(await file.size())
  await file.read(bytes, 0)
  return bytes.toString()
}

export async function writeFile(path: string, text: string): Promise<void> {
  const file = await disk().open(path, 'draft')
  await file.write([Buffer.from(text)], 0)
}

export const rename = (from: string, to: string): Promise<void> => disk().rename(from, to)

export const open = (): Promise<never> => Promise.reject(systemError('ENOENT'))
