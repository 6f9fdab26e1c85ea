// The contents of a large image: some thousand files of all sizes, half of their bytes as dense as programs are.
import type { Entry } from '../harness/image.js'

const layers = 4
/** Bytes of one layer, before compression. */
const layerBytes = 25_000_000
/** The first file of each layer. */
const largestBytes = 5_000_000
const filesPerDirectory = 50
/** Of files, taken in turn: what is in a root file system, many small ones and a few large. */
const sizes = [300, 700, 1_500, 2_500, 4_000, 4_000, 6_000, 9_000, 12_000, 20_000, 30_000, 60_000, 120_000]

/** The same bytes each time. */
export function largeLayers(): Entry[][] {
  const random = generator(0x9e3779b9)
  return Array.from({ length: layers }, (_, layer) => entriesOf(layer, random))
}

function entriesOf(layer: number, random: () => number): Entry[] {
  const entries: Entry[] = [{ kind: 'directory', path: `layer${layer}` }]
  let bytes = 0
  for (let index = 0; bytes < layerBytes; index++) {
    const directory = `layer${layer}/d${Math.floor(index / filesPerDirectory)}`
    if (index % filesPerDirectory === 0) entries.push({ kind: 'directory', path: directory })
    const size = index === 0 ? largestBytes : (sizes[index % sizes.length] ?? 0)
    entries.push({ kind: 'file', path: `${directory}/f${index}`, text: contentOf(size, random) })
    bytes += size
  }
  return entries
}

/** Its first half does not compress, its second half does well. */
function contentOf(size: number, random: () => number): Buffer {
  const content = Buffer.alloc(size, 'a line of text that comes again and again\n')
  for (let at = 0; at + 4 <= size / 2; at += 4) content.writeUInt32LE(random(), at)
  return content
}

/** 32 bits at a time. Source: G. Marsaglia, "Xorshift RNGs", 2003. */
function generator(seed: number): () => number {
  let state = seed
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return state >>> 0
  }
}
