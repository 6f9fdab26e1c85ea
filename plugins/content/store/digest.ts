// Digests as the OCI image spec writes them: algorithm, colon, lower-case hex.
import { createHash, type Hash } from 'node:crypto'
import { invalidArgument } from '../../kit/errors.js'

declare const brand: unique symbol
/** `sha256:<64 hex>`, checked: its parts are safe in file names. */
export type Digest = string & { readonly [brand]: 'Digest' }

export type Algorithm = 'sha256' | 'sha384' | 'sha512'

const hexLengths: Record<Algorithm, number> = { sha256: 64, sha384: 96, sha512: 128 }

export const algorithms: readonly Algorithm[] = ['sha256', 'sha384', 'sha512']

/** Throws INVALID_ARGUMENT for anything that does not name a blob. */
export function parseDigest(text: string): Digest {
  if (isDigest(text)) return text
  throw invalidArgument(`${JSON.stringify(text.slice(0, 200))} failed validation: a digest is sha256:<64 hex digits>`)
}

export function isDigest(text: string): text is Digest {
  const { algorithm, hex } = parts(text)
  return isAlgorithm(algorithm) && hex.length === hexLengths[algorithm] && /^[0-9a-f]+$/.test(hex)
}

export function algorithmOf(digest: Digest): Algorithm {
  const { algorithm } = parts(digest)
  if (isAlgorithm(algorithm)) return algorithm
  throw new Error(`unchecked digest ${digest}`)
}

export function hexOf(digest: Digest): string {
  return parts(digest).hex
}

/** The digest of what was hashed so far; the hash goes on. */
export function digestOf(algorithm: Algorithm, hash: Hash): Digest {
  return parseDigest(`${algorithm}:${hash.copy().digest('hex')}`)
}

export const newHash = (algorithm: Algorithm): Hash => createHash(algorithm)

function parts(text: string): { algorithm: string; hex: string } {
  const colon = text.indexOf(':')
  return { algorithm: text.slice(0, Math.max(colon, 0)), hex: text.slice(colon + 1) }
}

function isAlgorithm(name: string): name is Algorithm {
  return Object.hasOwn(hexLengths, name)
}
