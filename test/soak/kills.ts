// What goes wrong, at random: the supervisor, its plugin host, its nats-server and shims are killed.
import { rmSync } from 'node:fs'
import { join } from 'node:path'
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
}

/** Kills now and then until it is told to stop. The supervisor runs when this ends. */
export async function sabotage(ground: Ground, chance: Chance, stop: AbortSignal): Promise<void> {
  while (!stop.aborted) {
    await pause(chance.between(200, 4000))
    if (stop.aborted) return
    const what = chance.pick(Object.keys(kills))
    ground.tell(`kill: ${what}`)
    await kills[what]?.(ground, chance)
  }
}

async function killChild(ground: Ground, program: string): Promise<void> {
  const child = ground.child(program)
  if (!child) return
  signal(child, 'SIGKILL')
  await until(`${program} to end`, () => alive(child.pid)?.startTime !== child.startTime)
}

/** FIFOs of clients that were cut off. */
export function sweepFifos(ground: Ground): void {
  rmSync(join(ground.host.directory, 'fifo'), { recursive: true, force: true })
}
