// Snapshots on disk: one directory each, <root>/snapshots/<id>/{fs,work,meta.json}, and nothing else to keep in step.

import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import type { Logger } from 'pino'
import { failpoint } from '../kit/failpoint.js'
import { syncfsInBackground } from '../kit/linux.js'
import { replaceFile, SharedDirectory, sync } from './durable.js'
import { Ids } from './ids.js'
import { decodeSnapshot, encodeSnapshot, type Snapshot } from './snapshot.js'
import { Trash } from './trash.js'
import { files } from './tree.js'

/**
 * meta.json is written last and names the snapshot: a directory without it was never answered for, and is thrown away
 * at open. Every promise resolves once its change would outlive a power cut.
 */
export class SnapshotStore {
  readonly trash: Trash
  readonly #snapshots: SharedDirectory
  readonly #root: SharedDirectory
  readonly #ids: Ids

  private constructor(root: SharedDirectory, snapshots: SharedDirectory, ids: Ids, trash: Trash) {
    this.#root = root
    this.#snapshots = snapshots
    this.#ids = ids
    this.trash = trash
  }

  /** Answers the store and what is in it. */
  static open(root: string, log: Logger, stop: AbortSignal): { store: SnapshotStore; found: Snapshot[] } {
    mkdirSync(`${root}/snapshots`, { recursive: true, mode: 0o700 })
    const trash = new Trash(`${root}/trash`, log, stop)
    const { found, highest } = scan(root, trash, log)
    const shared = new SharedDirectory(root)
    const snapshots = new SharedDirectory(`${root}/snapshots`)
    return { store: new SnapshotStore(shared, snapshots, new Ids(shared, highest), trash), found }
  }

  directory(id: string): string {
    return `${this.#snapshots.path}/${id}`
  }

  /** Makes a directory, has it filled, and names it. */
  async create(describe: (id: string) => Snapshot, fill: (directory: string) => Promise<void>): Promise<Snapshot> {
    const snapshot = describe(await this.#ids.next())
    const directory = this.directory(snapshot.id)
    mkdirSync(directory, { mode: 0o700 })
    failpoint('snapshot.made')
    try {
      await fill(directory)
      failpoint('snapshot.filled')
      const meta = `${directory}/meta.json`
      writeFileSync(meta, encodeSnapshot(snapshot), { mode: 0o600 })
      failpoint('snapshot.named')
      // All names are there before the first flush, and all flushes are asked for at once: a journaling file system
      // then writes its journal once for the four of them (measured: half of what they take in turn).
      await Promise.all([sync(meta), sync(directory), sync(files(directory)), this.#snapshots.sync()])
      failpoint('snapshot.synced')
      return snapshot
    } catch (error) {
      this.trash.throw(directory)
      throw error
    }
  }

  /** Replaces what is known of a snapshot. */
  async change(snapshot: Snapshot): Promise<void> {
    const directory = this.directory(snapshot.id)
    await replaceFile(`${directory}/meta.json`, encodeSnapshot(snapshot))
    await sync(directory)
    failpoint('snapshot.changed')
  }

  /** What a client wrote into a snapshot is in the page cache: a layer must not be named before it is on disk. */
  async syncContents(id: string): Promise<void> {
    const fd = openSync(this.directory(id), 'r')
    try {
      await syncfsInBackground(fd)
      failpoint('snapshot.flushed')
    } finally {
      closeSync(fd)
    }
  }

  /** Gone at once; the promise is for its durability. */
  remove(id: string): Promise<void> {
    this.trash.throw(this.directory(id))
    return this.#snapshots.sync()
  }

  async close(): Promise<void> {
    await this.trash.close()
    await this.#snapshots.close()
    await this.#root.close()
  }
}

function scan(root: string, trash: Trash, log: Logger): { found: Snapshot[]; highest: bigint } {
  const found = new Map<string, Snapshot>()
  let highest = 0n
  const ids = readdirSync(`${root}/snapshots`).filter(name => /^\d{1,18}$/.test(name))
  for (const id of ids.sort((a, b) => Number(a) - Number(b))) {
    highest = BigInt(id)
    const directory = `${root}/snapshots/${id}`
    const meta = readMeta(directory)
    if (meta === '') {
      log.info({ directory }, 'a snapshot that was never finished is thrown away')
      trash.throw(directory)
      continue
    }
    const snapshot = decodeSnapshot(id, meta)
    const usable = snapshot && existsSync(files(directory)) && !found.has(snapshot.name)
    if (usable) found.set(snapshot.name, snapshot)
    else setAside(root, id, log)
  }
  return { found: [...found.values()], highest }
}

/** '' when there is none, or one that never reached the disk. */
function readMeta(directory: string): string {
  const path = `${directory}/meta.json`
  const stat = statSync(path, { throwIfNoEntry: false })
  return stat ? readFileSync(path, 'utf8').replace(/^\0+$/, '') : ''
}

/** It was answered for once, so somebody may want to look at it: never deleted by us. */
function setAside(root: string, id: string, log: Logger): void {
  mkdirSync(`${root}/damaged`, { recursive: true, mode: 0o700 })
  renameSync(`${root}/snapshots/${id}`, `${root}/damaged/${id}`)
  log.error(
    { snapshot: id, place: `${root}/damaged/${id}` },
    'a damaged snapshot is set aside: check the disk, then delete it',
  )
}
