// Files with holes in a tar: where each stored byte belongs. Source: GNU tar manual, "Sparse Formats".
import { invalid } from './errors.js'
import { bounds } from './limits.js'
import { decimal, number } from './tarNumbers.js'

/** Stored bytes, in order: `length` of them belong at `offset`. */
export interface Range {
  offset: number
  length: number
}

/** In order, apart, within the file, and as many bytes as are stored. */
export function validateRanges(ranges: Range[], fileSize: number, storedSize: number): void {
  let end = 0
  let stored = 0
  for (const { offset, length } of ranges) {
    if (offset < end || offset + length > fileSize) throw invalid('the ranges of a sparse file overlap or leave it')
    end = offset + length
    stored += length
  }
  if (stored !== storedSize) throw invalid(`a sparse file maps ${stored} bytes and stores ${storedSize}`)
}

/** "offset,length,offset,length" (0.1), or the same as a list (0.0). */
export function rangesOf(numbers: string[]): Range[] {
  if (numbers.length % 2 !== 0) throw invalid('a sparse map has an offset without a length')
  const ranges: Range[] = []
  for (let i = 0; i < numbers.length; i += 2)
    ranges.push({ offset: sparseNumber(numbers[i]), length: sparseNumber(numbers[i + 1]) })
  return ranges
}

/** The map that version 1.0 stores before the data: decimal lines, their count first, padded to whole blocks. */
export class StoredMap {
  readonly #blocks: Buffer[] = []
  #lines = 0
  #linesWanted: number | undefined

  /** Answers the map with its last block. */
  push(block: Buffer): Range[] | undefined {
    this.#blocks.push(block)
    for (let at = block.indexOf(0x0a); at >= 0; at = block.indexOf(0x0a, at + 1)) this.#lines++
    if (this.#blocks.length * block.length > bounds.headerBytes) throw invalid('a sparse map does not end')
    if (this.#lines === 0) return undefined
    this.#linesWanted ??= 1 + 2 * this.#count()
    if (this.#lines < this.#linesWanted) return undefined
    return rangesOf(this.#text().split('\n').slice(1, this.#linesWanted))
  }

  #count(): number {
    const text = this.#text()
    const count = sparseNumber(text.slice(0, text.indexOf('\n')))
    if (count > bounds.sparseRanges) throw invalid('a sparse file has too many ranges')
    return count
  }

  #text(): string {
    return Buffer.concat(this.#blocks).toString('latin1')
  }
}

/** The ranges that old GNU tar keeps in the header (4 of them) or in a block that extends it (21). */
export function addOldRanges(ranges: Range[], block: Buffer, start: number, count: number): void {
  if (ranges.length > bounds.sparseRanges) throw invalid('a sparse file has too many ranges')
  for (let at = start; at < start + 24 * count; at += 24) {
    if (block[at] === 0) break
    ranges.push({ offset: oldNumber(block, at), length: oldNumber(block, at + 12) })
  }
}

const sparseNumber = (digits = '') => decimal(digits, 'sparse map')

function oldNumber(block: Buffer, offset: number): number {
  const value = number(block, offset, 12, 'sparse map')
  if (value < 0) throw invalid('a sparse map holds a negative number')
  return value
}
