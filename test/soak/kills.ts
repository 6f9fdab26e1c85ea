// What goes wrong, at random: the supervisor, its plugin host, its nats-server and shims are killed; another version of
// the supervisor takes over, wholly or until one of the two is killed; the disk is full.
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import type { LogLine } from '../harness/host.js'
import { alive, processes, signal } from '../harness/process.js'
import { pause, until } from '../harness/wait.js'
import type { Chance } from './chance.js'
import type { Ground } from './ground.js'

const startMs = 120_000

type Kill = (ground: Ground, chance: Chance) => Promise<void>

const kills: Record<string, Kill> = {
  async supervisor(ground, chance) {
    await ground.host.kill()
    await pause(chance.between(0, 1500))
    await ground.host.start(startMs)
  },
  'plugin host': async ground => killChild(ground, 'plugin-host'),
  'nats-server': async ground => killChild(ground, 'nats-server'),
  async shim(ground, chance) {
    const shims = processes().filter(
      ({ command }) => command.includes(ground.host.address) && command.some(word => word.includes('containerd-shim')),
    )
    if (shims.length === 0) return
    const shim = chance.pick(shims)
    const id = shim.command[shim.command.indexOf('-id') + 1] ?? ''
    const known = ground.containers.get(id)
    if (known) known.lostShim = true
    ground.tell(`kill: the shim of ${id}`)
    signal(shim, 'SIGKILL')
  },
  async upgrade(ground, chance) {
    const { host } = ground
    const from = host.log.items.length
    process.kill(host.pid, 'SIGUSR2')
    if (chance.next() < 0.4) return cutShort(ground, chance)
    const isOutcome = ({ msg }: LogLine) => /^the new version serves|^no upgrade/.test(msg)
    const { msg, successor, reason } = await host.log.first('the upgrade', isOutcome, { timeoutMs: startMs, from })
    if (typeof successor === 'number') await succeed(ground, successor)
    else ground.tell(`refused: ${msg}: ${reason}`)
  },
  async 'full disk'(ground, chance) {
    await ground.disk.fill()
    try {
      await pause(chance.between(200, 4000))
      const others = Object.keys(kills).filter(name => name !== 'full disk')
      if (chance.next() < 0.5) await kill(ground, chance, chance.pick(others))
      await pause(chance.between(0, 2000))
    } finally {
      ground.disk.makeRoom()
    }
  },
}

/** An upgrade in which one of the two dies, at any time. */
async function cutShort(ground: Ground, chance: Chance): Promise<void> {
  const { host } = ground
  await pause(chance.between(0, 1500))
  const victim = chance.pick(ground.supervisors())
  ground.tell(`kill: ${victim.pid === host.pid ? 'the supervisor' : 'its successor'}, pid ${victim.pid}`)
  signal(victim, 'SIGKILL')
  const settled = async () => {
    const left = ground.supervisors()
    return left.length === 0 || (left.length === 1 && (await host.answers()))
  }
  await until('one supervisor to serve, or none', settled, { timeoutMs: startMs })
  await pause(500) // one that dies with the other
  const [left] = ground.supervisors()
  if (left) await succeed(ground, left.pid)
  else await host.start(startMs)
}

/** From when it says so, a supervisor can be asked for an upgrade. */
async function succeed({ host }: Ground, successor: number): Promise<void> {
  const isServing = ({ msg, pid }: LogLine) => msg === 'serving' && pid === successor
  await host.log.first(`pid ${successor} to serve`, isServing, { timeoutMs: startMs })
  host.succeededBy(successor)
}

/** Kills now and then until it is told to stop. The supervisor runs when this ends. */
export async function sabotage(ground: Ground, chance: Chance, stop: AbortSignal): Promise<void> {
  while (!stop.aborted) {
    await pause(chance.between(200, 4000))
    if (stop.aborted) return
    await kill(ground, chance, chance.pick(Object.keys(kills)))
  }
}

async function kill(ground: Ground, chance: Chance, what: string): Promise<void> {
  ground.tell(`kill: ${what}`)
  await kills[what]?.(ground, chance)
}

async function killChild(ground: Ground, program: string): Promise<void> {
  const child = ground.host.daemon(program)
  if (!child) return
  signal(child, 'SIGKILL')
  await until(`${program} to end`, () => alive(child.pid)?.startTime !== child.startTime)
}

/** FIFOs of clients that were cut off. */
export function sweepFifos(ground: Ground): void {
  rmSync(join(ground.host.directory, 'fifo'), { recursive: true, force: true })
}
