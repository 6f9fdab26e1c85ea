// Chance from a seed: the same seed and name give the same numbers, whatever else is drawn beside them.

export class Chance {
  private state: number

  /** Each use has a generator of its own, so that leaving one thing out does not change all that follows. */
  constructor(seed: number, name: string) {
    let hash = (seed ^ 0x9e3779b9) >>> 0
    for (let index = 0; index < name.length; index++) hash = Math.imul(hash ^ name.charCodeAt(index), 0x01000193) >>> 0
    this.state = mix(hash)
  }

  /** A number in [0, 1). Source: mulberry32. */
  next(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0
    return mix(this.state) / 0x1_0000_0000
  }

  below(bound: number): number {
    return Math.floor(this.next() * bound)
  }

  happens(probability: number): boolean {
    return this.next() < probability
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)]
    if (item === undefined) throw new RangeError('nothing to pick from')
    return item
  }

  /** Microseconds: mostly near `usual`, sometimes far longer. */
  delay(usual: number): number {
    const spread = this.next()
    const long = this.happens(0.02) ? 20 : 1
    return Math.ceil(usual * (0.2 + 1.6 * spread) * long)
  }
}

function mix(value: number): number {
  let x = value
  x = Math.imul(x ^ (x >>> 15), x | 1)
  x ^= x + Math.imul(x ^ (x >>> 7), x | 61)
  return (x ^ (x >>> 14)) >>> 0
}
