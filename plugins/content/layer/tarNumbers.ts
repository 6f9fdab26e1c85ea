// Fields of a tar header: text up to NUL, octal or base-256 numbers, checksums. Source: POSIX ustar, GNU tar manual.
import { invalid } from './errors.js'

/** Bytes up to the first NUL, one character each. */
export function text(block: Buffer, offset: number, length: number): string {
  const end = block.indexOf(0, offset)
  return block.toString('latin1', offset, end < 0 || end > offset + length ? offset + length : end)
}

/** Octal digits among spaces and NULs, or, with the top bit set, a big-endian number. Empty is 0. */
export function number(block: Buffer, offset: number, length: number, what: string): number {
  const value = (block[offset] ?? 0) & 0x80 ? base256(block, offset, length) : octal(block, offset, length)
  if (!Number.isSafeInteger(value)) throw invalid(`${what} in a tar header is no number`)
  return value
}

function octal(block: Buffer, offset: number, length: number): number {
  const end = offset + length
  let at = offset
  while (at < end && isBlank(block[at])) at++
  let value = 0
  for (; at < end && !isBlank(block[at]); at++) {
    const digit = (block[at] ?? 0) - 0x30
    if (digit < 0 || digit > 7) return Number.NaN
    value = value * 8 + digit
  }
  return value
}

const isBlank = (byte: number | undefined) => byte === 0 || byte === 0x20

/** Two's complement; the flag is the top bit, the sign the one below. */
function base256(block: Buffer, offset: number, length: number): number {
  const negative = ((block[offset] ?? 0) & 0x40) !== 0
  let value = BigInt((block[offset] ?? 0) & 0x3f)
  for (let at = offset + 1; at < offset + length; at++) value = (value << 8n) | BigInt(block[at] ?? 0)
  return Number(negative ? value - (1n << BigInt(8 * length - 2)) : value)
}

/** Some old writers summed signed characters. */
export function hasValidChecksum(block: Buffer): boolean {
  const stored = octal(block, 148, 8)
  let unsigned = 8 * 32
  let signed = unsigned
  for (let i = 0; i < 512; i++) {
    if (i >= 148 && i < 156) continue
    const byte = block[i] ?? 0
    unsigned += byte
    signed += byte < 128 ? byte : byte - 256
  }
  return stored === unsigned || stored === signed
}

export function isZero(block: Buffer): boolean {
  for (let i = 0; i < block.length; i++) if (block[i] !== 0) return false
  return true
}

/** Decimal digits only, as pax records and sparse maps write counts. */
export function decimal(digits: string, what: string): number {
  const value = /^\d{1,16}$/.test(digits) ? Number(digits) : Number.NaN
  if (!Number.isSafeInteger(value)) throw invalid(`${what} ${shortened(digits)} is no number`)
  return value
}

/** Seconds with any number of decimals, maybe negative, as nanoseconds. */
export function nanoseconds(digits: string, what: string): bigint {
  const match = /^(-?)(\d{1,18})(?:\.(\d*))?$/.exec(digits)
  if (!match) throw invalid(`${what} ${shortened(digits)} is no time`)
  const [, sign, seconds = '0', fraction = ''] = match
  const value = BigInt(seconds) * 1_000_000_000n + BigInt(fraction.slice(0, 9).padEnd(9, '0'))
  return sign ? -value : value
}

const shortened = (value: string) => JSON.stringify(value.slice(0, 40))
