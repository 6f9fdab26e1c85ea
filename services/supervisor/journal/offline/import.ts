// Makes a journal from an export: in a directory that is new or empty, with the sequences that the records had.
import { randomUUID } from 'node:crypto'
import { setImmediate as turn } from 'node:timers/promises'
import type { Disk } from '../disk.js'
import { keepFormat, type WrittenBy } from '../format.js'
import type { Sequence } from '../journal.js'
import { MarkFile } from '../mark.js'
import { NOTHING_BEFORE } from '../segment.js'
import { writeSnapshot } from '../snapshots.js'
import { Chain } from './chain.js'
import { decodeLine, type Head, type SnapshotLine } from './lines.js'

export interface ImportOptions {
  disk: Disk
  dir: string
  lines: AsyncIterable<string>
  /**
   * The journal keeps its id. Only when nothing was appended to the original since: NATS takes two events with the same
   * id and sequence for one. By default it gets a new id.
   */
  keepId: boolean
  writtenBy: WrittenBy
  segmentBytes?: number
}

export interface Imported {
  journal: string
  first: Sequence
  last: Sequence
}

/** Rejects without a journal having come into being; what was begun is under `<dir>.importing`. */
export async function importLines(options: ImportOptions): Promise<Imported> {
  const { disk, dir, lines, keepId, writtenBy } = options
  if ((await disk.list(dir)).length > 0)
    throw new Error(`${dir} is not empty: import into a new directory, and move it into place afterwards`)
  const draft = `${dir}.importing`
  if ((await disk.list(draft)).length > 0) throw new Error(`${draft} is left from an import that failed: remove it`)
  await disk.makeDirectory(draft)
  const reading = new Reading(lines)
  const head = await reading.head()
  const journal = keepId ? head.journal : randomUUID()
  await keepFormat(disk, draft, writtenBy)
  const { segmentBytes } = options
  const chain = await Chain.begin({
    ...{ disk, dir: draft, journal, first: head.first, before: NOTHING_BEFORE },
    ...(segmentBytes !== undefined && { segmentBytes }),
  })
  let count = 0
  for await (const record of reading.records()) {
    await chain.add(record)
    if (++count % 1000 === 0) await turn()
  }
  const end = await chain.end()
  if (end.sequence !== head.last)
    throw new Error(`the export ends with record ${end.sequence}, it should with ${head.last}: it is not whole`)
  for (const { sequence, state, versions } of reading.snapshots)
    await writeSnapshot(disk, draft, journal, {
      ...{ sequence, state, durable: end.sequence, versions: new Map(versions) },
      milestone: end.sequence === sequence ? end : undefined,
    })
  const mark = await MarkFile.open(disk, draft)
  await mark.write({ journal, acknowledged: end.sequence, first: head.first, exact: true })
  await mark.close()
  await disk.syncDirectory(draft)
  await disk.rename(draft, dir)
  return { journal, first: head.first, last: end.sequence }
}

/** The lines in their order: head, snapshots, records. */
class Reading {
  readonly snapshots: SnapshotLine[] = []
  private readonly lines: AsyncIterator<string>
  private number = 0

  constructor(lines: AsyncIterable<string>) {
    this.lines = lines[Symbol.asyncIterator]()
  }

  async head(): Promise<Head> {
    const line = await this.next()
    if (!line || !('head' in line)) throw new Error('the first line is not that of an exported journal')
    if (!line.head.complete)
      throw new Error('this export is only a part of a journal: export it without a range and without filters')
    return line.head
  }

  async *records() {
    for (let line = await this.next(); line; line = await this.next()) {
      if ('record' in line) yield line.record
      else if ('snapshot' in line) this.snapshots.push(line.snapshot)
      else throw new Error(`line ${this.number}: a second head`)
    }
  }

  private async next() {
    const { value, done } = await this.lines.next()
    this.number += 1
    if (done || value === undefined) return undefined
    if (value === '') return undefined
    try {
      return decodeLine(value)
    } catch (error) {
      throw new Error(`line ${this.number}: ${error instanceof Error ? error.message : String(error)}`)
    }
  }
}
