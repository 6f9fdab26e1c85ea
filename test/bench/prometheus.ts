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

/** What was added between two pages, with the series gathered by a name that their labels give; '' drops one. */
export function added(
  before: string,
  after: string,
  histogram: string,
  nameOf: (labels: Record<string, string>) => string,
): Map<string, Timing> {
  const total = new Map<string, Timing>()
  const gather = (page: string, sign: 1 | -1) => {
    for (const { labels, count, seconds } of timings(page, histogram)) {
      const name = nameOf(labels)
      const { count: counted, seconds: measured } = total.get(name) ?? { count: 0, seconds: 0 }
      if (name !== '') total.set(name, { count: counted + sign * count, seconds: measured + sign * seconds })
    }
  }
  gather(after, 1)
  gather(before, -1)
  return new Map([...total].filter(([, { count }]) => count > 0))
}

/** A counter or gauge without labels; NaN when it is absent. */
export function value(page: string, name: string): number {
  return Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(page)?.[1])
}

function labelsOf(text: string): Record<string, string> {
  return Object.fromEntries(
    [...text.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name = '', of = '']) => [name, of]),
  )
}
