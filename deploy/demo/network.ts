// The demo's network: a bridge of its own, and the CNI configuration that lets containers join it.
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { cleanEnvironment } from '../../test/harness/ctr.js'
import { endWith, type Scope } from '../../test/harness/wait.js'

export interface DemoNetwork {
  name: string
  bridge: string
  /** "10.200.0.0/24" */
  subnet: string
  /** Holds the configuration file. */
  confDirectory: string
  /** A line for each trace of it on the machine. */
  leftovers(): string[]
}

/**
 * The bridge and its address are made here rather than by the CNI plugin, which would turn on IP forwarding for the
 * whole machine (its "isGateway"): the host has to reach the containers, but nothing has to be routed.
 */
export function openNetwork(scope: Scope, directory: string): DemoNetwork {
  const name = 'demo'
  const bridge = `purser${randomBytes(3).toString('hex')}`
  const prefix = freePrefix()
  const subnet = `${prefix}.0/24`
  const confDirectory = join(directory, 'net.d')
  mkdirSync(confDirectory)
  const ipam = { type: 'host-local', subnet, rangeStart: `${prefix}.2`, dataDir: join(directory, 'addresses') }
  const list = { cniVersion: '1.0.0', name, plugins: [{ type: 'bridge', bridge, ipam }] }
  writeFileSync(join(confDirectory, 'demo.conflist'), JSON.stringify(list, undefined, 2))

  const isThere = () => existsSync(`/sys/class/net/${bridge}`)
  endWith(scope, () => {
    if (isThere()) ip('link', 'delete', bridge)
  })
  ip('link', 'add', bridge, 'type', 'bridge')
  ip('address', 'add', `${prefix}.1/24`, 'dev', bridge)
  ip('link', 'set', bridge, 'up')
  return { name, bridge, subnet, confDirectory, leftovers: () => (isThere() ? [`network bridge ${bridge}`] : []) }
}

/** The first three numbers of a network that no route of this machine leads to. */
function freePrefix(): string {
  const routes = ip('-4', 'route', 'show', 'table', 'all')
  for (let second = 200; second < 250; second++) {
    const prefix = `10.${second}.0`
    if (!routes.includes(`${prefix}.`)) return prefix
  }
  throw new Error('every network from 10.200.0.0/24 to 10.249.0.0/24 is in use here')
}

function ip(...words: string[]): string {
  return execFileSync('ip', words, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: 10_000,
    env: cleanEnvironment,
  })
}
