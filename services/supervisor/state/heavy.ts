// The heavy parts of records (specs, extensions): read from the journal where they lie, with the latest kept at hand.
import type { Any } from '../../../proto/gen/google/protobuf/any.js'
import type { HeavyAny } from '../domain/values.js'
import type { Journal } from '../journal/journal.js'

const bytesMaxDefault = 8 << 20

/**
 * A bounded cache before `journal.attachment`. What lies in the journal never changes, so nothing here is ever stale.
 * docker asks for the same container some eight times while it starts one.
 */
export class HeavyParts {
  /** By place; a Map keeps the order of insertion, so the first is the one that was not used for longest. */
  private readonly kept = new Map<string, Buffer>()
  private readonly underWay = new Map<string, Promise<Buffer>>()
  private bytes = 0
  /** Where parts lie now that were moved lately: who took a place from the fold a moment before still finds them. */
  private moved = new Map<string, HeavyAny>()

  constructor(
    private readonly journal: Pick<Journal, 'attachment'>,
    private readonly bytesMax = bytesMaxDefault,
  ) {}

  async read(part: HeavyAny): Promise<Any> {
    return { typeUrl: part.typeUrl, value: await this.value(part) }
  }

  /** What was just written need not be read again. */
  keep(part: HeavyAny, value: Buffer): void {
    // One huge spec must not push out all others.
    if (part.sequence === '' || value.length > this.bytesMax / 8) return
    const place = placeOf(part)
    this.drop(place)
    this.kept.set(place, value)
    this.bytes += value.length
    for (const oldest of this.kept.keys()) {
      if (this.bytes <= this.bytesMax) return
      this.drop(oldest)
    }
  }

  /** Replaces what was said before. */
  follow(moves: readonly { from: HeavyAny; to: HeavyAny }[]): void {
    this.moved = new Map(moves.map(({ from, to }) => [placeOf(from), to]))
  }

  private async value(asked: HeavyAny): Promise<Buffer> {
    const part = this.moved.get(placeOf(asked)) ?? asked
    const place = placeOf(part)
    const kept = this.kept.get(place)
    if (kept) {
      this.kept.delete(place)
      this.kept.set(place, kept)
      return kept
    }
    const reading = this.underWay.get(place) ?? this.fetch(part, place)
    return reading
  }

  private fetch(part: HeavyAny, place: string): Promise<Buffer> {
    const reading = this.journal
      .attachment(BigInt(part.sequence), part.index)
      .then(bytes => {
        const value = Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
        this.keep(part, value)
        return value
      })
      .finally(() => this.underWay.delete(place))
    this.underWay.set(place, reading)
    return reading
  }

  private drop(place: string): void {
    const value = this.kept.get(place)
    if (!value) return
    this.kept.delete(place)
    this.bytes -= value.length
  }
}

/** Where a part lies, as text. */
export const placeOf = ({ sequence, index }: HeavyAny) => `${sequence}/${index}`
