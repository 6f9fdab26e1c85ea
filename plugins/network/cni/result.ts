// What an ADD answers, as far as anyone but the next plugin reads it. Source: CNI specification, section 5.
import type { Json } from '../../kit/plugin.js'
import { isObject, type JsonObject } from './list.js'

/** Reads a plugin's output. Versions 0.3.0 to 1.1.0 share this much; throws an Error that says what is wrong. */
export function parseResult(output: string): JsonObject {
  const result = parseObject(output)
  if (result === undefined) throw new Error('it printed no JSON object')
  addresses(result)
  return result
}

/** In CIDR notation. */
export function addresses(result: JsonObject): string[] {
  return ips(result).map(ip => {
    if (typeof ip.address !== 'string') throw new Error('an entry of "ips" in its result has no "address"')
    return ip.address
  })
}

export function gateways(result: JsonObject): string[] {
  return [...new Set(ips(result).flatMap(ip => (typeof ip.gateway === 'string' && ip.gateway ? [ip.gateway] : [])))]
}

export function parseObject(text: string): JsonObject | undefined {
  try {
    const value: Json = JSON.parse(text)
    return isObject(value) ? value : undefined
  } catch {
    return undefined // the caller says what it had expected, with more context than the parser has
  }
}

function ips(result: JsonObject): JsonObject[] {
  const value = result.ips ?? []
  if (!Array.isArray(value) || !value.every(isObject)) throw new Error('"ips" in its result is no list of objects')
  return value
}
