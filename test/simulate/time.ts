// Virtual time: everything that happens is an entry of one queue, taken in order of time. Nothing here waits.

/** Something that can die: what it had still to do never happens then. */
export class Party {
  alive = true
  constructor(readonly name: string) {}
}

export interface Entry {
  at: number
  order: number
  party: Party
  label: string
  run: () => void
  cancelled: boolean
}

/** 2026-01-01T00:00:00Z in milliseconds: where every simulation begins. */
const epoch = 1_767_225_600_000

export class Time {
  /** Microseconds since the simulation began. */
  now = 0
  steps = 0
  /** Who acts now: timers that are set belong to it. */
  party: Party = new Party('nobody')
  /** Of everything that happened, in order. */
  hash = 0x811c9dc5
  onStep: ((entry: Entry) => void) | undefined
  private readonly heap: Entry[] = []
  private order = 0

  milliseconds(): number {
    return epoch + Math.floor(this.now / 1000)
  }

  /** Has `run` happen `delay` microseconds from now, if `party` is alive then. */
  after(delay: number, party: Party, label: string, run: () => void): Entry {
    const entry = {
      at: this.now + Math.max(1, Math.ceil(delay)),
      order: this.order++,
      party,
      label,
      run,
      cancelled: false,
    }
    this.push(entry)
    return entry
  }

  /** Resolves `delay` microseconds from now, for the party that acts now. */
  pass(delay: number, label: string): Promise<void> {
    return new Promise(resolve => this.after(delay, this.party, label, resolve))
  }

  /** Takes entries until `done` says so, or until nothing is left or `until` has come. Answers why it ended. */
  async run(until: number, done: () => boolean): Promise<'done' | 'empty' | 'late'> {
    while (!done()) {
      const entry = this.pop()
      if (!entry) return 'empty'
      if (entry.cancelled || !entry.party.alive) continue
      if (entry.at > until) {
        this.push(entry)
        this.now = until
        return 'late'
      }
      this.now = entry.at
      this.party = entry.party
      this.steps += 1
      this.note(entry)
      entry.run()
      // All that follows from it without time passing happens before the next entry.
      await new Promise<void>(resolve => globalThis.setImmediate(resolve))
    }
    return 'done'
  }

  private note(entry: Entry): void {
    let hash = Math.imul(this.hash ^ entry.at, 0x01000193)
    const { label } = entry
    for (let index = 0; index < label.length; index++) hash = Math.imul(hash ^ label.charCodeAt(index), 0x01000193)
    this.hash = hash >>> 0
    this.onStep?.(entry)
  }

  private push(entry: Entry): void {
    const { heap } = this
    let index = heap.length
    heap.push(entry)
    while (index > 0) {
      const parent = (index - 1) >> 1
      const above = heap[parent]
      if (!above || before(above, entry)) break
      heap[index] = above
      index = parent
    }
    heap[index] = entry
  }

  private pop(): Entry | undefined {
    const { heap } = this
    const first = heap[0]
    const last = heap.pop()
    if (!first || !last || heap.length === 0) return first
    let index = 0
    for (;;) {
      const left = 2 * index + 1
      const a = heap[left]
      const b = heap[left + 1]
      const child = b && a && before(b, a) ? left + 1 : left
      const below = heap[child]
      if (!below || before(last, below)) break
      heap[index] = below
      index = child
    }
    heap[index] = last
    return first
  }
}

const before = (a: Entry, b: Entry) => a.at < b.at || (a.at === b.at && a.order < b.order)
