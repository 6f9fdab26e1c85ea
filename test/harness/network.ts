// A CNI network for one test: a bridge and a subnet that nobody else on the machine uses, no firewall rules.
import { execFileSync } from 'node:child_process'
import { randomBytes, randomInt } from 'node:crypto'
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ownDirectory } from './directory.js'
import { endWith, type Scope } from './wait.js'

export interface TestNetwork {
  name: string
  /** Everything of it that is a file. */
  directory: string
  /** For Purser's configuration: `[network] conf_dirs`. */
  confDirectory: string
  /** Where the plugin host-local keeps a file for each address that is taken. */
  addressDirectory: string
  /** The interface on the host; it appears with the first container and stays until it is removed. */
  bridge: string
  /** "10.203.77.0/24" */
  subnet: string
  removeBridge(): void
}

export function bridge(scope: Scope, name: string): TestNetwork {
  const directory = ownDirectory('purser-cni-')
  const interfaceName = `purser${randomBytes(3).toString('hex')}`
  const subnet = `10.${randomInt(200, 250)}.${randomInt(1, 255)}.0/24`
  const addresses = join(directory, 'addresses')
  const confDirectory = join(directory, 'net.d')
  mkdirSync(confDirectory)
  const list = {
    cniVersion: '1.0.0',
    name,
    plugins: [
      {
        type: 'bridge',
        bridge: interfaceName,
        isGateway: true,
        ipam: { type: 'host-local', dataDir: addresses, ranges: [[{ subnet }]], routes: [{ dst: '0.0.0.0/0' }] },
      },
    ],
  }
  writeFileSync(join(confDirectory, `10-${name}.conflist`), JSON.stringify(list, null, 2))
  const removeBridge = () => {
    if (existsSync(`/sys/class/net/${interfaceName}`)) execFileSync('ip', ['link', 'delete', interfaceName])
  }
  endWith(scope, () => {
    removeBridge()
    rmSync(directory, { recursive: true, force: true })
  })
  return {
    name,
    directory,
    confDirectory,
    addressDirectory: join(addresses, name),
    bridge: interfaceName,
    subnet,
    removeBridge,
  }
}
