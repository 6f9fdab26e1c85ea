// The life of an attachment: intent on disk, namespace, chain, result on disk; and all of it backwards.
import { mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { failedPrecondition, notFound } from '../kit/errors.js'
import { Gate } from '../kit/gate.js'
import { Lanes } from '../kit/lanes.js'
import { type Claim, claim, tryClaim } from './claim.js'
import { addChain, checkChain, deleteChain, requirePlugins } from './cni/chain.js'
import type { Execution } from './cni/exec.js'
import { hasCapability, type JsonObject, knowsCheck, type NetworkList } from './cni/list.js'
import { isPinned, pinNetns, unpinNetns } from './netns.js'
import type { Networks } from './networks.js'
import { type AttachmentKey, type AttachmentRecord, formatKey, Records } from './record.js'
import type { Settings } from './settings.js'

/** As CNI's portmap plugin reads it. */
export interface PortMapping extends JsonObject {
  hostPort: number
  containerPort: number
  protocol: string
}

export type FinishedRecord = AttachmentRecord & { stage: 'attached'; result: JsonObject }

/** An attachment that can't be read any more is known by its key alone. */
export type Listed = AttachmentRecord | AttachmentKey

const atOnce = 8 // beyond that, iptables' lock makes them wait for each other anyway
const patienceMs = 10_000 // a plugin that hangs longer no longer counts
const interfaceName = 'eth0'

export class Attachments {
  private readonly lanes = new Lanes()
  private readonly gate = new Gate(atOnce, patienceMs)
  private readonly records: Records
  private readonly claims: string

  constructor(
    private readonly settings: Settings,
    private readonly networks: Networks,
    private readonly log: Logger,
  ) {
    this.records = new Records(join(settings.state, 'attachments'))
    this.claims = join(settings.state, 'claims')
  }

  /** Undoes nothing: whether a half-done attachment is wanted is the supervisor's to say. */
  async open(): Promise<void> {
    await this.records.open()
    await mkdir(this.claims, { recursive: true, mode: 0o700 })
    for (const name of await readdir(this.claims)) tryClaim(join(this.claims, name))?.release()
  }

  /** Ends when every call under way has ended. */
  async close(): Promise<void> {
    await this.lanes.idle()
  }

  attach(key: AttachmentKey, network: string, ports: PortMapping[]): Promise<FinishedRecord> {
    return this.exclusively(key, async claim => {
      const list = await this.networks.get(network)
      const before = await this.readOrGuess(key, network)
      // A reboot takes the namespace and may leave the record.
      if (before && isFinished(before) && (await isPinned(before.netns))) return reuse(before, network)
      await this.prepare(list, ports)
      if (before) await this.undo(before, claim)
      return await this.make(key, list, ports, claim)
    })
  }

  /** An empty `network` means whichever it is. */
  check(key: AttachmentKey, network: string): Promise<void> {
    return this.exclusively(key, async claim => {
      const record = await this.records.read(key)
      if (record === undefined || !isFinished(record) || !isNamed(record, network))
        throw notFound(`attachment of ${display(key)}`)
      if (!(await isPinned(record.netns)))
        throw failedPrecondition(
          `network namespace ${record.netns} of ${display(key)} has gone: detach and attach again`,
        )
      if (record.list.disableCheck || !knowsCheck(record.list)) return
      await checkChain(this.execution(record, record.netns, claim), record.result)
    })
  }

  detach(key: AttachmentKey, network: string): Promise<void> {
    return this.exclusively(key, async claim => {
      const record = (await this.readOrGuess(key, network)) ?? (await this.guess(key, network))
      if (record && isNamed(record, network)) await this.undo(record, claim)
    })
  }

  /** Read from the disk each time: recovery asks once, and another process may have been at work until now. */
  async list(): Promise<Listed[]> {
    const listed: Listed[] = []
    for (const key of await this.records.keys()) {
      const record = await this.records.read(key).catch(error => this.tellDamaged(key, error))
      listed.push(record ?? key)
    }
    return listed
  }

  private async make(
    key: AttachmentKey,
    list: NetworkList,
    ports: PortMapping[],
    claim: Claim,
  ): Promise<FinishedRecord> {
    const netns = this.netnsPath(key)
    const capabilities = ports.length > 0 ? { portMappings: ports } : {}
    let record: AttachmentRecord = { stage: 'attaching', ...key, netns, interface: interfaceName, capabilities, list }
    await this.records.write(record)
    try {
      await pinNetns(netns, this.settings.timeoutMs, claim)
      const result = await addChain(this.execution(record, netns, claim), async result => {
        record = { ...record, result }
        await this.records.write(record)
      })
      record = { ...record, result }
      const finished: FinishedRecord = { ...record, stage: 'attached', result }
      await this.records.write(finished)
      return finished
    } catch (error) {
      await this.undo(record, claim).catch(left => {
        const message = `${display(key)} is left half attached to ${list.name}: ${left}. Detach tries again.`
        this.log.error({ ...key, network: list.name, err: left }, message)
      })
      throw error
    }
  }

  /** The record goes last, so a crash before that, or a failure, leaves it for the next try. */
  private async undo(record: AttachmentRecord, claim: Claim): Promise<void> {
    await this.records.write({ ...record, stage: 'detaching' }).catch(error => {
      // A full disk must not keep anything from being detached; the old record serves the next try as well.
      this.log.warn({ path: this.records.path(record), err: error }, `${display(record)} is detached without a note`)
    })
    const netns = (await isPinned(record.netns)) ? record.netns : ''
    await deleteChain(this.execution(record, netns, claim), record.result)
    await unpinNetns(record.netns)
    await this.records.remove(record)
  }

  /** Everything that can be refused before anything is done. */
  private async prepare(list: NetworkList, ports: PortMapping[]): Promise<void> {
    if (ports.length > 0 && !list.plugins.some(plugin => hasCapability(plugin, 'portMappings')))
      throw failedPrecondition(`network ${list.name} can't publish ports: none of its plugins has that capability`)
    await requirePlugins({ list, binDirs: this.settings.binDirs })
  }

  /**
   * What an attachment without a record looked like, for plugins that keep something beyond a reboot (host-local's
   * addresses) while our records, should they lie below /run, are lost.
   */
  private async guess(key: AttachmentKey, network: string): Promise<AttachmentRecord | undefined> {
    const known = (await this.networks.names()).includes(network)
    const netns = this.netnsPath(key)
    if (!known) {
      await unpinNetns(netns)
      return undefined
    }
    const list = await this.networks.get(network)
    return { stage: 'detaching', ...key, netns, interface: interfaceName, capabilities: {}, list }
  }

  private async readOrGuess(key: AttachmentKey, network: string): Promise<AttachmentRecord | undefined> {
    try {
      return await this.records.read(key)
    } catch (error) {
      this.tellDamaged(key, error)
      const guessed = await this.guess(key, network)
      if (guessed === undefined) await this.records.remove(key)
      return guessed
    }
  }

  private tellDamaged(key: AttachmentKey, error: unknown): undefined {
    const path = this.records.path(key)
    const message = `the record ${path} can't be read: ${error}. Detach with the network's name releases what it held.`
    this.log.error({ ...key, path, err: error }, message)
  }

  private exclusively<T>(key: AttachmentKey, task: (claim: Claim) => Promise<T>): Promise<T> {
    const name = formatKey(key)
    const claimed = async () => {
      const mine = await claim(join(this.claims, name), this.settings.timeoutMs)
      try {
        return await task(mine)
      } finally {
        mine.release()
      }
    }
    return this.lanes.run(name, () => this.gate.run(claimed))
  }

  private execution(record: AttachmentRecord, netns: string, claim: Claim): Execution {
    const { binDirs, timeoutMs } = this.settings
    const target = {
      containerId: formatKey(record),
      netns,
      interface: record.interface,
      capabilities: record.capabilities,
    }
    return { list: record.list, target, binDirs, timeoutMs, claim }
  }

  private netnsPath(key: AttachmentKey): string {
    return join(this.settings.state, 'netns', formatKey(key))
  }
}

function isFinished(record: AttachmentRecord): record is FinishedRecord {
  return record.stage === 'attached' && record.result !== undefined
}

function reuse(record: FinishedRecord, network: string): FinishedRecord {
  if (record.list.name === network) return record
  throw failedPrecondition(`${display(record)} is attached to network ${record.list.name}: detach it first`)
}

function isNamed(record: AttachmentRecord, network: string): boolean {
  return network === '' || record.list.name === network
}

function display({ namespace, id }: AttachmentKey): string {
  return `container ${namespace}/${id}`
}
