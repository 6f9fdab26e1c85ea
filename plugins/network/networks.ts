// The networks that are configured: files as the operator leaves them, read again when they change.
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { notFound } from '../kit/errors.js'
import type { Json } from '../kit/plugin.js'
import { type NetworkList, parseNetworkList } from './cni/list.js'

const fileSizeMax = 256 << 10
const filesMax = 256

interface ConfFile {
  path: string
  size: number
  /** Differs whenever the file does. */
  fingerprint: string
}

export class Networks {
  private readonly inline: NetworkList[]
  private fromFiles = new Map<string, NetworkList>()
  private fingerprint: string | undefined
  private refreshing: Promise<void> | undefined

  /** `inline` wins over files, and an earlier directory or file name over a later one. */
  constructor(
    private readonly directories: string[],
    inline: Json[],
    private readonly log: Logger,
  ) {
    this.inline = inline.flatMap((value, index) => this.parse(`networks[${index}] of the configuration`, value))
  }

  async get(name: string): Promise<NetworkList> {
    await this.refresh()
    const list = this.inline.find(list => list.name === name) ?? this.fromFiles.get(name)
    if (list === undefined) throw notFound(`network ${JSON.stringify(name)} in ${this.directories.join(', ')}`)
    return list
  }

  /** Sorted. */
  async names(): Promise<string[]> {
    await this.refresh()
    return [...new Set([...this.inline.map(list => list.name), ...this.fromFiles.keys()])].sort()
  }

  /** Stats every file (some 0.1 ms): a directory's own time says nothing of a file that was edited in place. */
  private refresh(): Promise<void> {
    this.refreshing ??= this.readChanged().finally(() => {
      this.refreshing = undefined
    })
    return this.refreshing
  }

  private async readChanged(): Promise<void> {
    const files = (await Promise.all(this.directories.map(directory => this.confFiles(directory)))).flat()
    const fingerprint = files.map(file => file.fingerprint).join('\n')
    if (fingerprint === this.fingerprint) return
    const lists = new Map<string, NetworkList>()
    for (const file of files) {
      for (const list of await this.readFile(file)) {
        const first = lists.get(list.name)
        if (first) this.skip(file.path, `a file before it has a network of the same name, "${list.name}"`)
        else lists.set(list.name, list)
      }
    }
    this.fromFiles = lists
    this.fingerprint = fingerprint
  }

  private async confFiles(directory: string): Promise<ConfFile[]> {
    const names = (await readDirectory(directory)).filter(name => /\.(conflist|conf|json)$/.test(name)).sort()
    if (names.length > filesMax) this.log.warn({ directory }, `only the first ${filesMax} network files are read`)
    const files = await Promise.all(names.slice(0, filesMax).map(name => describe(join(directory, name))))
    return files.filter(file => file !== undefined)
  }

  private async readFile(file: ConfFile): Promise<NetworkList[]> {
    if (file.size > fileSizeMax) return this.skip(file.path, `it is larger than ${fileSizeMax >> 10} KiB`)
    try {
      return this.parse(file.path, await readFile(file.path, 'utf8'))
    } catch (error) {
      return this.skip(file.path, reason(error))
    }
  }

  /** One list or none; text is parsed as JSON first. */
  private parse(source: string, value: Json): NetworkList[] {
    try {
      return [parseNetworkList(typeof value === 'string' ? JSON.parse(value) : value)]
    } catch (error) {
      return this.skip(source, reason(error))
    }
  }

  private skip(source: string, reason: string): [] {
    this.log.warn({ source, reason }, `network configuration ${source} is not used: ${reason}`)
    return []
  }
}

async function readDirectory(directory: string): Promise<string[]> {
  try {
    return await readdir(directory)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return []
    throw error
  }
}

/** Undefined for what has just gone, and for anything but a file: a FIFO would keep the reader waiting. */
async function describe(path: string): Promise<ConfFile | undefined> {
  try {
    const entry = await stat(path, { bigint: true })
    if (!entry.isFile()) return undefined
    return { path, size: Number(entry.size), fingerprint: `${path} ${entry.ino} ${entry.size} ${entry.mtimeNs}` }
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
