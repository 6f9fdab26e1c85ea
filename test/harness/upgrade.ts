// `purser upgrade` on a host, and who is there afterwards.
import { type Running, run } from './ctr.js'
import type { Host } from './host.js'
import { processes } from './process.js'
import { builtProgram } from './supervisor.js'

const timeoutMs = 90_000

export function startUpgrade(host: Host, ...flags: string[]): Running {
  return run(builtProgram('purser.js'), ['--address', host.address, 'upgrade', ...flags])
}

/** Answers the new pid; throws what the command says when it fails. */
export async function upgrade(host: Host, ...flags: string[]): Promise<number> {
  const { stdout, stderr, code } = await startUpgrade(host, ...flags).end(timeoutMs)
  const pid = Number(/ serves .*\(pid (\d+),/.exec(stdout)?.[1])
  if (code !== 0 || !pid) throw new Error(`purser upgrade: status ${code}: ${stdout}${stderr}`)
  host.succeededBy(pid)
  return pid
}

/** How many processes of each of the supervisor's own programs there are. */
export function census(host: Host): Record<string, number> {
  const counts = { purserd: 0, 'plugin-host': 0, 'nats-server': 0 }
  for (const { command } of processes()) {
    if (!command.some(word => word.includes(host.directory))) continue
    for (const name of ['purserd', 'plugin-host', 'nats-server'] as const) {
      if (command.slice(0, 4).some(word => word.split('/').at(-1)?.replace(/\.js$/, '') === name)) counts[name]++
    }
  }
  return counts
}
