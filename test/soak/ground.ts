// What a soak stands on: one supervisor with a network and NATS, the story so far, and the problems found.

import type { Disk } from '../harness/disk.js'
import type { Host } from '../harness/host.js'
import type { TestNetwork } from '../harness/network.js'
import { type ProcessEntry, processes } from '../harness/process.js'

/** What those know of a container who made it. */
export interface Known {
  id: string
  /** Acknowledged: it runs until one of us ends it. */
  runs: boolean
  /** Its shim was killed: its end is nobody's fault. */
  lostShim: boolean
}

export class Ground {
  readonly problems: string[] = []
  readonly counts: Record<string, number> = {}
  /** By id: containers that are there, or may be. */
  readonly containers = new Map<string, Known>()
  readonly #story: string[] = []
  readonly #begun = performance.now()

  constructor(
    readonly host: Host,
    readonly archive: string,
    readonly network: TestNetwork,
    readonly disk: Disk,
  ) {}

  tell(what: string): void {
    this.#story.push(`${((performance.now() - this.#begun) / 1000).toFixed(2).padStart(8)} ${what}`)
    const [word = ''] = what.split(':')
    this.count(word, 1)
  }

  count(what: string, times: number): void {
    this.counts[what] = (this.counts[what] ?? 0) + times
  }

  /** Printed at once, with what has to do with it and the latest kills. */
  problem(what: string, about: string): void {
    this.problems.push(what)
    const story = this.#story
      .filter(line => (about !== '' && line.includes(about)) || line.includes('kill:'))
      .slice(-25)
    const log = this.host.log.items.filter(({ level = 0 }) => level >= 40).slice(-15)
    console.log([`PROBLEM: ${what}`, ...story, ...log.map(line => JSON.stringify(line).slice(0, 600))].join('\n'))
  }

  /** The supervisors that live: two while one takes over from the other. */
  supervisors(): ProcessEntry[] {
    const isOurs = (words: string[]) => words.some(word => word.includes(this.host.directory))
    return processes().filter(
      ({ command }) => isOurs(command) && command.slice(0, 4).some(word => word.endsWith('/purserd.js')),
    )
  }
}
