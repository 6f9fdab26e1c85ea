// JSON of other programs, read and written without harm to what Node cannot hold: integers beyond 2^53.
import { randomUUID } from 'node:crypto'
import { invalidArgument } from '../kit/errors.js'
import type { Json } from '../kit/plugin.js'

export type JsonObject = { [key: string]: Json }

/** An OCI spec is some 10 to 30 KB; this is what ttrpc and gRPC would carry at all. */
const jsonMaxBytes = 16 << 20

// A long integer (RLIM_INFINITY is 18446744073709551615) travels as a string with a mark that nobody else can know.
const mark = randomUUID()
const longIntegers = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d{16,}(?![\d.eE])/g
const markedIntegers = new RegExp(`"${mark}(-?\\d+)"`, 'g')

/** `what` begins the sentence of a refusal: "the container's spec". */
export function parseObject(bytes: Uint8Array, what: string): JsonObject {
  if (bytes.length > jsonMaxBytes) throw invalidArgument(`${what} has ${bytes.length} bytes, more than ${jsonMaxBytes}`)
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8')
  const parsed = parse(text, what)
  const object = asObject(parsed)
  if (!object) throw invalidArgument(`${what} is not a JSON object`)
  return object
}

export function stringify(value: Json): string {
  return JSON.stringify(value).replaceAll(markedIntegers, '$1')
}

function parse(text: string, what: string): Json {
  try {
    if (!/\d{16,}/.test(text)) return JSON.parse(text)
    return JSON.parse(text.replaceAll(longIntegers, found => (found.startsWith('"') ? found : `"${mark}${found}"`)))
  } catch (error) {
    throw invalidArgument(`${what} is not JSON: ${error instanceof Error ? error.message.replaceAll(mark, '') : error}`)
  }
}

export function asObject(value: Json | undefined): JsonObject | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : undefined
}

export function asArray(value: Json | undefined): Json[] | undefined {
  return Array.isArray(value) ? value : undefined
}

export function asString(value: Json | undefined): string | undefined {
  return typeof value === 'string' ? value : undefined
}

/** A number of any length; undefined for anything else. */
export function asInteger(value: Json | undefined): bigint | undefined {
  if (typeof value === 'number') return Number.isInteger(value) ? BigInt(value) : undefined
  if (typeof value === 'string' && value.startsWith(mark)) return BigInt(value.slice(mark.length))
  return undefined
}

export function fromInteger(value: bigint): Json {
  const number = Number(value)
  return Number.isSafeInteger(number) ? number : `${mark}${value}`
}
