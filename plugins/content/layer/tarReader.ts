// Reads a tar that is pushed to it in pieces of any size, and tells a sink what is in it.
//
// Not tar-stream: it decodes pax values as UTF-8, which damages file capabilities and old names, knows no sparse files,
// and works by events, where an unpacking worker has one thread and wants calls.
import { exhausted, invalid, shown } from './errors.js'
import { bounds, type LayerLimits } from './limits.js'
import { parsePax } from './pax.js'
import { addOldRanges, type Range, rangesOf, StoredMap, validateRanges } from './sparse.js'
import { decodeHeader, type Extensions, type TarEntry } from './tarHeader.js'
import { hasValidChecksum, isZero, number, text } from './tarNumbers.js'

/** Called in order: entry, its data, end; then the next. */
export interface TarSink {
  entry(entry: TarEntry): void
  /** The buffer is the reader's: use it before returning. */
  data(bytes: Buffer, offset: number): void
  end(): void
}

const BLOCK = 512

type ExtensionKind = 'pax' | 'global' | 'longName' | 'longLink'

interface Data {
  is: 'data'
  stored: number
  ranges: Range[]
  /** Index of the range that is being filled, and how many of its bytes have come. */
  range: number
  done: number
}

/** What the next bytes are. */
type State =
  | { is: 'header' }
  | { is: 'extension'; kind: ExtensionKind; size: number; pieces: Buffer[] }
  | { is: 'oldSparse'; entry: TarEntry; stored: number; ranges: Range[] }
  | { is: 'sparseMap'; entry: TarEntry; stored: number; map: StoredMap }
  | Data
  | { is: 'end' }

export class TarReader {
  readonly #sink: TarSink
  readonly #limits: LayerLimits
  #state: State = { is: 'header' }
  /** Bytes that have yet to come: of an extension or of data all, else of the present block. */
  #missing = BLOCK
  /** Bytes to skip before them. */
  #padding = 0
  readonly #block = Buffer.alloc(BLOCK)
  #extensions: Extensions = {}
  #zeroBlocks = 0
  #entries = 0
  #bytes = 0
  /** Where we are, for errors. */
  #last = 'the beginning'

  constructor(sink: TarSink, limits: LayerLimits) {
    this.#sink = sink
    this.#limits = limits
  }

