// Labelled series of one metric, bounded in number: a label that comes from outside cannot fill the memory.

/** What of a metric of prom-client is used here. */
interface Labelled<Child> {
  labels(...values: string[]): Child
}

/** Beyond this many, further label values are counted together as `other`. */
const seriesMax = 1000

export class Series<Child> {
  readonly #children = new Map<string, Child>()

  constructor(
    readonly metric: Labelled<Child>,
    readonly labelCount: number,
  ) {}

  /** The series of these label values, in the order in which the metric names its labels. */
  get(...values: string[]): Child {
    const key = values.join('\0')
    const known = this.#children.get(key)
    if (known) return known
    if (this.#children.size >= seriesMax) return this.metric.labels(...Array<string>(this.labelCount).fill('other'))
    const child = this.metric.labels(...values)
    this.#children.set(key, child)
    return child
  }
}
