// What can be set about a journal on disk.
import type { Logger } from 'pino'
import type { Disk } from './disk.js'
import type { WrittenBy } from './format.js'

export interface FileJournalOptions {
  /** Made when it is not there. */
  dir: string
  /** The name that goes into the records. */
  node: string
  log: Logger
  /** A segment that would grow beyond it is sealed and the next one begun; default 64 MiB. */
  segmentBytes?: number
  /** By how much a segment grows ahead of its records; default 1 MiB. */
  preallocateBytes?: number
  /** Kept back for batches that free space; default 4 MiB. */
  reserveBytes?: number
  /** How far the mark may trail behind the appends; default 250 ms. */
  markEveryMs?: number
  /** How often a full disk is looked at; default 1000 ms. */
  healEveryMs?: number
  disk?: Disk
  /** What is told to a later program, and what an older one is refused by. Tests without events of the domain have none. */
  writtenBy?: WrittenBy
}

export type FileJournalSettings = Required<Omit<FileJournalOptions, 'writtenBy'>> &
  Pick<FileJournalOptions, 'writtenBy'>
