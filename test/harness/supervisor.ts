// The supervisor under test: Purser as it was built, or the reference when PURSER_E2E_HOST=containerd.
import { execFileSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { containerd } from './containerd.js'
import { freePort, Host, keepUntilEnd, type Launch, makePlaces } from './host.js'
import type { Scope } from './wait.js'

export interface SupervisorOptions {
  /** TOML of Purser's configuration file. */
  config?: string
  /** "off" unless a test is about NATS: it takes a moment to start. */
  nats?: 'embedded' | 'off' | `nats://${string}`
  node?: string
  namespace?: string
  logLevel?: string
  /** They come last and so override those above: another host's root, for example. */
  flags?: string[]
  env?: Record<string, string>
  /** Default true; false for tests of a refused start. */
  start?: boolean
  /** In a network namespace of its own, pinned at `ownNetworkOf(host)`: of the machine's network it sees nothing. */
  ownNetwork?: boolean
}

/** Which supervisor the end-to-end tests meet. */
export const hostKind = process.env.PURSER_E2E_HOST === 'containerd' ? 'containerd' : 'purserd'

/** For tap's `skip`: what containerd has no counterpart of. */
export const purserOnly = hostKind === 'containerd' ? 'containerd has no such thing' : false

export async function supervisor(scope: Scope, options: SupervisorOptions = {}): Promise<Host> {
  return hostKind === 'containerd' ? containerd(scope, { restarts: true }) : purser(scope, options)
}

export async function purser(scope: Scope, options: SupervisorOptions = {}): Promise<Host> {
  const program = builtProgram('purserd.js')
  const places = makePlaces()
  const metrics = `127.0.0.1:${await freePort()}`
  const args = [
    ...['--root', places.root, '--state', places.state, '--address', places.address],
    ...['--metrics', metrics, '--nats', options.nats ?? 'off'],
    ...['--node', options.node ?? 'test', '--log-level', options.logLevel ?? 'info'],
  ]
  if (options.config !== undefined) {
    const path = join(places.directory, 'purser.toml')
    writeFileSync(path, options.config)
    args.push('--config', path)
  }
  const launch: Launch = {
    kind: 'purserd',
    // As it is installed: its first line chooses node's flags.
    ...(options.ownNetwork === true
      ? { command: 'nsenter', args: [`--net=${makeNetwork(places)}`, program, ...args, ...(options.flags ?? [])] }
      : { command: program, args: [...args, ...(options.flags ?? [])] }),
    env: options.env ?? {},
    servingLine: /^serving/,
    metricsUrl: `http://${metrics}/metrics`,
  }
  const host = new Host(places.directory, places.root, places.state, places.address, launch, options.namespace)
  keepUntilEnd(scope, host)
  if (options.start !== false) await host.start()
  return host
}

export const ownNetworkOf = ({ directory }: Pick<Host, 'directory'>) => join(directory, 'net')

function makeNetwork(places: Pick<Host, 'directory'>): string {
  const path = ownNetworkOf(places)
  writeFileSync(path, '')
  execFileSync('unshare', [`--net=${path}`, 'ip', 'link', 'set', 'lo', 'up'])
  return path
}

/** A program of dist/, found from wherever this code runs: from its source or bundled. */
export function builtProgram(name: string): string {
  for (let directory = dirname(fileURLToPath(import.meta.url)); directory !== '/'; directory = dirname(directory)) {
    const path = join(directory, 'dist', name)
    if (existsSync(path)) return path
  }
  throw new Error(`dist/${name} is missing: run "npm run bundle" first`)
}
