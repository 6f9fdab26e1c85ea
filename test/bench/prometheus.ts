// Histograms of a metrics page: how often, and how long altogether.

export interface Timing {
  count: number
  seconds: number
}

export interface LabelledTiming extends Timing {
  labels: Record<string, string>
}

/** Every series of one histogram. */
export function timings(page: string, histogram: string): LabelledTiming[] {
  const series = new Map<string, LabelledTiming>()
  const pattern = new RegExp(`^${histogram}_(sum|count)(?:\\{(.*)\\})? (\\S+)$`, 'gm')
  for (const [, kind, text = '', value] of page.matchAll(pattern)) {
    const entry = series.get(text) ?? { labels: labelsOf(text), count: 0, seconds: 0 }
    series.set(text, kind === 'sum' ? { ...entry, seconds: Number(value) } : { ...entry, count: Number(value) })
  }
  return [...series.values()]
}

/** A metrics page before something, and the same page after it. */
export interface Span {
  before: string
  after: string
}

/** What was added in all spans, with the series gathered by a name that their labels give; '' drops one. */
export function added(
  spans: readonly Span[],
  histogram: string,
  nameOf: (labels: Record<string, string>) => string,
): Map<string, Timing> {
  const total = new Map<string, Timing>()
  const gather = (page: string, sign: 1 | -1) => {
    for (const { labels, count, seconds } of timings(page, histogram)) {
      const name = nameOf(labels)
      const sum = total.get(name) ?? { count: 0, seconds: 0 }
      if (name !== '') total.set(name, { count: sum.count + sign * count, seconds: sum.seconds + sign * seconds })
    }
  }
  for (const { before, after } of spans) {
    gather(after, 1)
    gather(before, -1)
  }
  return new Map([...total].filter(([, { count }]) => count > 0))
}

/** What a counter without labels has grown by in all spans; NaN when it is absent. */
export function grown(spans: readonly Span[], counter: string): number {
  const value = (page: string) => Number(new RegExp(`^${counter} (\\S+)$`, 'm').exec(page)?.[1])
  return spans.reduce((total, { before, after }) => total + value(after) - value(before), 0)
}

function labelsOf(text: string): Record<string, string> {
  return Object.fromEntries(
    [...text.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name = '', of = '']) => [name, of]),
  )
}
