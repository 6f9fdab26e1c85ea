// The parts beneath the journal: frames, the judgement of a tail, the sparse index, the newest records.
import t from 'tap'
import { type Frame, frameBytes, readFrame, writeFrame } from '../../../services/supervisor/journal/frame.js'
import { Recent } from '../../../services/supervisor/journal/recent.js'
import { decodeRecord, encodeRecord, glance, recordsOf } from '../../../services/supervisor/journal/record.js'
import { SparseIndex } from '../../../services/supervisor/journal/sparseIndex.js'
import { judge, type TailFacts } from '../../../services/supervisor/journal/tail.js'
import { walk } from '../../../services/supervisor/journal/walk.js'
import { MemoryDisk } from '../../fault/journal/disks.js'
import { batch, entry } from './batches.js'

const salt = 0xdecafbad

/** Frames of records with these sizes, as one flush, the first at byte 0. */
function frames(sizes: number[]): Buffer {
  const bytes = Buffer.alloc(
    sizes.reduce((total, size) => total + frameBytes(size), 0),
    0xff,
  )
  let at = 0
  for (const size of sizes)
    at = writeFrame(bytes, at, Buffer.alloc(size, size), { salt, flush: 0, lastOfBatch: size % 2 === 0 })
  return bytes
}

t.test('a frame comes back as it was written, of every length', async t => {
  for (let size = 1; size < 70; size += 1) {
    const found = readFrame(frames([size]), 0, 4096, salt)
    if (found.found !== 'frame') throw new Error(`a record of ${size} bytes: ${found.found}`)
    const { record, end, lastOfBatch } = found
    if (!record.equals(Buffer.alloc(size, size)) || lastOfBatch !== (size % 2 === 0) || end !== 4096 + frameBytes(size))
      t.fail(`a record of ${size} bytes`)
    t.equal(end % 16, 0)
  }
})

t.test('any flipped bit in a frame is noticed, and so is the frame of another segment', async t => {
  const bytes = frames([61])
  for (let bit = 0; bit < bytes.length * 8; bit += 1) {
    const flipped = Buffer.from(bytes)
    flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7))
    if (readFrame(flipped, 0, 0, salt).found === 'frame') t.fail(`bit ${bit}`)
  }
  t.equal(readFrame(bytes, 0, 0, salt + 1).found, 'bad header')
})

t.test('a walk visits every frame with a buffer of any size, and stops where it is told', async t => {
  const sizes = Array.from({ length: 40 }, (_, index) => 1 + ((index * 53) % 300))
  const disk = new MemoryDisk()
  const bytes = frames(sizes)
  disk.put('/log', Buffer.concat([bytes, Buffer.alloc(100)]))
  const file = await disk.open('/log', 'read')
  for (const chunkBytes of [16, 17, 100, 333, 4096, 100_000]) {
    const lengths: number[] = []
    let passed = 0
    const visit = ({ record }: Frame) => lengths.push(record.length) > 0
    const end = await walk({
      file,
      salt,
      from: 0,
      to: bytes.length + 100,
      chunkBytes,
      visit,
      passed: ({ length }) => (passed += length),
    })
    t.same(end, { position: bytes.length, why: 'fault', found: { found: 'blank' } })
    t.same(lengths, sizes)
    t.equal(passed, bytes.length)
    let left = 7
    const some = await walk({ file, salt, from: 0, to: bytes.length, chunkBytes, visit: () => --left > 0 })
    t.same(some, { position: frames(sizes.slice(0, 7)).length, why: 'stopped' })
  }
  const short = await walk({ file, salt, from: 0, to: 1_000_000, visit: () => true })
  t.equal(short.why, 'fault')
})

t.test('of a tail nothing is cut that was acknowledged or that others follow, whatever else is true', async t => {
  const either = [true, false]
  for (const found of ['blank', 'bad header', 'bad record', 'beyond'] as const)
    for (const acknowledged of either)
      for (const exact of either)
        for (const openBatch of either)
          for (const blank of either)
            for (const laterFlush of either)
              for (const unwrittenSector of either) {
                const facts: TailFacts = { acknowledged, exact, openBatch, blank, laterFlush, found, unwrittenSector }
                const { judgement, because } = judge(facts)
                const said = `${JSON.stringify(facts)}: ${judgement} because ${because}`
                if (acknowledged && judgement !== 'damaged') t.fail(said)
                if (laterFlush && !blank && judgement !== 'damaged') t.fail(said)
                if (judgement === 'clean' && (!blank || openBatch)) t.fail(said)
                if (found === 'bad header' && !blank && !exact && judgement !== 'damaged') t.fail(said)
              }
  t.pass('all combinations')
})

t.test('a glance at a record tells the same as decoding it', async t => {
  const entries = [
    entry('task/default/ünicode', { ends: true, attachments: [Buffer.alloc(300)] }),
    entry('', { namespace: '', payload: Buffer.alloc(0) }),
  ]
  for (const first of [1n, 127n, 128n, 2n ** 40n])
    for (const record of recordsOf(batch(entries), first, 'node-1')) {
      const bytes = Buffer.from(encodeRecord(record))
      const { sequence, stream, ends } = decodeRecord(bytes)
      t.same(glance(bytes), { sequence, stream, ends })
    }
})

t.test('the sparse index finds the nearest record before, and stays small', async t => {
  const first = 1_000_000n
  const index = new SparseIndex(first)
  for (let n = 0; n < 10_000; n += 1) index.add(first + BigInt(n), 64 + n * 2000)
  t.equal(index.before(first - 1n), undefined)
  for (const n of [0, 1, 63, 64, 5000, 9999, 20_000]) {
    const place = index.before(first + BigInt(n))
    const distance = n - Number((place?.sequence ?? 0n) - first)
    t.ok(distance >= 0 && (distance < 64 || n > 9999), `record ${n} is ${distance} from a remembered one`)
    t.equal(place?.position, 64 + Number((place?.sequence ?? 0n) - first) * 2000)
  }
  const early = new SparseIndex(first)
  early.add(first, 64)
  early.continueWith(index)
  t.same(early.before(first + 9999n), index.before(first + 9999n))
})

t.test('the newest records are kept within their bounds', async t => {
  const recent = new Recent({ records: 100, bytes: 10_000 })
  const records = recordsOf(batch(Array.from({ length: 1000 }, () => 'a')), 1n, 'node-1')
  for (const record of records) recent.add(record, 50)
  t.equal(recent.get(900n), undefined)
  t.equal(recent.get(901n)?.sequence, 901n)
  t.equal(recent.get(1000n)?.sequence, 1000n)
  t.equal(recent.get(1001n), undefined)
  const [large] = recordsOf(batch(['a']), 1001n, 'node-1')
  if (large) recent.add(large, 20_000)
  t.equal(recent.get(1000n), undefined, 'one that is larger than all bounds drives out the others')
  t.equal(recent.get(1001n), undefined)
})
