// Everything that the demo puts on the machine, with its removal and the proof that it is gone.
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Host } from '../../test/harness/host.js'
import { mountsBelow } from '../../test/harness/machine.js'
import { removeNewCgroups } from '../../test/harness/namespaceCgroups.js'
import { processesOf } from '../../test/harness/process.js'
import { purser } from '../../test/harness/supervisor.js'
import { endWith, type Scope } from '../../test/harness/wait.js'
import { type DemoNetwork, openNetwork } from './network.js'

export interface Stage {
  /** Holds every file of the demo. */
  directory: string
  /** Not started yet. */
  host: Host
  network: DemoNetwork
  /** What is on the machine because of the demo, a line each. */
  leftovers(): string[]
}

export async function openStage(scope: Scope): Promise<Stage> {
  const namespace = 'demo'
  removeNewCgroups(scope, namespace)
  const directory = mkdtempSync(join(tmpdir(), 'purser-demo-'))
  endWith(scope, () => rmSync(directory, { recursive: true, force: true }))
  // From here on temporary directories, of the supervisor and of the registry, are made inside of this one.
  process.env.TMPDIR = directory
  const network = openNetwork(scope, directory)
  const config = `[network]\nconf_dirs = [${JSON.stringify(network.confDirectory)}]\n`
  const host = await purser(scope, { nats: 'embedded', node: 'demo', namespace, config, start: false })
  const leftovers = () => [
    ...processesOf(directory).map(({ pid, command }) => `process ${pid}: ${command.join(' ')}`),
    ...mountsBelow(directory).map(path => `mount ${path}`),
    // Processes and mounts are among these too: once is enough.
    ...host.leftovers().filter(line => !line.includes(directory)),
    ...network.leftovers(),
    ...(existsSync(directory) ? [`directory ${directory}`] : []),
  ]
  return { directory, host, network, leftovers }
}
