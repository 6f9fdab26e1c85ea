// Where the time goes, as the servers count it themselves: from the difference between two of their metrics pages.
import type { Host } from '../harness/host.js'
import type { Name } from './contest.js'
import { added, type Timing, value } from './prometheus.js'
import type { Cell, Table } from './report.js'
import { sum } from './statistics.js'

export type Pages = Record<Name, string>

/** Rows of a table; the rest is added up in one. */
const rowsMax = 16
/** They wait for something else on purpose. */
const waiting = /\/(Wait|Subscribe|Watch)$/

export async function readPages(hosts: Record<Name, Host>): Promise<Pages> {
  return { purser: await hosts.purser.metrics(), containerd: await hosts.containerd.metrics() }
}

/** `unit` is what `runs` counts: a run, an import. */
export function whereTimeGoes(before: Pages, after: Pages, runs: number, unit: string): Table[] {
  const ofPurser = (histogram: string, nameOf: (labels: Record<string, string>) => string) =>
    added(before.purser, after.purser, `purser_${histogram}_duration_seconds`, nameOf)
  const phases = ofPurser('task_phase', ({ phase = '' }) => phase)
  const plugins = ofPurser('plugin_call', ({ kind, id, method }) => `${kind} ${id}: ${method}`)
  return [
    callTable(before, after, runs, unit),
    ...(phases.size > 0 ? [timingTable(`Purser's own phases of a task, for one ${unit}`, phases, runs)] : []),
    timingTable(`Purser's calls to plugins, for one ${unit}`, plugins, runs),
    journalTable(before, after, runs, unit),
  ]
}

function callTable(before: Pages, after: Pages, runs: number, unit: string): Table {
  const ours = added(before.purser, after.purser, 'purser_grpc_request_duration_seconds', ({ service, method }) =>
    callName(service, method),
  )
  const theirs = added(before.containerd, after.containerd, 'grpc_server_handling_seconds', labels =>
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

function journalTable(before: Pages, after: Pages, runs: number, unit: string): Table {
  const flushes = added(before.purser, after.purser, 'purser_journal_flush_duration_seconds', () => 'flush')
  const { count, seconds: all } = total(flushes, ['flush'])
  const grown = (counter: string) => (value(after.purser, counter) - value(before.purser, counter)) / runs
  return {
    title: `Purser's journal, for one ${unit}`,
    head: ['events', 'bytes', 'flushes', 'ms for a flush', 'ms for all'],
    rows: [
      [
        grown('purser_journal_appends_total').toFixed(1),
        grown('purser_journal_appended_bytes_total'),
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
