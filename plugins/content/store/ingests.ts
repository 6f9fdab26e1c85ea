// Uploads in progress: one directory each, found by namespace and ref, resumable after anything but an abort.

import { createHash, randomUUID } from 'node:crypto'
import { constants, renameSync, statSync } from 'node:fs'
import { type FileHandle, mkdir, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { alreadyExists, invalidArgument, notFound, unavailable } from '../../kit/errors.js'
import { failpoint } from '../../kit/failpoint.js'
import { tryLock } from '../../kit/linux.js'
import { absent, type Blobs } from './blobs.js'
import { algorithmOf, type Digest, newHash } from './digest.js'
import { IngestWriter, validateTotal } from './writer.js'

/** What the writer said when it began. Written whole or not at all. */
export interface IngestHeader {
  namespace: string
  ref: string
  /** Bytes; '0' when it was not known. */
  total: string
  /** Milliseconds since 1970. */
  startedAt: number
}

export interface IngestStatus {
  ref: string
  offset: bigint
  total: bigint
  /** Nanoseconds since 1970. */
  startedNs: bigint
  updatedNs: bigint
}

export interface IngestRequest {
  namespace: string
  ref: string
  total: bigint
  expected: Digest | undefined
  /** Ends the hashing of what is there already, which may take a while. */
  signal: AbortSignal
}

export const refLengthMax = 16_384
const headerName = 'header'
const dataName = 'data'

export class Ingests {
  readonly #root: string
  readonly #blobs: Blobs
  readonly #blobBytesMax: bigint
  readonly #log: Logger

  /** `root` holds `ingest/<hash of namespace and ref>/{header,data}`. */
  constructor(root: string, blobs: Blobs, blobBytesMax: bigint, log: Logger) {
    this.#root = join(root, 'ingest')
    this.#blobs = blobs
    this.#blobBytesMax = blobBytesMax
    this.#log = log
  }

  async open(): Promise<void> {
    await mkdir(this.#root, { recursive: true, mode: 0o700 })
  }

  /** Removes what a crash left behind: ingests without a whole header, and removals that were under way. */
  async sweep(): Promise<void> {
    for (const name of await readdir(this.#root)) {
      const directory = join(this.#root, name)
      if (isIngestName(name) && ((await readHeader(directory)) || (await isLocked(directory)))) continue
      this.#log.info({ directory }, 'removed an ingest that a crash left unusable')
      await rm(directory, { recursive: true, force: true })
    }
  }

  /** The only writer of this ref until it is closed, here or in another process: otherwise UNAVAILABLE. */
  async writer(request: IngestRequest): Promise<IngestWriter> {
    const { namespace, ref, total, expected } = request
    validateRef(ref)
    validateTotal(total, this.#blobBytesMax)
    if (expected && this.#blobs.has(expected)) throw alreadyExists(`content ${expected}`)
    const directory = this.#directory(namespace, ref)
    const data = await lockData(directory, ref)
    try {
      const algorithm = expected ? algorithmOf(expected) : 'sha256'
      const { header, isNew } = await resume(directory, data, request)
      const hash = newHash(algorithm)
      const offset = isNew ? 0n : await rehash(data, hash, request.signal)
      return new IngestWriter({
        blobs: this.#blobs,
        blobBytesMax: this.#blobBytesMax,
        directory,
        data,
        dataPath: join(directory, dataName),
        header,
        algorithm,
        hash,
        offset,
        expected,
        remove: () => this.#remove(directory),
      })
    } catch (error) {
      await data.close()
      throw error
    }
  }

  async status(namespace: string, ref: string): Promise<IngestStatus> {
    validateRef(ref)
    const status = await readStatus(this.#directory(namespace, ref))
    if (status?.ref !== ref) throw notFound(`could not get status for ref ${JSON.stringify(ref)}: ingest`)
    return status
  }

  async list(namespace: string): Promise<IngestStatus[]> {
    const statuses: IngestStatus[] = []
    for (const name of await readdir(this.#root)) {
      const status = isIngestName(name) ? await readStatus(join(this.#root, name)) : undefined
      if (status?.namespace === namespace) statuses.push(status)
    }
    return statuses
  }

  /** Also takes an ingest away from a writer, whose commit then fails (containerd's Abort does not ask the lock either). */
  async abort(namespace: string, ref: string): Promise<void> {
    validateRef(ref)
    const directory = this.#directory(namespace, ref)
    await stat(directory).catch(
      absent(() => {
        throw notFound(`ingest ref ${JSON.stringify(ref)}`)
      }),
    )
    await this.#remove(directory)
  }

  /** Renamed first, so that a new ingest under the same ref never meets a half removed one. */
  async #remove(directory: string): Promise<void> {
    const removed = join(this.#root, `removed-${randomUUID()}`)
    try {
      renameSync(directory, removed)
      failpoint('ingest.trashed')
    } catch (error) {
      absent(() => undefined)(error)
    }
    await rm(removed, { recursive: true, force: true })
    failpoint('ingest.removed')
  }

  #directory(namespace: string, ref: string): string {
    return join(this.#root, createHash('sha256').update(`${namespace}\0${ref}`).digest('hex'))
  }
}

function validateRef(ref: string): void {
  if (ref === '') throw invalidArgument('ref must not be empty')
  if (ref.length > refLengthMax) throw invalidArgument(`a ref of ${ref.length} characters, at most ${refLengthMax}`)
}

const isIngestName = (name: string) => /^[0-9a-f]{64}$/.test(name)

/** The lock ends with the file, so with the process at the latest. */
async function lockData(directory: string, ref: string): Promise<FileHandle> {
  await mkdir(directory, { mode: 0o700 }).catch(tolerateExisting)
  failpoint('ingest.made')
  const path = join(directory, dataName)
  const data = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600).catch(
    absent(() => {
      throw unavailable(`ref ${ref} is being committed or aborted`)
    }),
  )
  try {
    if (!tryLock(data.fd)) throw unavailable(`ref ${ref} locked by another writer`)
    // Aborted between open and lock: these bytes have no name any more.
    const { ino } = await data.stat()
    if (statSync(path, { throwIfNoEntry: false })?.ino !== ino) throw unavailable(`ref ${ref} is being aborted`)
    return data
  } catch (error) {
    await data.close()
    throw error
  }
}

function tolerateExisting(error: unknown): void {
  if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
}

/** Another total than before means another upload: it starts over, as containerd does. */
async function resume(
  directory: string,
  data: FileHandle,
  { namespace, ref, total }: IngestRequest,
): Promise<{ header: IngestHeader; isNew: boolean }> {
  const old = await readHeader(directory)
  const kept = old ? BigInt(old.total) : 0n
  if (old?.ref === ref && (total === 0n || kept === 0n || total === kept)) {
    if (total === kept || total === 0n) return { header: old, isNew: false }
    return { header: await writeHeader(directory, { ...old, total: `${total}` }), isNew: false }
  }
  await data.truncate(0)
  const header = { namespace, ref, total: `${total}`, startedAt: Date.now() }
  return { header: await writeHeader(directory, header), isNew: true }
}

async function writeHeader(directory: string, header: IngestHeader): Promise<IngestHeader> {
  const aside = join(directory, `${headerName}.new`)
  await writeFile(aside, JSON.stringify(header), { mode: 0o600 })
  failpoint('ingest.header.drafted')
  renameSync(aside, join(directory, headerName))
  failpoint('ingest.header.renamed')
  return header
}

async function readHeader(directory: string): Promise<IngestHeader | undefined> {
  const text = await readFile(join(directory, headerName), 'utf8').catch(absent(() => ''))
  try {
    const header: unknown = JSON.parse(text)
    return isHeader(header) ? header : undefined
  } catch {
    return undefined // torn by a crash: the same as none
  }
}

function isHeader(value: unknown): value is IngestHeader {
  if (typeof value !== 'object' || value === null) return false
  if (!('namespace' in value && 'ref' in value && 'total' in value && 'startedAt' in value)) return false
  return (
    typeof value.namespace === 'string' &&
    typeof value.ref === 'string' &&
    typeof value.startedAt === 'number' &&
    typeof value.total === 'string' &&
    /^\d+$/.test(value.total)
  )
}

async function readStatus(directory: string): Promise<(IngestStatus & { namespace: string }) | undefined> {
  const header = await readHeader(directory)
  const stats = await stat(join(directory, dataName), { bigint: true }).catch(absent(() => undefined))
  if (!header || !stats) return undefined
  return {
    namespace: header.namespace,
    ref: header.ref,
    offset: stats.size,
    total: BigInt(header.total),
    startedNs: BigInt(header.startedAt) * 1_000_000n,
    updatedNs: stats.mtimeNs,
  }
}

async function isLocked(directory: string): Promise<boolean> {
  const data = await open(join(directory, dataName), 'r').catch(absent(() => undefined))
  if (!data) return false
  try {
    return !tryLock(data.fd)
  } finally {
    await data.close()
  }
}

const rehashChunk = 1 << 20

/** In steps, so that gigabytes of earlier upload hold up no other call. Answers how many bytes there are. */
async function rehash(data: FileHandle, hash: { update(data: Buffer): unknown }, signal: AbortSignal): Promise<bigint> {
  const buffer = Buffer.allocUnsafe(rehashChunk)
  for (let offset = 0; ; ) {
    signal.throwIfAborted()
    const { bytesRead } = await data.read(buffer, 0, buffer.length, offset)
    if (bytesRead === 0) return BigInt(offset)
    hash.update(buffer.subarray(0, bytesRead))
    offset += bytesRead
  }
}
