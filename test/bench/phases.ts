// Where the time goes, as the servers count it themselves: from the difference between their metrics pages.
import type { Name } from './contest.js'
import { added, grown, type Span, type Timing } from './prometheus.js'
import type { Cell, Table } from './report.js'
import { sum } from './statistics.js'

/** Around what was measured. */
export type Spans = Record<Name, Span[]>

/** Rows of a table; the rest is added up in one. */
const rowsMax = 16
/** They wait for something else on purpose. */
const waiting = /\/(Wait|Subscribe|Watch)$/

/** `unit` is what `runs` counts: a run, an import. */
export function whereTimeGoes(spans: Spans, runs: number, unit: string): Table[] {
  const ofPurser = (histogram: string, nameOf: (labels: Record<string, string>) => string) =>
    added(spans.purser, `purser_${histogram}_duration_seconds`, nameOf)
  const phases = ofPurser('task_phase', ({ phase = '' }) => phase)
  const plugins = ofPurser('plugin_call', ({ kind, id, method }) => `${kind} ${id}: ${method}`)
  return [
    callTable(spans, runs, unit),
    ...(phases.size > 0 ? [timingTable(`Purser's own phases of a task, for one ${unit}`, phases, runs)] : []),
    timingTable(`Purser's calls to plugins, for one ${unit}`, plugins, runs),
    journalTable(spans.purser, runs, unit),
  ]
}

function callTable(spans: Spans, runs: number, unit: string): Table {
  const ours = added(spans.purser, 'purser_grpc_request_duration_seconds', ({ service, method }) =>
    callName(service, method),
  )
  const theirs = added(spans.containerd, 'grpc_server_handling_seconds', labels =>
    callName(labels.grpc_service, labels.grpc_method),
  )
  const methods = [...new Set([...ours.keys(), ...theirs.keys()])].sort(
    (a, b) => seconds(ours.get(b)) - seconds(ours.get(a)),
  )
  const row = (title: string, of: string[]): Cell[] => {
    const [a, b] = [total(ours, of), total(theirs, of)]
    return [title, a.count / runs, mean(a), perRun(a, runs), b.count / runs, mean(b), perRun(b, runs)]
  }
  const rest = methods.slice(rowsMax)
  return {
    title: `gRPC calls as the servers time them, for one ${unit}, in ms`,
    head: ['', 'purser: calls', 'mean', `per ${unit}`, 'containerd: calls', 'mean', `per ${unit}`],
    rows: [
      ...methods.slice(0, rowsMax).map(name => row(name, [name])),
      ...(rest.length > 0 ? [row(`${rest.length} other methods`, rest)] : []),
      row('all', methods),
    ],
    note: 'Without Wait and Subscribe. Calls overlap, and between them ctr itself is at work: the sum is not the latency.',
  }
}

function callName(service = '', method = ''): string {
  const name = `${service.split('.').at(-1)}/${method}`
  return waiting.test(name) ? '' : name
}

function timingTable(title: string, timings: Map<string, Timing>, runs: number): Table {
  const names = [...timings.keys()].sort((a, b) => seconds(timings.get(b)) - seconds(timings.get(a)))
  const rest = names.slice(rowsMax)
  const row = (name: string, of: string[]): Cell[] => {
    const timing = total(timings, of)
    return [name, timing.count / runs, mean(timing), perRun(timing, runs)]
  }
  return {
    title: `${title}, in ms`,
    head: ['', 'times', 'mean', 'all of them'],
    rows: [
      ...names.slice(0, rowsMax).map(name => row(name, [name])),
      ...(rest.length > 0 ? [row(`${rest.length} others`, rest)] : []),
    ],
  }
}

function journalTable(spans: Span[], runs: number, unit: string): Table {
  const flushes = added(spans, 'purser_journal_flush_duration_seconds', () => 'flush')
  const { count, seconds: all } = total(flushes, ['flush'])
  return {
    title: `Purser's journal, for one ${unit}`,
    head: ['events', 'bytes', 'flushes', 'ms for a flush', 'ms for all'],
    rows: [
      [
        (grown(spans, 'purser_journal_appends_total') / runs).toFixed(1),
        grown(spans, 'purser_journal_appended_bytes_total') / runs,
        count / runs,
        (all / count) * 1000,
        (all / runs) * 1000,
      ],
    ],
  }
}

function total(timings: Map<string, Timing>, names: string[]): Timing {
  const found = names.map(name => timings.get(name)).filter(timing => timing !== undefined)
  return { count: sum(found.map(({ count }) => count)), seconds: sum(found.map(timing => timing.seconds)) }
}

const seconds = (timing: Timing | undefined) => timing?.seconds ?? 0
const mean = ({ count, seconds }: Timing) => (count === 0 ? Number.NaN : (seconds / count) * 1000)
const perRun = ({ seconds }: Timing, runs: number) => (seconds / runs) * 1000