  push(chunk: Buffer): void {
    for (let at = 0; at < chunk.length && this.#state.is !== 'end'; ) {
      if (this.#padding > 0) {
        const skipped = Math.min(this.#padding, chunk.length - at)
        this.#padding -= skipped
        at += skipped
        continue
      }
      const piece = chunk.subarray(at, at + Math.min(this.#missing, chunk.length - at))
      at += piece.length
      this.#missing -= piece.length
      this.#take(piece)
    }
  }

  /** Says that no more bytes come. A missing end marker is forgiven, half an entry is not. */
  end(): void {
    if (this.#state.is === 'end') return
    const isBetween = this.#state.is === 'header' && this.#missing === BLOCK
    if (!isBetween || Object.keys(this.#extensions).length > 0)
      throw invalid(`the tar is cut off at or after ${this.#last}`)
  }

  #take(piece: Buffer): void {
    const state = this.#state
    if (state.is === 'data') this.#data(state, piece)
    else if (state.is === 'extension') {
      state.pieces.push(Buffer.from(piece)) // a copy: the chunk belongs to whoever pushed it
      if (this.#missing === 0) this.#extension(state.kind, Buffer.concat(state.pieces))
    } else {
      piece.copy(this.#block, BLOCK - this.#missing - piece.length)
      if (this.#missing > 0) return
      this.#missing = BLOCK
      if (state.is === 'header') this.#header(this.#block)
      else if (state.is === 'oldSparse') {
        addOldRanges(state.ranges, this.#block, 0, 21)
        if (this.#block[504] === 0) this.#start(state.entry, state.stored, state.ranges)
      } else if (state.is === 'sparseMap') {
        const ranges = state.map.push(Buffer.from(this.#block))
        state.stored -= BLOCK
        if (ranges) this.#start(state.entry, state.stored, ranges)
      }
    }
  }

  #header(block: Buffer): void {
    if (isZero(block)) {
      this.#zeroBlocks++
      if (this.#zeroBlocks === 2) this.#state = { is: 'end' }
      return
    }
    if (this.#zeroBlocks > 0) throw invalid(`data behind the end marker, after ${this.#last}`)
    if (!hasValidChecksum(block)) throw invalid(`no tar header, or a damaged one, after ${this.#last}`)
    if (++this.#entries > this.#limits.entriesMax)
      throw exhausted(`the layer has more than ${this.#limits.entriesMax} entries`)
    const size = number(block, 124, 12, 'size')
    if (size < 0) throw invalid(`a negative size after ${this.#last}`)
    const flag = String.fromCharCode(block[156] ?? 0)
    const kind = extensionKinds[flag]
    if (kind) this.#startExtension(kind, size)
    else this.#entry(block, flag, size)
  }

  #startExtension(kind: ExtensionKind, size: number): void {
    if (size > bounds.headerBytes)
      throw invalid(`an extended header of ${size} bytes after ${this.#last}, at most ${bounds.headerBytes}`)
    this.#state = { is: 'extension', kind, size, pieces: [] }
    this.#missing = size
    if (size === 0) this.#extension(kind, Buffer.alloc(0))
  }

  #extension(kind: ExtensionKind, data: Buffer): void {
    if (kind === 'pax') this.#extensions.pax = parsePax(data)
    if (kind === 'longName') this.#extensions.longName = text(data, 0, data.length)
    if (kind === 'longLink') this.#extensions.longLink = text(data, 0, data.length)
    this.#next(data.length)
  }

  #entry(block: Buffer, flag: string, size: number): void {
    const extensions = this.#extensions
    const { entry, stored, sparse } = decodeHeader(block, flag, size, extensions)
    this.#extensions = {}
    this.#last = `entry ${shown(entry.name)}`
    if (sparse === 'none') this.#start(entry, stored, [{ offset: 0, length: stored }])
    else if (sparse === 'stored') this.#state = { is: 'sparseMap', entry, stored, map: new StoredMap() }
    else if (sparse === 'records') {
      const map = extensions.pax?.values.get('GNU.sparse.map')
      this.#start(entry, stored, rangesOf(map === undefined ? (extensions.pax?.sparse ?? []) : map.split(',')))
    } else {
      const ranges: Range[] = []
      addOldRanges(ranges, block, 386, 4)
      if (block[482] === 0) this.#start(entry, stored, ranges)
      else this.#state = { is: 'oldSparse', entry, stored, ranges }
    }
  }

  #start(entry: TarEntry, stored: number, ranges: Range[]): void {
    if (entry.size < 0 || stored < 0) throw invalid(`${this.#last} has a negative size`)
    validateRanges(ranges, entry.size, stored)
    this.#bytes += entry.size
    if (this.#bytes > this.#limits.bytesMax)
      throw exhausted(`${this.#last}: the files of the layer have more than ${this.#limits.bytesMax} bytes`)
    this.#sink.entry(entry)
    this.#state = { is: 'data', stored, ranges, range: 0, done: 0 }
    this.#missing = stored
    if (stored === 0) this.#finish(stored)
  }

  #data(state: Data, piece: Buffer): void {
    for (let at = 0; at < piece.length; ) {
      const range = state.ranges[state.range]
      if (!range) throw invalid(`${this.#last} stores more than it maps`)
      const length = Math.min(range.length - state.done, piece.length - at)
      if (length > 0) this.#sink.data(piece.subarray(at, at + length), range.offset + state.done)
      at += length
      state.done += length
      if (state.done < range.length) continue
      state.range++
      state.done = 0
    }
    if (this.#missing === 0) this.#finish(state.stored)
  }

  #finish(stored: number): void {
    this.#sink.end()
    this.#next(stored)
  }

  /** On to the header behind `size` bytes and their padding. */
  #next(size: number): void {
    this.#padding = (BLOCK - (size % BLOCK)) % BLOCK
    this.#state = { is: 'header' }
    this.#missing = BLOCK
  }
}

const extensionKinds: Record<string, ExtensionKind> = { x: 'pax', g: 'global', L: 'longName', K: 'longLink' }
