// `ctr run --rm`, one at a time: how long it takes, what it costs each daemon, and where the time goes.
import { type Contest, type Name, names, runTrue, takeTurns } from './contest.js'
import { type Processor, processorByPart } from './daemons.js'
import { type Spans, whereTimeGoes } from './phases.js'
import { type Cell, comparison, type Outcome, summaryOf, type Table } from './report.js'
import { sum } from './statistics.js'

interface Readings {
  pages: Record<Name, string>
  processor: Record<Name, Record<string, Processor>>
}

export async function measureLatency(contest: Contest): Promise<Outcome> {
  let before = await read(contest)
  const ms = await takeTurns(
    contest,
    host => runTrue(host, contest.image),
    async () => {
      before = await read(contest)
    },
  )
  const after = await read(contest)
  const processor = perRun(before, after, contest.runs)
  const span = (name: Name) => [{ before: before.pages[name], after: after.pages[name] }]
  const spans: Spans = { purser: span('purser'), containerd: span('containerd') }
  const phases = whereTimeGoes(spans, contest.runs, 'run')
  return {
    tables: [
      comparison('Start latency: ctr run --rm IMAGE id true, one at a time, in ms', ms),
      processorTable(processor),
      ...phases,
    ],
    data: { ms, summary: summaryOf(ms), processorMsPerRun: processor, phases },
  }
}

async function read({ hosts }: Contest): Promise<Readings> {
  const processor = {
    purser: processorByPart(hosts.purser),
    containerd: processorByPart(hosts.containerd),
  }
  const pages = { purser: await hosts.purser.metrics(), containerd: await hosts.containerd.metrics() }
  return { pages, processor }
}

function perRun(before: Readings, after: Readings, runs: number): Readings['processor'] {
  const result: Readings['processor'] = { purser: {}, containerd: {} }
  for (const name of names) {
    for (const [part, { own, children }] of Object.entries(after.processor[name])) {
      const since = before.processor[name][part] ?? { own: 0, children: 0 }
      result[name][part] = { own: (own - since.own) / runs, children: (children - since.children) / runs }
    }
  }
  return result
}

function processorTable(processor: Readings['processor']): Table {
  const rows = names.flatMap(name => {
    const parts = Object.entries(processor[name])
    const row = (title: string, of: Processor[]): Cell[] => {
      const [own, children] = [sum(of.map(each => each.own)), sum(of.map(each => each.children))]
      return [title, own, children, own + children]
    }
    const own = parts.map(([part, of]) => row(part, [of]))
    return parts.length === 1 ? own : [...own, row(`${name} in all`, Object.values(processor[name]))]
  })
  return {
    title: 'Processor time of the daemons for one such run, in ms',
    head: ['', 'own', 'children', 'both'],
    rows,
    note: 'Children: programs that a daemon started and saw end. Shims and what they start are in no row.',
  }
}
