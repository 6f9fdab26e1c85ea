// What was the case at a moment: the fold up to there, from the newest snapshot before it and the records that follow.
import type { Logger } from 'pino'
import { Lanes } from '../../../plugins/kit/lanes.js'
import type { Journal, Sequence } from '../journal/journal.js'
import { newestWorld } from '../state/store.js'
import { World } from '../state/world.js'
import { ahead, tooEarly, unreadable } from './errors.js'
import { firstAt } from './since.js'

export type Moment = { sequence: Sequence } | { timeUnixNano: bigint }

export class Past {
  /** A world of former days can be as large as the present one: one is made at a time. */
  private readonly lanes = new Lanes()

  constructor(
    private readonly journal: Journal,
    private readonly log: Logger,
  ) {}

  /** The last sequence that belongs to a moment. Rejects when it is ahead. */
  async sequenceAt(moment: Moment): Promise<Sequence> {
    if ('timeUnixNano' in moment) return (await firstAt(this.journal, moment.timeUnixNano + 1n)) - 1n
    if (moment.sequence > this.journal.last()) throw ahead(moment.sequence, this.journal)
    return moment.sequence
  }

  /** The fold as it was when `sequence` had just been folded in. Rejects when that is no longer known. */
  async at(sequence: Sequence): Promise<World> {
    return this.lanes.run('world', () => this.fold(sequence))
  }

  private async fold(sequence: Sequence): Promise<World> {
    const world = await this.before(sequence)
    if (world.sequence === sequence) return world
    try {
      for await (const record of this.journal.read(world.sequence + 1n)) {
        world.apply(record)
        if (record.sequence === sequence) return world
      }
    } catch (error) {
      throw unreadable(this.journal, world.sequence + 1n, error)
    }
    throw ahead(sequence, this.journal)
  }

  /** The newest world that was written out at or before `sequence`, or the empty one. */
  private async before(sequence: Sequence): Promise<World> {
    const world = await newestWorld(this.journal, this.log, sequence)
    if (world) return world
    if (this.journal.first() > 1n) throw tooEarly(sequence, (await this.journal.snapshots()).at(-1))
    return new World()
  }
}
