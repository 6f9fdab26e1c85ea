// What the bundle has in place of node:crypto: hashes as they are, chance from the seed.
import crypto from 'node:crypto'
import { outside } from './current.js'

export const { createHash } = crypto

export function randomBytes(length: number): Buffer {
  const bytes = Buffer.alloc(length)
  for (let at = 0; at < length; at += 4096) {
    // Nobody looks at more than a few of them.
    for (let index = at; index < Math.min(length, at + 16); index++) bytes[index] = outside.chance.below(256)
  }
  return bytes
}

export function randomUUID(): string {
  const hex = randomBytes(16).toString('hex')
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}
