// What the end of the last segment means: nothing more, a flush that a crash tore, or damage.
//
// A torn flush was never acknowledged and may be cut. A record that was acknowledged must not be, even if it can no
// longer be read. What tells them apart, from the journal's own bytes and its mark (mark.ts):
//
// - The mark: everything up to the sequence that it names was acknowledged. It trails by a quarter of a second at
//   most, and after a clean close, or a disk's failure, it is exact.
// - A later flush (frame.ts): it was begun only after what lies before it had been acknowledged.
// - The disk writes a sector of 512 bytes as a whole or not at all, onto zeros. So a torn frame shows a sector that
//   is zero, and its header is either whole or zero. A frame whose sectors have all been written, or whose header is
//   neither, was whole once and has changed since: that is no tear.
//
// What remains: a record that was acknowledged in the last quarter of a second before a crash, and of which the disk
// then lost a whole sector (or a bit, when the record happens to hold a sector of zeros of its own) looks like a torn
// one and is cut. Whatever is in doubt is called damage: that costs the operator a look, the other way costs a record.
import { ALIGNMENT, HEADER_BYTES, isZero, readHeader } from './frame.js'
import type { Fault } from './walk.js'

const SECTOR_BYTES = 512

/** The facts from which the end is judged. */
export interface TailFacts {
  /** The last sequence known to have been acknowledged is at or behind the first that would be cut. */
  acknowledged: boolean
  /** The mark is exact: nothing behind the sequence that it names was acknowledged. */
  exact: boolean
  /** Records of a batch lie before it whose last is missing. */
  openBatch: boolean
  /** Only zeros from here on. */
  blank: boolean
  laterFlush: boolean
  /** What stands in place of the next frame: a zero header, a wrong one, a record that does not match, or too few bytes. */
  found: Fault['found']
  /** A sector of the frame's record is zero. */
  unwrittenSector: boolean
}

export type Judgement = 'clean' | 'torn' | 'damaged'

interface Rule {
  when(facts: TailFacts): boolean
  judgement: Judgement
  because: string
}

/** The first that applies decides. */
const rules: Rule[] = [
  {
    when: facts => facts.acknowledged,
    judgement: 'damaged',
    because: 'a record that was acknowledged is missing or has changed',
  },
  { when: facts => facts.blank && !facts.openBatch, judgement: 'clean', because: 'only zeros follow' },
  {
    when: facts => facts.laterFlush,
    judgement: 'damaged',
    because: 'a record has changed: others were written after it had been acknowledged',
  },
  {
    when: facts => facts.exact,
    judgement: 'torn',
    because: 'there are bytes behind the last record that was acknowledged',
  },
  { when: facts => facts.blank, judgement: 'torn', because: 'the last batch was not written to its end' },
  {
    when: facts => facts.found === 'blank',
    judgement: 'torn',
    because: 'the beginning of the last flush was not written',
  },
  {
    when: facts => facts.found === 'bad header',
    judgement: 'damaged',
    because: "the last record's header has changed since it was written",
  },
  {
    when: facts => facts.found === 'beyond',
    judgement: 'damaged',
    because: 'the file ends within the last record: it has been shortened',
  },
  { when: facts => facts.unwrittenSector, judgement: 'torn', because: 'the last record was not written to its end' },
  { when: () => true, judgement: 'damaged', because: 'the last record has changed since it was written' },
]

export function judge(facts: TailFacts): { judgement: Judgement; because: string } {
  for (const { when, judgement, because } of rules) if (when(facts)) return { judgement, because }
  throw new Error('the last rule always applies')
}

/** Reads from a tail, whose byte 0 lies at `base` of the segment, what can be told from it alone. */
export function examine(
  tail: Buffer,
  base: number,
  salt: number,
  found: Fault | undefined,
): Pick<TailFacts, 'blank' | 'laterFlush' | 'found' | 'unwrittenSector'> {
  const blank = isZero(tail)
  return {
    blank,
    laterFlush: !blank && laterFlush(tail, base, salt),
    found: found?.found ?? 'blank',
    unwrittenSector: found?.found === 'bad record' && anySectorZero(tail, base, found),
  }
}

/** Is there a header behind `base` whose flush began behind it too? */
function laterFlush(tail: Buffer, base: number, salt: number): boolean {
  for (let at = ALIGNMENT; at + HEADER_BYTES <= tail.length; at += ALIGNMENT) {
    const flush = tail.readUInt32LE(at + 8)
    if (flush <= base || flush > base + at) continue
    if (readHeader(tail, at, salt)) return true
  }
  return false
}

/** Has a sector no byte of the record that should be in it? */
function anySectorZero(
  tail: Buffer,
  base: number,
  { record, recordEnd }: { record: number; recordEnd: number },
): boolean {
  let position = record
  while (position < recordEnd) {
    const end = Math.min(position + SECTOR_BYTES - (position % SECTOR_BYTES), recordEnd)
    if (isZero(tail.subarray(position - base, end - base))) return true
    position = end
  }
  return false
}
