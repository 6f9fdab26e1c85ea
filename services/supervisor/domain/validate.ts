// What names, digests and labels may look like. The rules are containerd's, since its clients rely on them.
import type { Labels } from './values.js'

const identifierLengthMax = 76
const identifierPattern = /^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$/
const labelLengthMax = 4096
const nameLengthMax = 4096
const requestIdLengthMax = 128
const digestPattern = /^(?:sha256:[a-f0-9]{64}|sha384:[a-f0-9]{96}|sha512:[a-f0-9]{128})$/

/** Why a value is not acceptable, or undefined when it is. */
export type Objection = string | undefined

/** Ids of containers, tasks, processes, leases and namespaces. */
export function checkIdentifier(id: string): Objection {
  if (id === '') return 'identifier must not be empty'
  if (id.length > identifierLengthMax) {
    return `identifier "${id.slice(0, 80)}…" greater than maximum length (${identifierLengthMax} characters)`
  }
  if (!identifierPattern.test(id)) return `identifier ${JSON.stringify(id)} must match ${identifierPattern.source}`
  return undefined
}

/** Key and value of a label together are at most 4096 bytes. */
export function checkLabels(labels: Labels): Objection {
  for (const [key, value] of Object.entries(labels)) {
    const length = Buffer.byteLength(key) + Buffer.byteLength(value)
    if (length > labelLengthMax) {
      return `label key and value length (${length} bytes) greater than maximum size (${labelLengthMax} bytes), key: ${key.slice(0, 64)}`
    }
  }
  return undefined
}

export function checkDigest(digest: string): Objection {
  return digestPattern.test(digest) ? undefined : `invalid digest ${JSON.stringify(digest.slice(0, 160))}`
}

/** Image names and snapshot keys are free text to containerd; control characters and absurd lengths are nobody's wish. */
export function checkName(what: string, name: string): Objection {
  if (name === '') return `${what} must not be empty`
  if (name.length > nameLengthMax) return `${what} is longer than ${nameLengthMax} characters`
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (/[\u0000-\u001f\u007f]/.test(name)) return `${what} ${JSON.stringify(name)} contains control characters`
  return undefined
}

/** What a client names its request by: printable ASCII without spaces, as in a metadata value. */
export function checkRequestId(id: string): Objection {
  if (id.length > requestIdLengthMax) return `the request id is longer than ${requestIdLengthMax} characters`
  if (!/^[\x21-\x7e]+$/.test(id)) return `the request id ${JSON.stringify(id)} has to be printable ASCII without spaces`
  return undefined
}

/** "/tasks/start": each part an identifier. */
export function checkTopic(topic: string): Objection {
  if (!topic.startsWith('/')) return `topic ${JSON.stringify(topic.slice(0, 160))} must start with '/'`
  const parts = topic.slice(1).split('/')
  for (const part of parts) {
    const objection = checkIdentifier(part)
    if (objection) return `topic ${JSON.stringify(topic.slice(0, 160))}: ${objection}`
  }
  return undefined
}
