// What is known of each attachment, on disk before it is done: a crash at any point leaves something to clean up from.

import { mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { failpoint } from '../kit/failpoint.js'
import { identify } from '../kit/identity.js'
import type { Json } from '../kit/plugin.js'
import { isObject, type JsonObject, type NetworkList, parseNetworkList } from './cni/list.js'
import { parseObject } from './cni/result.js'

export interface AttachmentRecord {
  /** Only 'attached' is done; from the other two everything has to be undone. */
  stage: 'attaching' | 'attached' | 'detaching'
  namespace: string
  id: string
  netns: string
  interface: string
  /** Runtime configuration by capability; DEL gets what ADD got. */
  capabilities: JsonObject
  /** The network as it was at Attach: DEL has to follow it even if the operator has changed the file since. */
  list: NetworkList
  /** The newest result of the chain; before 'attached' possibly not the last plugin's. */
  result?: JsonObject
}

export interface AttachmentKey {
  namespace: string
  id: string
}

const suffix = '.json'

/** One file each, written aside, synced and renamed. */
export class Records {
  constructor(private readonly directory: string) {}

  /** Makes the directory, and removes what a writer that died has left. */
  async open(): Promise<void> {
    await mkdir(this.directory, { recursive: true, mode: 0o700 })
    for (const name of await readdir(this.directory)) {
      const writer = /\.(\d+)\.tmp$/.exec(name)?.[1]
      if (writer !== undefined && identify(Number(writer)) === undefined)
        await rm(join(this.directory, name), { force: true })
    }
  }

  async write(record: AttachmentRecord): Promise<void> {
    const path = this.path(record)
    const temporary = `${path}.${process.pid}.tmp`
    const file = await open(temporary, 'w', 0o600)
    try {
      await file.writeFile(JSON.stringify(record))
      await file.datasync()
    } finally {
      await file.close()
    }
    failpoint('attachment.drafted')
    await rename(temporary, path)
    await this.syncDirectory()
    failpoint('attachment', record.stage)
  }

  /** Undefined: there is none. Throws when it is there and can't be understood. */
  async read(key: AttachmentKey): Promise<AttachmentRecord | undefined> {
    try {
      return parseRecord(await readFile(this.path(key), 'utf8'))
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
      throw error
    }
  }

  async remove(key: AttachmentKey): Promise<void> {
    await rm(this.path(key), { force: true })
    await this.syncDirectory()
    failpoint('attachment.removed')
  }

  async keys(): Promise<AttachmentKey[]> {
    const names = await readdir(this.directory)
    return names.filter(name => name.endsWith(suffix)).map(name => parseKey(name.slice(0, -suffix.length)))
  }

  path(key: AttachmentKey): string {
    return join(this.directory, formatKey(key) + suffix)
  }

  private async syncDirectory(): Promise<void> {
    const directory = await open(this.directory, 'r')
    try {
      await directory.sync()
    } finally {
      await directory.close()
    }
  }
}

/**
 * A name for files and for CNI (CNI_CONTAINERID), the same after every restart. No two attachments share one, because
 * containerd's identifiers never hold two separators in a row.
 */
export function formatKey({ namespace, id }: AttachmentKey): string {
  return `${namespace}--${id}`
}

function parseKey(text: string): AttachmentKey {
  const border = text.indexOf('--')
  return { namespace: text.slice(0, border), id: text.slice(border + 2) }
}

function parseRecord(text: string): AttachmentRecord {
  const record = parseObject(text)
  if (record === undefined) throw new Error('it is no JSON object')
  const { stage, capabilities, result } = record
  if (stage !== 'attaching' && stage !== 'attached' && stage !== 'detaching') throw new Error('"stage" is unknown')
  if (!isObject(capabilities)) throw new Error('"capabilities" is no object')
  return {
    stage,
    namespace: requireText(record.namespace),
    id: requireText(record.id),
    netns: requireText(record.netns),
    interface: requireText(record.interface),
    capabilities,
    list: parseNetworkList(record.list ?? null),
    ...(isObject(result) && { result }),
  }
}

function requireText(value: Json | undefined): string {
  if (typeof value !== 'string') throw new Error('a text is missing')
  return value
}
