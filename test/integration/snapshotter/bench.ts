// One snapshotter plugin opened and called over its socket, as the supervisor does, and its mounts made for real.
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { pino } from 'pino'
import { EmissionQueue } from '../../../plugins/kit/emissions.js'
import { UmountFlag, umount } from '../../../plugins/kit/linux.js'
import type { PluginDefinition } from '../../../plugins/kit/plugin.js'
import { Serving } from '../../../plugins/kit/serving.js'
import { type Info, SnapshotsService } from '../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import type { Mount } from '../../../proto/gen/containerd/types/mount.js'
import { pluginClient } from '../../../services/supervisor/plugins/clients.js'
import { LivePlugin } from '../../../services/supervisor/plugins/live.js'
import type { Scope } from '../../harness/wait.js'

export const log = pino({ level: process.env.PURSER_TEST_LOG ?? 'silent' })

type Labels = Record<string, string>

/** Short forms of the calls; each goes over gRPC. */
export class Bench {
  #serving: Serving | undefined
  #plugin: LivePlugin | undefined
  #places = 0

  private constructor(
    readonly definition: PluginDefinition,
    /** Holds the plugin's root and the places of mounts. */
    readonly home: string,
  ) {}

  static async open(scope: Scope, definition: PluginDefinition): Promise<Bench> {
    const bench = new Bench(definition, mkdtempSync('/tmp/snapshots-'))
    scope.teardown(async () => {
      await bench.close()
      rmSync(bench.home, { recursive: true, force: true })
    })
    await bench.open()
    return bench
  }

  get root(): string {
    return `${this.home}/root`
  }

  async open(): Promise<void> {
    const endpoint = `unix://${this.home}/plugin.sock`
    this.#serving = await Serving.open(
      this.definition,
      { root: this.root },
      { endpoint, log, emissions: new EmissionQueue(), tellUnresponsive() {}, leaving: new AbortController().signal },
    )
    const { kind, id, version, capabilities } = this.definition
    this.#plugin = new LivePlugin({ kind, id, version, capabilities, endpoint, peer: 'test' }, 1n, () => {})
  }

  async close(): Promise<void> {
    this.#plugin?.close()
    await this.#serving?.close(1000)
    this.#serving = undefined
  }

  get calls() {
    const plugin = this.#plugin
    if (!plugin) throw new Error('the plugin is closed')
    return pluginClient(async () => plugin, SnapshotsService)
  }

  async prepare(key: string, parent = '', labels: Labels = {}): Promise<Mount[]> {
    return (await this.calls.prepare({ snapshotter: '', key, parent, labels })).mounts
  }

  async view(key: string, parent = '', labels: Labels = {}): Promise<Mount[]> {
    return (await this.calls.view({ snapshotter: '', key, parent, labels })).mounts
  }

  async commit(name: string, key: string, { labels = {}, parent = '' } = {}): Promise<void> {
    await this.calls.commit({ snapshotter: '', name, key, labels, parent })
  }

  async remove(key: string): Promise<void> {
    await this.calls.remove({ snapshotter: '', key })
  }

  async mounts(key: string): Promise<Mount[]> {
    return (await this.calls.mounts({ snapshotter: '', key })).mounts
  }

  async stat(key: string): Promise<Info | undefined> {
    return (await this.calls.stat({ snapshotter: '', key })).info
  }

  async usage(key: string) {
    return this.calls.usage({ snapshotter: '', key })
  }

  async update(name: string, labels: Labels, updateMask?: string[]): Promise<Labels> {
    const info = { name, parent: '', kind: 0, createdAt: undefined, updatedAt: undefined, labels }
    return (await this.calls.update({ snapshotter: '', info, updateMask })).info?.labels ?? {}
  }

  async names(...filters: string[]): Promise<string[]> {
    const names: string[] = []
    for await (const { info } of this.calls.list({ snapshotter: '', filters }))
      names.push(...info.map(({ name }) => name))
    return names.sort()
  }

  async cleanup(): Promise<void> {
    await this.calls.cleanup({ snapshotter: '' })
  }

  /** A layer with what `fill` writes into it. */
  async layer(name: string, parent: string, fill: (directory: string) => void): Promise<void> {
    const key = `making ${name}`
    await this.mounted(await this.prepare(key, parent), fill)
    await this.commit(name, key)
  }

  /** Mounts as a client would, with mount(8), for the time of `work`. */
  async mounted<T>(mounts: Mount[], work: (directory: string) => T | Promise<T>): Promise<T> {
    const place = `${this.home}/mount-${this.#places++}`
    mkdirSync(place)
    let mounted = 0
    try {
      for (const mount of mounts) {
        mountOne(mount, place)
        mounted++
      }
      return await work(place)
    } finally {
      for (; mounted > 0; mounted--) umount(place, UmountFlag.detach)
      rmSync(place, { recursive: true })
    }
  }
}

function mountOne({ type, source, options }: Mount, place: string): void {
  if (type !== 'bind') {
    execFileSync('mount', ['-t', type, '-o', options.join(','), source, place])
    return
  }
  execFileSync('mount', ['--rbind', source, place])
  if (options.includes('ro')) execFileSync('mount', ['-o', 'remount,bind,ro', place])
}
