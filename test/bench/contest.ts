// Purser and Debian's containerd side by side: on the same machine, with the same image, taking turns.
import { containerd } from '../harness/containerd.js'
import type { Host } from '../harness/host.js'
import { busyboxImage } from '../harness/image.js'
import { removeNewCgroups } from '../harness/namespaceCgroups.js'
import { purser } from '../harness/supervisor.js'
import type { Scope } from '../harness/wait.js'

export type Name = 'purser' | 'containerd'
export const names: readonly Name[] = ['purser', 'containerd']

export interface Contest {
  hosts: Record<Name, Host>
  /** The name of a small image that both have. */
  image: string
  /** Measured turns, and turns before them that don't count. */
  runs: number
  warmUps: number
}

export interface Counts {
  runs: number
  warmUps: number
}

export async function openContest(scope: Scope, counts: Counts, nats: 'embedded' | 'off'): Promise<Contest> {
  removeNewCgroups(scope, 'default')
  const hosts = { purser: await purser(scope, { nats }), containerd: await containerd(scope, { callTimes: true }) }
  const small = await busyboxImage()
  for (const name of names) await hosts[name].load(small)
  return { hosts, image: small.name, ...counts }
}

/**
 * Lets both take turns, and answers what each turn of each took. Who begins alternates, so that neither always follows
 * the other; `afterWarmUp` is called once, when what comes next counts.
 */
export async function takeTurns<T>(
  { hosts, runs, warmUps }: Pick<Contest, 'hosts' | 'runs' | 'warmUps'>,
  turn: (host: Host, name: Name) => Promise<T>,
  afterWarmUp: () => Promise<void> = async () => {},
): Promise<Record<Name, T[]>> {
  const taken: Record<Name, T[]> = { purser: [], containerd: [] }
  for (let round = -warmUps; round < runs; round++) {
    if (round === 0) await afterWarmUp()
    const order = round % 2 === 0 ? names : names.toReversed()
    for (const name of order) {
      const result = await turn(hosts[name], name)
      if (round >= 0) taken[name].push(result)
    }
  }
  return taken
}

/** Runs ctr, and answers the milliseconds that it took; throws when it fails. */
export async function timedCtr(host: Host, ...words: string[]): Promise<number> {
  const begun = performance.now()
  const { code, stderr } = await host.ctr(...words)
  const took = performance.now() - begun
  if (code !== 0) throw new Error(`${host.kind}: ctr ${words.join(' ')} ended with status ${code}: ${stderr.trim()}`)
  return took
}

export function runTrue(host: Host, image: string): Promise<number> {
  return timedCtr(host, 'run', '--rm', image, host.id('bench'), 'true')
}

/** Starts containers that stay, and answers their ids. */
export async function startContainers(host: Host, image: string, count: number): Promise<string[]> {
  const ids = Array.from({ length: count }, () => host.id('resident'))
  for (const id of ids) await timedCtr(host, 'run', '--detach', image, id, 'sleep', '3600')
  return ids
}

export async function removeContainers(host: Host, ids: string[]): Promise<void> {
  for (const id of ids) {
    // ctr complains, and fails, when what it removes was running: SIGKILL is no clean end.
    await host.ctr('tasks', 'rm', '--force', id)
    await timedCtr(host, 'containers', 'rm', id)
  }
}
