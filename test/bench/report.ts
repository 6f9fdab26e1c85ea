// What the bench prints: a heading, a sentence, a table.
import type { Name } from './contest.js'
import { names } from './contest.js'
import { type Summary, summarise } from './statistics.js'

export type Cell = string | number

export interface Table {
  title: string
  head: readonly string[]
  rows: readonly (readonly Cell[])[]
  note?: string
}

/** What a measurement found: to be read, and to be kept. */
export interface Outcome {
  tables: Table[]
  data: unknown
}

export function show({ title, head, rows, note }: Table): void {
  const lines = [head, ...rows].map(row => row.map(text))
  const widths = head.map((_, column) => Math.max(...lines.map(line => line[column]?.length ?? 0)))
  const render = (line: string[]) =>
    line
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join('  ')
  console.log(
    ['', title, ...lines.map(line => `  ${render(line)}`), ...(note === undefined ? [] : [`  ${note}`])].join('\n'),
  )
}

/** A row for each, and how they compare by the median. */
export function comparison(title: string, samples: Record<Name, number[]>, note?: string): Table {
  const summaries = summaryOf(samples)
  const rows = names.map((name): Cell[] => {
    const { median, p90, min, max, count } = summaries[name]
    return [name, median, p90, min, max, String(count)]
  })
  const ratio = summaries.purser.median / summaries.containerd.median
  return {
    title,
    head: ['', 'median', 'p90', 'min', 'max', 'turns'],
    rows: [...rows, ['purser / containerd', ratio.toFixed(2)]],
    ...(note !== undefined && { note }),
  }
}

export function summaryOf(samples: Record<Name, number[]>): Record<Name, Summary> {
  return { purser: summarise(samples.purser), containerd: summarise(samples.containerd) }
}

function text(cell: Cell): string {
  if (typeof cell === 'string') return cell
  if (Number.isNaN(cell)) return '-'
  return cell.toFixed(Math.abs(cell) >= 100 ? 0 : Math.abs(cell) >= 10 ? 1 : 2)
}
